"""A rendered answer on its way out: how it begins in memory, the rest in a file until somebody has read it.

Written by `sql.child`, kept and read by `sql.worker`. Promise: an answer that nobody reads costs a bounded piece of
disk for a bounded time, and no memory; the file has no name from the moment that the worker has it, so whatever
happens to the worker leaves nothing behind.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO

from eagleray.cluster.errors import EaglerayError, Overloaded, QueryFailed

MIB = 1 << 20
PIECE_BYTES = 256 << 10  # handed out at once; most answers are smaller, and never become a file
ANSWER_BYTES_MAX = 256 * MIB
KEPT_BYTES_MAX = 1024 * MIB  # of all answers that wait to be read
KEPT_S = 60.0  # after which an answer that nobody asks for is gone
DISK_KEPT_BYTES = 1024 * MIB  # left free for the event log, which may be on the same disk


def room(directory: Path) -> int:
    """Bytes that queries may write to the disk of `directory`: what is free there beyond DISK_KEPT_BYTES."""
    return max(0, shutil.disk_usage(directory).free - DISK_KEPT_BYTES)


@dataclass(frozen=True)
class Rendered:
    """A whole answer: `size` bytes, of which `first` begin it and the file `rest` holds the others."""

    size: int
    first: bytes
    rest: Path | None


@dataclass(frozen=True)
class Reply:
    """What a query came to. `spent`: its process holds on to so much memory that another should take its place."""

    result: Rendered | EaglerayError
    spent: bool


class Spool(io.RawIOBase):
    """A sink of bounded size."""

    def __init__(self, directory: Path, bytes_max: int = ANSWER_BYTES_MAX) -> None:
        """`directory` takes what is beyond the first piece."""
        self._directory = directory
        self._bytes_max = bytes_max
        self._first = bytearray()
        self._file: IO[bytes] | None = None
        self._size = 0

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Take all of `data`; raises QueryFailed where the answer becomes too large, or the disk has no room."""
        view = memoryview(data).cast("B")
        self._size += len(view)
        if self._size > self._bytes_max:
            raise QueryFailed(
                f"the result has more than {self._bytes_max // MIB} MiB as sent; aggregate, or add a LIMIT"
            )
        free = PIECE_BYTES - len(self._first)
        self._first += view[:free]
        if len(view) > free:
            try:
                self._rest().write(view[free:])
            except OSError as error:
                raise QueryFailed(f"no room on disk for the result: {error.strerror}") from error
        return len(view)

    def _rest(self) -> IO[bytes]:
        if self._file is None:
            if room(self._directory) < self._bytes_max:
                raise OSError(28, f"less than {(DISK_KEPT_BYTES + self._bytes_max) // MIB} MiB are free")
            self._file = tempfile.NamedTemporaryFile(prefix="answer-", dir=self._directory, delete=False)
        return self._file

    def done(self) -> Rendered:
        """The answer, complete."""
        if self._file is None:
            return Rendered(self._size, bytes(self._first), None)
        self._file.close()
        return Rendered(self._size, bytes(self._first), Path(self._file.name))

    def discard(self) -> None:
        """Delete what was written."""
        if self._file is not None:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)


class _Kept:
    def __init__(self, file: int, size: int, asked_at: float) -> None:
        self.file, self.size, self.asked_at = file, size, asked_at


class Answers:
    """What was rendered and is not read yet, by number. Threads may share it."""

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX, clock: Callable[[], float] = monotonic) -> None:
        """Nothing is kept yet. `clock` counts seconds."""
        self._bytes_max = bytes_max
        self._clock = clock
        self._kept: dict[int, _Kept] = {}
        self._next = 0
        self._mutex = threading.Lock()

    def keep(self, rest: Path, size: int) -> int:
        """Take over the file of an answer of `size` bytes; returns its number.

        Raises Overloaded where too much waits already.
        """
        file = os.open(rest, os.O_RDONLY | os.O_CLOEXEC)
        rest.unlink()
        with self._mutex:
            self._expire()
            if sum(kept.size for kept in self._kept.values()) + size > self._bytes_max:
                os.close(file)
                raise Overloaded("the size of all answers that wait to be read", retry_after_s=5)
            self._next += 1
            self._kept[self._next] = _Kept(file, size, self._clock())
            return self._next

    def read(self, number: int, at: int) -> bytes:
        """A piece of an answer from byte `at` of the whole on; raises QueryFailed where it is kept no longer."""
        with self._mutex:
            self._expire()
            kept = self._kept.get(number)
            if kept is None:
                raise QueryFailed(f"the answer was not read for {KEPT_S:g} s and is kept no longer; ask again")
            kept.asked_at = self._clock()
            return os.pread(kept.file, PIECE_BYTES, at - PIECE_BYTES)

    def drop(self, number: int) -> None:
        """Forget an answer that nobody will ask for."""
        with self._mutex:
            self._forget(number)

    def close(self) -> None:
        """Forget all."""
        with self._mutex:
            for number in list(self._kept):
                self._forget(number)

    def _expire(self) -> None:
        silent = self._clock() - KEPT_S
        for number in [number for number, kept in self._kept.items() if kept.asked_at < silent]:
            self._forget(number)

    def _forget(self, number: int) -> None:
        if kept := self._kept.pop(number, None):
            os.close(kept.file)
