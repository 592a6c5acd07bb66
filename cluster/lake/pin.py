"""Pins tables of the lake for reading: all of a query's tables at one moment of the catalog, without writing anything.

Used by `sql`. The default catalog (SQLite) is read directly, all tables in one transaction: a query then sees
every table as of one instant, and the command line starts without SQLAlchemy. Other catalogs go through pyiceberg,
table by table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from pyiceberg.exceptions import NoSuchTableError, RESTError
from pyiceberg.table import StaticTable, Table

from eagleray.cluster.config import Config
from eagleray.cluster.lake.scan import Pinned

_SQLITE = "sqlite:///"
_NAME = "eagleray"  # = cluster.lake.catalog.NAME, which would import SQLAlchemy
_BUSY_TIMEOUT_S = 30.0
_ATTEMPTS = (
    3  # a metadata file may be cleaned up between reading its name and opening it: five commits later at the earliest
)


class Snapshots(Protocol):
    """The lake as readers see it. `stream.table@name` is the table at a snapshot's id, a branch or a tag."""

    def names(self) -> list[str]:
        """Every table as `stream.table`, sorted; raises OSError where the catalog cannot be read."""
        ...

    def pin(self, names: Iterable[str]) -> dict[str, Pinned]:
        """These tables at their present snapshots; one that is not there is absent. Raises OSError as `names` does."""
        ...


def open_snapshots(config: Config) -> Snapshots:
    """The reading side of the lake that `config` names; a lake that does not exist yet has no tables."""
    if config.lake.catalog.type == "sql" and config.catalog_uri.startswith(_SQLITE):
        return _SqliteSnapshots(Path(config.catalog_uri.removeprefix(_SQLITE)))
    return _CatalogSnapshots(config)


class _SqliteSnapshots:
    """pyiceberg's SQL catalog on a SQLite file, read without it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def names(self) -> list[str]:
        return sorted(self._locations())

    def pin(self, names: Iterable[str]) -> dict[str, Pinned]:
        wanted = list(names)
        for attempt in range(1, _ATTEMPTS + 1):
            locations = self._locations()
            try:
                found = {table: _open(locations[table]) for table in {_table(n) for n in wanted} & locations.keys()}
                return _pinned(wanted, found)
            except FileNotFoundError:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _locations(self) -> dict[str, str]:
        """Metadata location by table name."""
        if not self._file.exists():
            return {}
        query = (
            "SELECT table_namespace || '.' || table_name, metadata_location FROM iceberg_tables"
            " WHERE catalog_name = ? AND coalesce(iceberg_type, 'TABLE') = 'TABLE'"
        )
        uri = f"{self._file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as connection:
            try:
                return dict(connection.execute(query, [_NAME]))
            except sqlite3.DatabaseError as error:
                if "no such table" in str(error):  # made by the first table
                    return {}
                raise OSError(f"the catalog {self._file} cannot be read: {error}") from error


class _CatalogSnapshots:
    """Any catalog, through pyiceberg."""

    def __init__(self, config: Config) -> None:
        from eagleray.cluster.lake.catalog import open_catalog

        self._catalog = open_catalog(config)

    def names(self) -> list[str]:
        with _readable():
            namespaces = self._catalog.list_namespaces()
            return sorted(".".join(name) for space in namespaces for name in self._catalog.list_tables(space))

    def pin(self, names: Iterable[str]) -> dict[str, Pinned]:
        wanted = list(names)
        found: dict[str, Table] = {}
        for name in {_table(name) for name in wanted}:
            with _readable(), suppress(NoSuchTableError):
                found[name] = self._catalog.load_table(name)
        return _pinned(wanted, found)


def _open(location: str) -> Table:
    return StaticTable.from_metadata(location)


def _table(name: str) -> str:
    return name.partition("@")[0]


def _pinned(names: Iterable[str], tables: Mapping[str, Table]) -> dict[str, Pinned]:
    """The named tables, each under the name it was asked for; without those that are not there."""
    pinned = {}
    for name in names:
        table, _, ref = name.partition("@")
        if table not in tables:
            continue
        with suppress(ValueError):
            there = Pinned(name, tables[table])
            pinned[name] = there.at(int(ref) if ref.isdecimal() else ref) if ref else there
    return pinned


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except RESTError as error:
        raise OSError(f"the catalog cannot be read: {error}") from error
