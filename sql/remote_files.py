"""Lets DuckDB read the planned files of an object store itself: columns and row groups by range requests.

Used by `sql.tables`. DuckDB asks for a file by its URI and reads ranges of it; they come through the lake's own access
and its copies on disk (`ScanPlan.open`). Only files that were planned can be opened.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from threading import get_ident
from typing import Any

import duckdb
from fsspec import AbstractFileSystem

from eagleray.cluster.lake.range_file import RangeFile
from eagleray.cluster.lake.scan import ScanPlan

_WRITTEN = datetime(1970, 1, 1, tzinfo=UTC)  # files never change


_numbers = itertools.count()


class RemoteFiles(AbstractFileSystem):  # type: ignore[misc]
    """The files of a plan as a file system for one DuckDB."""

    def __init__(self, scheme: str, plan: ScanPlan) -> None:
        """For names `scheme://…`, as `sources` makes them."""
        super().__init__(skip_instance_cache=True)
        self.protocol = scheme
        self._plan = plan

    def open(self, path: str, mode: str = "rb", **_: Any) -> _Handle:
        """A planned file; raises FileNotFoundError for any other."""
        if mode != "rb" or not self.exists(path):
            raise FileNotFoundError(f"{path} is not a planned file")
        return _Handle(self._plan.open(original(path)))

    def glob(self, path: str, **_: Any) -> list[str]:
        """The path itself, whatever signs are in it."""
        return [path]

    def exists(self, path: str, **_: Any) -> bool:
        """Whether the file is planned."""
        return self._plan.has(original(path))

    def size(self, path: _Handle | str) -> int:
        """Bytes of a file; DuckDB asks by what `open` returned."""
        return path.size if isinstance(path, _Handle) else self._plan.size(original(path))

    def modified(self, path: _Handle | str) -> datetime:
        """Always the same."""
        return _WRITTEN


class _Handle:
    """An open file. DuckDB's threads share it, and seek and read in two steps: each thread has its own position."""

    def __init__(self, file: RangeFile) -> None:
        self._file = file
        self.size = file.size
        self._positions: dict[int, int] = {}  # by thread; Python's thread-locals end with each call from DuckDB

    def seek(self, offset: int, whence: int = 0) -> int:
        self._positions[get_ident()] = offset
        return offset

    def tell(self) -> int:
        return self._positions.get(get_ident(), 0)

    def read(self, length: int = -1) -> bytes:
        start = self.tell()
        data = self._file.read(start, self.size if length < 0 else length)
        self._positions[get_ident()] = start + len(data)
        return data

    def close(self) -> None:
        self._file.close()


def sources(connection: duckdb.DuckDBPyConnection, plan: ScanPlan) -> Mapping[str, str]:
    """How `connection` has to name each of the planned files to read it; it can from now on.

    A file of an object store is `r<number>.s3://…` there: a plan has a file system of its own, which goes with the
    connection.
    """
    if not plan.remote:
        return {file: file for file in plan.files}
    number = next(_numbers)
    for scheme in {file.partition("://")[0] for file in plan.files if "://" in file}:
        connection.register_filesystem(RemoteFiles(f"r{number}.{scheme}", plan))
    return {file: f"r{number}.{file}" if "://" in file else file for file in plan.files}


def original(name: str) -> str:
    """The file that `sources` named so."""
    head, dot, rest = name.partition(".")
    return rest if dot and "://" in name and head.removeprefix("r").isdecimal() else name
