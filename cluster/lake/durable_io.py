"""Table files on a local disk that survive a power cut: every file is synced, with its directory, before it is named.

pyiceberg writes without fsync, while the catalog's database syncs each commit. A power cut could then leave a catalog
that names files which are not there, after the log behind them was trimmed. Object stores need none of this.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

from eagleray.cluster.durable import sync_directory

IMPLEMENTATION = "eagleray.cluster.lake.durable_io.DurableFileIO"
"""For pyiceberg's property `py-io-impl`."""


class _SyncedFile:
    """A binary file for writing; `close` returns when it is on disk. Duck-typed as pyiceberg's OutputStream."""

    def __init__(self, path: Path) -> None:
        self._made = _ensure_directory(path.parent)
        self._path = path
        self._file: BinaryIO = path.open("wb", buffering=1 << 20)

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        if self._file.closed:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        for directory in (self._path.parent, *self._made):
            sync_directory(directory)

    def __enter__(self) -> _SyncedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _DurableFile(PyArrowFile):
    """A local file whose `create` returns a synced stream."""

    def create(self, overwrite: bool = False) -> _SyncedFile:
        """Open for writing; raises FileExistsError unless `overwrite`."""
        if not overwrite and self.exists():
            raise FileExistsError(f"Cannot create file, already exists: {self.location}")
        return _SyncedFile(Path(self._path))


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
