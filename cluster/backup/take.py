"""`eagleray backup`: copies what belongs together while the platform runs, as of one instant.

The order makes the copy consistent; nothing is stopped for it:

1. Nothing is deleted until the end (`hold`), so that whatever is named below can still be copied, and the log keeps
   the records from the tables' progress on.
2. Saved states, then the jobs' history: what they know of is in the tables, copied next. A run that ended in between
   counts as interrupted and runs again, which leaves a table as it is; the other way about, it would never run again.
3. The catalog, in one transaction: all tables at one instant. Then the files that it names, which never change.
4. The log, after the tables: it then ends at or behind their progress, and has every event that was acked before this
   step began. That is the backup's instant.
5. Keys and the hash seed, which change hardly or never. 6. The manifest: only now is there a backup.

A backup that was killed is continued by the same command: files of the lake that were copied are not copied again.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from eagleray.cluster.backup.hold import nothing_deleted
from eagleray.cluster.backup.manifest import (
    DATA,
    LAKE,
    NAME,
    Entry,
    Manifest,
    copy,
    entry_of,
    free_bytes,
    made_private,
)
from eagleray.cluster.clock import Clock, iso
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.events.seeded_hash import SEED_FILE
from eagleray.cluster.lake.catalog import open_catalog, place_of
from eagleray.cluster.lake.place import Place, local_path, table_locations
from eagleray.cluster.lake.referred import files_at
from eagleray.cluster.log.embedded import META
from eagleray.cluster.log.sqlite_schema import bounds
from eagleray.cluster.log.stream_file import StreamFile
from eagleray.cluster.owner_key import owner_key_file
from eagleray.cluster.sqlite_copy import copy_database

ATTEMPTS_MAX = 5  # at the catalog: a metadata file may go five commits after the catalog named it
RECORDS = "records.db"
_SQLITE = "sqlite:///"
_BUSY_S = 30.0


def take_backup(config: Config, directory: Path, clock: Clock) -> Manifest:
    """Copy everything that belongs to the data of `config` into `directory`, as of now; returns what it holds.

    Raises ConfigError for data that is not on this machine, EaglerayError where `directory` cannot take it.
    """
    place = _checked(config, directory)
    try:
        made_private(directory)
        with nothing_deleted(config.data_dir):
            return _Backup(config, place, directory, clock).take()
    except (OSError, sqlite3.Error) as error:
        raise EaglerayError(f"backup to {directory}: {error}; mend it and run the same command again") from error


def _checked(config: Config, directory: Path) -> Place:
    place = place_of(config)
    if config.log.backend != "embedded" or place is None:
        problem = "only an embedded log and a lake in local files with its catalog in SQLite can be backed up so"
        raise ConfigError(str(config.file), f"{problem}; for others use the tools of their stores")
    if not place.catalog.exists():
        raise EaglerayError(f"there is no catalog {place.catalog}: nothing to back up")
    if (directory / NAME).exists():
        raise EaglerayError(f"{directory} holds a complete backup; name another directory")
    target = directory.resolve()
    if target.is_relative_to(config.data_dir) or target.is_relative_to(place.warehouse.resolve()):
        raise ConfigError("backup", f"{directory} is within what is backed up; name a directory elsewhere")
    open_catalog(config)  # refuses a copy, and whatever else is wrong with it
    return place


class _Backup:
    def __init__(self, config: Config, place: Place, directory: Path, clock: Clock) -> None:
        self._config = config
        self._place = place
        self._data, self._lake = directory / DATA, directory / LAKE
        self._directory = directory
        self._clock = clock
        self._files: dict[str, Entry] = {}
        self._left_out: list[str] = []

    def take(self) -> Manifest:
        # 2. states and history
        self._copy_states()
        self._copy_history()
        # 3. the tables
        tables, data = self._copy_catalog()
        self._check_space(data)
        for location in data:
            self._copy_lake(location)
        # 4. the log
        instant = iso(self._clock.now_us())
        streams = self._copy_log()
        # 5. keys and the seed
        self._copy_keys()
        # 6. complete
        self._tidy()
        config = self._config
        manifest = Manifest(
            instant,
            version("eagleray"),
            str(config.data_dir),
            config.warehouse,
            tables,
            streams,
            self._files,
            tuple(self._left_out),
        )
        manifest.write(self._directory)
        return manifest

    def _copy_states(self) -> None:
        for file in sorted(self._config.state_dir.rglob("*")):
            try:
                if file.is_file() and file.suffix not in (".making", ".tmp"):
                    self._copy(file, self._data / "state" / file.relative_to(self._config.state_dir))
            except FileNotFoundError:  # replaced by a newer one meanwhile; a state that is not whole is made anew
                continue

    def _copy_history(self) -> None:
        url = self._config.jobs_history
        if not url.startswith(_SQLITE):
            self._left_out.append("the jobs' history, which is in another database")
        elif (file := Path(url.removeprefix(_SQLITE))).exists():
            self._copy_database(file, self._data / "jobs.db")

    def _copy_catalog(self) -> tuple[dict[str, int | None], list[str]]:
        """Catalog and metadata; returns each table's snapshot, and the data files that are to be copied."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            copied = self._data / "catalog.db"
            self._copy_database(self._place.catalog, copied)
            try:
                return self._copy_metadata(copied)
            except FileNotFoundError:
                if attempt == ATTEMPTS_MAX:
                    raise
        raise AssertionError("unreachable")

    def _copy_metadata(self, catalog: Path) -> tuple[dict[str, int | None], list[str]]:
        with closing(sqlite3.connect(catalog)) as connection:
            named = table_locations(connection)
        # First all of these, which may go with the next commits, and read from their copies; the others stay (rule 1).
        copies = {name: self._copy_lake(location) for name, location in named.items()}
        found = {name: files_at(str(copies[name] or location)) for name, location in named.items()}
        for table in found.values():
            for location in table.describing:
                self._copy_lake(location)
        data = [location for table in found.values() for location in table.data]
        return {name: table.snapshot_id for name, table in found.items()}, data

    def _copy_lake(self, location: str) -> Path | None:
        """Copy one file of the lake, unless that was done, and return the copy; None: it is not in the warehouse."""
        path = local_path(location)
        if path is None or not path.is_relative_to(self._place.warehouse):
            self._left_out.append(f"{location}, which is not in the warehouse")
            return None
        relative = path.relative_to(self._place.warehouse)
        target = self._lake / relative
        name = str(Path(LAKE) / relative)
        if name in self._files:
            return target
        if target.exists() and target.stat().st_size == path.stat().st_size:
            self._files[name] = entry_of(target)  # copied by an earlier attempt; files of the lake never change
        else:
            self._files[name] = copy(path, target)
        return target

    def _check_space(self, data: list[str]) -> None:
        there = (self._lake / Path(one).relative_to(self._place.warehouse) for one in data if self._ours(one))
        missing = [target for target in there if not target.exists()]
        sizes = (self._place.warehouse / target.relative_to(self._lake) for target in missing)
        needed = sum(path.stat().st_size for path in sizes)
        needed += sum(file.stat().st_size for file in self._config.log_dir.rglob(f"{RECORDS}*"))
        if needed > (free := free_bytes(self._directory)):
            problem = f"{needed / 2**20:,.0f} MiB are needed, {free / 2**20:,.0f} MiB are free"
            raise EaglerayError(f"backup to {self._directory}: {problem}; free some space and run it again")

    def _ours(self, location: str) -> bool:
        path = local_path(location)
        return path is not None and path.is_relative_to(self._place.warehouse)

    def _copy_log(self) -> dict[str, dict[str, int]]:
        log = self._config.log_dir
        if (log / META).exists():
            self._copy(log / META, self._data / "log" / META)
        streams: dict[str, dict[str, int]] = {}
        for file in sorted(log.glob(f"*/{RECORDS}")):
            stream = file.parent.name
            target = self._data / "log" / stream / RECORDS
            source = StreamFile(file, f"log {stream}", self._clock, self._config.log.append_timeout_s)
            try:
                source.copy_to(target)
            finally:
                source.close()
            self._note(target)
            streams[stream] = self._ends(target)
        return streams

    def _ends(self, copied: Path) -> dict[str, int]:
        with closing(sqlite3.connect(f"{copied.absolute().as_uri()}?immutable=1", uri=True)) as connection:
            return {f"p{n}": bounds(connection, n).end for n in range(self._config.log.partitions)}

    def _copy_keys(self) -> None:
        config = self._config
        if config.keys_file.exists():
            self._copy_database(config.keys_file, self._data / "keys.db")
        if config.state.backend == "shared":
            self._left_out.append("the seed of hashes and API keys, which are in the state's database")
        for file in (owner_key_file(config.data_dir), config.data_dir / SEED_FILE):
            if file.exists():
                self._copy(file, self._data / file.name)

    def _tidy(self) -> None:
        """Remove what an earlier attempt copied and this one does not need."""
        for file in self._directory.rglob("*"):
            if file.is_file() and str(file.relative_to(self._directory)) not in self._files:
                file.unlink()

    def _copy_database(self, source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source, timeout=_BUSY_S)) as connection:
            copy_database(connection, target)
        self._note(target)

    def _copy(self, source: Path, target: Path) -> None:
        self._files[str(target.relative_to(self._directory))] = copy(source, target)

    def _note(self, target: Path) -> None:
        self._files[str(target.relative_to(self._directory))] = entry_of(target)
