"""Where a lake is, and whether it still is there: its catalog and its metadata name every file by an absolute path.

A lake that was copied would write into the original, and delete its metadata; one that was moved would find nothing. So
the catalog records the place that it was made for, and whoever opens it elsewhere is refused in one line
(`cluster.lake.catalog` and `cluster.lake.pin` ask). `cluster.lake.relocate` makes it a lake of its own where it is now.

For SQLite catalogs with a local warehouse; other catalogs serve several places by design, and URIs are the same
everywhere. Symbolic links and second mounts of the same directory are the same place.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eagleray.cluster.errors import ConfigError

RESTORING = "restoring.json"
"""In the data directory while `eagleray restore` is not finished: nothing there can be relied on yet."""

_TABLE = "CREATE TABLE IF NOT EXISTS eagleray_place (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
_LOCATIONS = (
    "SELECT table_namespace || '.' || table_name, metadata_location FROM iceberg_tables"
    " WHERE metadata_location IS NOT NULL"
)


@dataclass(frozen=True)
class Place:
    """A catalog's file and the warehouse whose files it names, both absolute."""

    catalog: Path
    warehouse: Path

    def same(self, other: Place) -> bool:
        """Whether both are the same files, whatever they are called."""
        return _same(self.catalog, other.catalog) and _same(self.warehouse, other.warehouse)


def check_place(connection: sqlite3.Connection, here: Place) -> bool:
    """Whether the catalog says that it belongs `here`; False: it says nothing, and nothing speaks against it.

    Raises ConfigError where it belongs elsewhere, or lost what it knew of the tables that are here.
    """
    made = recorded(connection)
    if made is None:
        _check_unmarked(connection, here)
        return False
    if not made.same(here):
        raise refusal(made, here)
    return True


def check_restored(data_dir: Path) -> None:
    """Raise ConfigError where a restore was begun and not finished."""
    if (data_dir / RESTORING).exists():
        raise ConfigError(str(data_dir), "is being restored from a backup; run the same `eagleray restore` to its end")


def check_missing(here: Place) -> None:
    """For a catalog that is not there: raises ConfigError where its tables are."""
    if found := next(_metadata_files(here.warehouse), None):
        raise _lost(here, "is missing", found)


def record(connection: sqlite3.Connection, here: Place) -> None:
    """Write down that the catalog belongs `here`."""
    connection.execute(_TABLE)
    values = [("catalog", str(here.catalog)), ("warehouse", str(here.warehouse))]
    connection.executemany("INSERT OR REPLACE INTO eagleray_place VALUES (?, ?)", values)


def recorded(connection: sqlite3.Connection) -> Place | None:
    """The place that the catalog was made for, or relocated to; None where it was never recorded."""
    if not _has(connection, "eagleray_place"):
        return None
    known = dict(connection.execute("SELECT key, value FROM eagleray_place"))
    return Place(Path(known["catalog"]), Path(known["warehouse"]))


def local_path(location: str) -> Path | None:
    """The path of a local location; None for an object store's."""
    if location.startswith("file:"):
        return Path("/" + location.removeprefix("file:").lstrip("/"))
    return None if "://" in location else Path(location)


def refusal(made: Place, here: Place) -> ConfigError:
    """What to say of a catalog that was `made` for another place."""
    if not _same(made.warehouse, here.warehouse):
        old, new = made.warehouse, here.warehouse
        verb = f"is a copy of the lake in {old}" if old.exists() else f"was moved from {old}"
        problem = f"the lake in {new} {verb}, whose files it still names"
    else:
        old, new = made.catalog, here.catalog
        problem = f"it {'is a copy of' if old.exists() else 'was moved from'} {old}, for the lake in {here.warehouse}"
    return ConfigError(
        f"lake.catalog: {here.catalog}",
        f"{problem}; put it back, or run `eagleray lake relocate` for a lake of its own",
    )


def locations(connection: sqlite3.Connection) -> list[str]:
    """Where the metadata of every table is, as the catalog says."""
    return list(table_locations(connection).values())


def table_locations(connection: sqlite3.Connection) -> dict[str, str]:
    """Where the metadata of every table is, by `namespace.table`."""
    return dict(connection.execute(_LOCATIONS)) if _has(connection, "iceberg_tables") else {}


def _check_unmarked(connection: sqlite3.Connection, here: Place) -> None:
    """A catalog of an earlier version, or of another program, or one that lost everything."""
    known = [path for path in map(local_path, locations(connection)) if path is not None]
    if not known:
        if found := next(_metadata_files(here.warehouse), None):
            raise _lost(here, "is empty", found)
        return
    strangers = [path for path in known if not path.resolve().is_relative_to(here.warehouse.resolve())]
    if len(strangers) == len(known):  # tables of other programs may be anywhere, ours never are
        raise refusal(Place(here.catalog, guessed_warehouse(strangers)), here)


def guessed_warehouse(tables: Iterable[Path]) -> Path:
    """The warehouse in which `tables` (metadata files) are: WAREHOUSE/NAMESPACE/TABLE/metadata/FILE."""
    return Path(os.path.commonpath([path.parents[3] for path in tables]))


def _metadata_files(warehouse: Path) -> Iterator[Path]:
    return iter(warehouse.glob("*/*/metadata/*.metadata.json"))


def _lost(here: Place, what: str, found: Path) -> ConfigError:
    problem = f"the catalog {what}, but the lake has tables, such as {found.parents[1]}"
    advice = "restore the file from a backup (`eagleray restore`), or move the lake away to begin without its tables"
    return ConfigError(f"lake.catalog: {here.catalog}", f"{problem}; {advice}")


def _has(connection: sqlite3.Connection, table: str) -> bool:
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
    return bool(connection.execute(query, [table]).fetchone()[0])


def _same(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False
