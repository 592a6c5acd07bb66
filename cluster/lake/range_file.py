"""Opens a data file of a plan for reading in ranges, wherever the warehouse is. Used by `cluster.lake.scan`."""

from __future__ import annotations

import io
from threading import Lock
from typing import Any, Protocol, cast

from pyiceberg.io import FileIO


class RangeFile(Protocol):
    """A file of the lake. Threads may share one; close it."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end; raises OSError."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def open_file(files: FileIO, path: str, size: int) -> RangeFile:
    """The file at `path`, which has `size` bytes; raises OSError."""
    found: Any = files.new_input(path)
    if hasattr(found, "ranges"):  # of `s3_file_io`, which keeps copies
        return cast(RangeFile, found.ranges(size))
    return _Stream(found.open(), size)


class _Stream:
    """Any stream of pyiceberg's, one reader at a time."""

    def __init__(self, stream: Any, size: int) -> None:

        self._stream = stream
        self._lock = Lock()
        self.size = size

    def read(self, start: int, length: int) -> bytes:
        with self._lock:
            self._stream.seek(start, io.SEEK_SET)
            return bytes(self._stream.read(max(0, min(length, self.size - start))))

    def close(self) -> None:
        self._stream.close()


class FileStream(io.RawIOBase):
    """A file of the lake as a seekable binary stream."""

    def __init__(self, file: RangeFile) -> None:
        """Closes `file` with itself."""
        super().__init__()
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` from the start, from here or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Where it stands."""
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, all that are left where it is negative or None."""
        left = self._file.size - self._at
        data = self._file.read(self._at, left if size is None or size < 0 else size)
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        """All that is left."""
        return self.read()

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`; returns how many bytes there were."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let go of the file."""
        if not self.closed:
            self._file.close()
        super().close()
