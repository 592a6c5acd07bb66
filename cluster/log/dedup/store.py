"""The directory where a deduplicator keeps its runs: names, the manifest, ownership, deletion. Used by `dedup`.

A manifest names the valid files and is replaced in one step; a file it does not name does not count. Whoever takes the
directory over writes itself into the manifest: a former owner that wakes up again finds out before it changes anything.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from eagleray.cluster.log.dedup.journal import IdJournal, JournalMark
from eagleray.cluster.log.dedup.run import IdRun
from eagleray.cluster.log.file_lock import FileLock

MANIFEST = "manifest.json"
LOCK_TIMEOUT_S = 5.0
_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What a directory holds: ids of all records below `complete`. Exact for restores to an offset from `floor` on."""

    owner: str
    complete: int = 0
    floor: int = 0
    runs: list[str] = field(default_factory=list)  # oldest first
    journal: JournalMark | None = None  # newer than all runs
    version: int = _VERSION


class IdStore:
    """A directory of runs, shared (`take_over`) or private to this process (`private`)."""

    def __init__(self, directory: Path, manifest: Manifest | None) -> None:
        """Use `take_over` or `private`."""
        self.directory = directory
        self.manifest = manifest  # None: private
        self._garbage: list[IdRun | IdJournal] = []
        self._owner = manifest.owner if manifest else ""

    @classmethod
    def private(cls) -> IdStore:
        """A directory that goes when this object goes."""
        store = cls(Path(tempfile.mkdtemp(prefix="eagleray-ids-")), None)
        weakref.finalize(store, shutil.rmtree, store.directory, ignore_errors=True)
        return store

    @classmethod
    def take_over(cls, directory: Path) -> IdStore:
        """Become the owner; `manifest` is what the last one left. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory):
            found = _read(directory) or Manifest("")
            manifest = replace(found, owner=secrets.token_hex(8))
            _write(directory, manifest)
        return cls(directory, manifest)

    def path(self, first: int, end: int) -> Path:
        """A new name for a run with ids of records in [first, end)."""
        return self.directory / f"{first:020d}-{end:020d}-{secrets.token_hex(4)}.ids"

    def journal_path(self, first: int) -> Path:
        """A new name for a journal of ids of records from `first` on."""
        return self.directory / f"{first:020d}-{secrets.token_hex(4)}.journal"

    def discard(self, files: Sequence[IdRun | IdJournal]) -> None:
        """Delete these after the next `publish`, which no longer names them."""
        self._garbage += files

    def publish(self, complete: int, floor: int, runs: Sequence[IdRun], journal: IdJournal | None) -> bool:
        """Make these files the valid ones; False if another one owns the directory now. Raises OSError."""
        if self.manifest is not None:
            names = [run.path.name for run in runs]
            manifest = Manifest(self._owner, complete, floor, names, journal.mark if journal else None)
            with _locked(self.directory):
                found = _read(self.directory)
                if found is not None and found.owner != self._owner:
                    return False
                _write(self.directory, manifest)
            self.manifest = manifest
        garbage, self._garbage = self._garbage, []
        for file in garbage:
            file.close()
            file.path.unlink(missing_ok=True)
        return True

    def sweep(self) -> None:
        """Delete files that the manifest does not name: left by a killed or a former owner."""
        manifest = self.manifest or Manifest("")
        valid = {MANIFEST, ".lock", *manifest.runs, manifest.journal.name if manifest.journal else ""}
        for path in self.directory.iterdir():
            if path.name not in valid:
                with suppress(OSError):
                    path.unlink()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = FileLock(directory / ".lock")
    try:
        if not lock.acquire(LOCK_TIMEOUT_S):
            raise TimeoutError(f"{directory}: locked by another process for {LOCK_TIMEOUT_S:g} s")
        try:
            yield
        finally:
            lock.release()
    finally:
        lock.close()


def _read(directory: Path) -> Manifest | None:
    """The manifest; None if there is none, or none that this version can use."""
    try:
        found = json.loads((directory / MANIFEST).read_text())
        journal = found.pop("journal")
        manifest = Manifest(**found, journal=JournalMark(**journal) if journal else None)
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return manifest if manifest.version == _VERSION else None


def _write(directory: Path, manifest: Manifest) -> None:
    making = directory / f"{MANIFEST}.making"
    making.write_text(json.dumps(asdict(manifest)))
    os.replace(making, directory / MANIFEST)
