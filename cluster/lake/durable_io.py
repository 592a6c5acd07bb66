"""Table files on a local disk that survive a power cut: every file is synced, with its directory, before it is named.

pyiceberg writes without fsync, while the catalog's database syncs each commit. A power cut could then leave a catalog
that names files which are not there, after the log behind them was trimmed. Object stores need none of this.

A data file's name ends in the checksum of its content (`seal`), so that `scrub` finds any bit that changed in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import xxhash
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

from eagleray.cluster.durable import sync_directory

IMPLEMENTATION = "eagleray.cluster.lake.durable_io.DurableFileIO"
"""For pyiceberg's property `py-io-impl`."""


class SyncedFile:
    """A binary file for writing; `close` returns when it is on disk. Duck-typed as pyiceberg's OutputStream."""

    def __init__(self, path: Path) -> None:
        """Open `path`, and make its directories."""
        self._made = _ensure_directory(path.parent)
        self._path = path
        self._digest = xxhash.xxh3_64()
        self._file: BinaryIO = path.open("wb", buffering=1 << 20)

    def write(self, data: bytes) -> int:
        """Append; returns how many bytes."""
        self._digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def flush(self) -> None:
        """Hand what is buffered to the operating system."""
        self._file.flush()

    @property
    def closed(self) -> bool:
        """Whether it was closed or sealed."""
        return self._file.closed

    def seal(self) -> str:
        """Close the file under a name that ends in the checksum of what was written; returns the name."""
        name = f"{self._path.stem}-{self._digest.hexdigest()}{self._path.suffix}"
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path = self._path.rename(self._path.with_name(name))
        self._sync_directories()
        return name

    def close(self) -> None:
        """Return when the file and its name are on disk."""
        if self._file.closed:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._sync_directories()

    def _sync_directories(self) -> None:
        for directory in (self._path.parent, *self._made):
            sync_directory(directory)

    def __enter__(self) -> SyncedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _DurableFile(PyArrowFile):
    """A local file whose `create` returns a synced stream."""

    def create(self, overwrite: bool = False) -> SyncedFile:
        """Open for writing; raises FileExistsError unless `overwrite`."""
        if not overwrite and self.exists():
            raise FileExistsError(f"Cannot create file, already exists: {self.location}")
        return SyncedFile(Path(self._path))


class DurableFileIO(PyArrowFileIO):
    """pyiceberg's file access for local warehouses."""

    def new_output(self, location: str) -> PyArrowFile:
        """A file to be written at `location`, a local path."""
        file = super().new_output(location)
        return _DurableFile(file.location, file._path, file._filesystem)


def _ensure_directory(directory: Path) -> list[Path]:
    """Make `directory`; returns the parents that gained an entry and must be synced too."""
    gained = []
    missing = directory
    while not missing.exists():
        gained.append(missing.parent)
        missing = missing.parent
    directory.mkdir(parents=True, exist_ok=True)
    return gained
