"""`eagleray restore`: puts a backup where a configuration says its data is, here or elsewhere, and checks every file.

1. A mark in the data directory: until the end, every command refuses what is there. 2. Every file, compared with its
checksum. 3. The catalog and metadata name files here (`cluster.lake.relocate`). 4. The mark goes. A restore that was
killed is continued by the same command; nothing that was there before is overwritten but keys of a new project.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from eagleray.cluster.backup.manifest import DATA, LAKE, Entry, Manifest, copy, entry_of, free_bytes, read_manifest
from eagleray.cluster.config import Config
from eagleray.cluster.durable import sync_directory
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.lake.catalog import place_of
from eagleray.cluster.lake.place import RESTORING, Place
from eagleray.cluster.lake.relocate import relocate
from eagleray.cluster.owner_key import make_private
from eagleray.cluster.project_lock import project_lock

_SQLITE = "sqlite:///"
_PARTS = ("", "-wal", "-shm", "-journal")  # of a SQLite database


def check_backup(directory: Path) -> Manifest:
    """Read every file of a backup; returns what it holds. Raises EaglerayError that names what is damaged."""
    manifest = read_manifest(directory)
    for path, entry in manifest.files.items():
        _check(directory / path, entry)
    return manifest


def restore(config: Config, directory: Path) -> Manifest:
    """Put the backup in `directory` where `config` has its data; returns what it holds.

    Raises ConfigError where the configuration does not fit it, EaglerayError where there is data already, or a file of
    the backup is damaged.
    """
    manifest = read_manifest(directory)
    place = place_of(config)
    if config.log.backend != "embedded" or place is None:
        problem = "a backup is restored into an embedded log and a lake in local files with its catalog in SQLite"
        raise ConfigError(str(config.file), f"{problem}; change log and lake to these")
    try:
        make_private(config.data_dir)
        with project_lock(config):
            _Restore(config, place, directory, manifest).run()
    except OSError as error:
        raise EaglerayError(f"restore to {config.data_dir}: {error}; mend it and run the same command again") from error
    return manifest


class _Restore:
    def __init__(self, config: Config, place: Place, directory: Path, manifest: Manifest) -> None:
        self._config = config
        self._place = place
        self._directory = directory
        self._manifest = manifest
        self._mark = config.data_dir / RESTORING

    def run(self) -> None:
        # 1. nobody relies on what is here until the end
        self._begin()
        # 2. all files, checked
        self._check_space()
        for path, entry in self._manifest.files.items():
            self._put(self._directory / path, self._target(path), entry)
        # 3. named as they are here
        relocate(self._place)
        # 4. done
        self._mark.unlink()
        sync_directory(self._config.data_dir)

    def _begin(self) -> None:
        this = {"backup": str(self._directory.resolve()), "instant": self._manifest.instant}
        if self._mark.exists():
            with suppress(ValueError):
                if json.loads(self._mark.read_text()) == this:
                    return
            raise EaglerayError(f"{self._config.data_dir} holds part of another backup; empty it first")
        if there := next(self._data(), None):
            problem = f"{there} is there already, and a restore overwrites no data"
            raise EaglerayError(f"{problem}; move it away, or restore to another data_dir")
        self._mark.write_text(json.dumps(this))
        sync_directory(self._config.data_dir)

    def _data(self) -> Iterator[Path]:
        """Whatever would be overwritten, or mixed with what is restored."""
        for name in (f"{DATA}/log", f"{DATA}/state", f"{DATA}/catalog.db", f"{DATA}/jobs.db", LAKE):
            target = self._target(name)
            if target.is_dir():
                yield from (one for one in target.rglob("*") if one.is_file())
            elif target.exists():
                yield target

    def _target(self, path: str) -> Path:
        """Where a file of the backup belongs."""
        part, _, rest = path.partition("/")
        if part == LAKE:
            return self._place.warehouse / rest
        if rest == "catalog.db":
            return self._place.catalog
        if rest == "jobs.db" and self._config.jobs_history.startswith(_SQLITE):
            return Path(self._config.jobs_history.removeprefix(_SQLITE))
        return self._config.data_dir / rest

    def _check_space(self) -> None:
        needed = sum(e.bytes for path, e in self._manifest.files.items() if not self._target(path).exists())
        if needed > (free := free_bytes(self._place.warehouse)):
            problem = f"{needed / 2**20:,.0f} MiB are needed, {free / 2**20:,.0f} MiB are free"
            raise EaglerayError(f"restore to {self._config.data_dir}: {problem}; free some space and run it again")

    def _put(self, source: Path, target: Path, entry: Entry) -> None:
        if target.exists() and entry_of(target) == entry:
            return  # by an earlier attempt
        if target.suffix == ".db":
            for part in _PARTS:
                target.with_name(target.name + part).unlink(missing_ok=True)
        if not source.is_file():
            raise EaglerayError(f"{source} is missing; use another backup")
        if (found := copy(source, target)) != entry:
            target.unlink()
            raise _damaged(source, entry, found)


def _check(file: Path, entry: Entry) -> None:
    if not file.is_file():
        raise EaglerayError(f"{file} is missing; use another backup")
    if (found := entry_of(file)) != entry:
        raise _damaged(file, entry, found)


def _damaged(file: Path, entry: Entry, found: Entry) -> EaglerayError:
    problem = f"{found.bytes} bytes of {entry.bytes}" if found.bytes != entry.bytes else "its checksum does not match"
    return EaglerayError(f"{file} is damaged ({problem}); use another backup")
