"""Pins tables of the lake for reading: all of a query's tables at one moment of the catalog, without writing anything.

Used by `sql`. Catalogs in a database are read directly, all tables in one statement: a query then sees every table as
of one instant; and with the default one (SQLite) the command line starts without SQLAlchemy. Other catalogs go through
pyiceberg, table by table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar

from pyiceberg.exceptions import NoSuchTableError, RESTError
from pyiceberg.table import StaticTable, Table

from eagleray.cluster.config import Config
from eagleray.cluster.errors import QueryFailed
from eagleray.cluster.lake.damage import metadata_of
from eagleray.cluster.lake.glance import Glance, glance_at, glance_over
from eagleray.cluster.lake.place import Place, check_missing, check_place, check_restored
from eagleray.cluster.lake.scan import Pinned
from eagleray.cluster.machine_errors import advice

Found = TypeVar("Found")
_SQLITE = "sqlite:///"
_NAME = "eagleray"  # = cluster.lake.catalog.NAME, which would import SQLAlchemy
_BUSY_TIMEOUT_S = 30.0
_ATTEMPTS = (
    3  # a metadata file may be cleaned up between reading its name and opening it: five commits later at the earliest
)


Instant = Mapping[str, int | None]
"""The snapshot of every table at one moment; None: nothing was committed to it yet."""


class Snapshots(Protocol):
    """The lake as readers see it. `stream.table@name` is the table at a snapshot's id, a branch or a tag."""

    def names(self) -> list[str]:
        """Every table as `stream.table`, sorted; raises OSError where the catalog cannot be read.

        ConfigError where it is a copy, was moved, or lost the tables that are here (`cluster.lake.place`).
        """
        ...

    def pin(self, names: Iterable[str], at: Instant | None = None) -> dict[str, Pinned]:
        """These tables at their present snapshots, or as they were `at`; one that is not there is absent.

        Raises OSError as `names` does, QueryFailed where a snapshot of `at` is kept no longer.
        """
        ...

    def glance(self) -> dict[str, Glance]:
        """All tables by name, with what is known without their files. Raises OSError as `names` does."""
        ...


def open_snapshots(config: Config) -> Snapshots:
    """The reading side of the lake that `config` names; a lake that does not exist yet has no tables."""
    check_restored(config.data_dir)
    catalog = config.lake.catalog
    if catalog.type != "sql":
        return _CatalogSnapshots(config)
    if config.catalog_uri.startswith(_SQLITE):
        file = Path(config.catalog_uri.removeprefix(_SQLITE)).absolute()
        if "://" in config.warehouse:
            return _DatabaseSnapshots(_SqliteTables(file, None), _file_properties(config))
        return _DatabaseSnapshots(_SqliteTables(file, Place(file, Path(config.warehouse))), {})
    from eagleray.cluster.lake.catalog import is_postgres

    if not is_postgres(config):
        return _CatalogSnapshots(config)
    return _DatabaseSnapshots(_PostgresTables(config.catalog_uri), _file_properties(config))


def _file_properties(config: Config) -> dict[str, str]:
    from eagleray.cluster.lake.catalog import file_properties

    return file_properties(config)


class _DatabaseSnapshots:
    """pyiceberg's SQL catalog, read without it."""

    def __init__(self, locations: Callable[[], dict[str, str]], properties: Mapping[str, str]) -> None:
        """`locations`: where each table's metadata is, of all tables at one instant; raises OSError."""
        self._locations = locations
        self._properties = dict(properties)
        self._glances: dict[str, Glance] = {}  # by metadata location: a file there never changes

    def names(self) -> list[str]:
        return sorted(self._locations())

    def pin(self, names: Iterable[str], at: Instant | None = None) -> dict[str, Pinned]:
        wanted = list(names)

        def found(locations: Mapping[str, str]) -> dict[str, Pinned]:
            there = {_table(name) for name in wanted} & locations.keys()
            return _pinned(wanted, {table: _opened(table, locations[table], self._properties) for table in there}, at)

        return self._with_locations(found)

    def glance(self) -> dict[str, Glance]:
        def found(locations: Mapping[str, str]) -> dict[str, Glance]:
            known = {table: self._glances.get(location) for table, location in locations.items()}
            seen = {table: one or glance_at(locations[table], self._properties) for table, one in known.items()}
            self._glances = {locations[table]: one for table, one in seen.items()}
            return dict(sorted(seen.items()))

        return self._with_locations(found)

    def _with_locations(self, read: Callable[[Mapping[str, str]], Found]) -> Found:
        for _ in range(_ATTEMPTS - 1):
            with suppress(FileNotFoundError):
                return read(self._locations())
        return read(self._locations())


_LOCATIONS = (
    "SELECT table_namespace || '.' || table_name, metadata_location FROM iceberg_tables"
    " WHERE catalog_name = {name} AND coalesce(iceberg_type, 'TABLE') = 'TABLE'"
)


class _SqliteTables:
    """Metadata location by table name, of a catalog in a SQLite file."""

    def __init__(self, file: Path, place: Place | None) -> None:
        self._file = file
        self._place = place

    def __call__(self) -> dict[str, str]:
        if not self._file.exists():
            if self._place:
                check_missing(self._place)
            return {}
        uri = f"{self._file.absolute().as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as connection:
                if self._place:
                    check_place(connection, self._place)
                return dict(connection.execute(_LOCATIONS.format(name="?"), [_NAME]))
        except sqlite3.DatabaseError as error:
            if "no such table" in str(error):  # made by the first table
                return {}
            what = advice(error, self._file) or "restore the file from a backup"
            raise OSError(f"the catalog {self._file} cannot be read: {error}; {what}") from error


class _PostgresTables:
    """Metadata location by table name, of a catalog in a Postgres."""

    def __init__(self, uri: str) -> None:
        from eagleray.cluster.database import close_with, open_postgres

        self._engine = open_postgres(uri)
        close_with(self, self._engine)

    def __call__(self) -> dict[str, str]:
        from sqlalchemy import text
        from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

        try:
            with self._engine.connect() as connection:
                found = connection.execute(text(_LOCATIONS.format(name=":name")), {"name": _NAME})
                return {row[0]: row[1] for row in found}
        except ProgrammingError as error:
            if "iceberg_tables" in str(error.orig):  # made by the first table
                return {}
            raise OSError(f"the catalog cannot be read: {error.orig}") from error
        except SQLAlchemyError as error:
            raise OSError(f"the catalog cannot be read: {getattr(error, 'orig', None) or error}") from error


class _CatalogSnapshots:
    """Any catalog, through pyiceberg."""

    def __init__(self, config: Config) -> None:
        from eagleray.cluster.lake.catalog import open_catalog

        self._catalog = open_catalog(config)

    def names(self) -> list[str]:
        with _readable():
            namespaces = self._catalog.list_namespaces()
            return sorted(".".join(name) for space in namespaces for name in self._catalog.list_tables(space))

    def glance(self) -> dict[str, Glance]:
        with _readable():
            return {name: glance_over(self._catalog.load_table(name)) for name in self.names()}

    def pin(self, names: Iterable[str], at: Instant | None = None) -> dict[str, Pinned]:
        wanted = list(names)
        found: dict[str, Table] = {}
        for name in {_table(name) for name in wanted}:
            with _readable(), suppress(NoSuchTableError):
                found[name] = self._catalog.load_table(name)
        return _pinned(wanted, found, at)


def _table(name: str) -> str:
    return name.partition("@")[0]


def _opened(table: str, location: str, properties: Mapping[str, str]) -> Table:
    with metadata_of(table, location):
        return StaticTable.from_metadata(location, dict(properties))


def _pinned(names: Iterable[str], tables: Mapping[str, Table], at: Instant | None) -> dict[str, Pinned]:
    """The named tables, each under the name it was asked for; without those that are not there."""
    pinned = {}
    for name in names:
        table, _, ref = name.partition("@")
        if table not in tables or (at is not None and table not in at):
            continue
        there = Pinned(name, tables[table])
        if ref:
            with suppress(ValueError):
                pinned[name] = there.at(int(ref) if ref.isdecimal() else ref)
        else:
            pinned[name] = there if at is None else _as_of(there, at[table])
    return pinned


def _as_of(there: Pinned, snapshot: int | None) -> Pinned:
    if snapshot is None:
        return there.before_all()
    try:
        return there.at(snapshot)
    except ValueError as error:
        raise QueryFailed(f"{error}: it expired while this transaction was open; begin another", "72000") from None


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except RESTError as error:
        raise OSError(f"the catalog cannot be read: {error}") from error
