"""Copies of an object store's files on this machine's disk, bounded in bytes. Used by `s3_file_io`.

Files of a lake never change, so a copy stays right. Every process of a machine shares the copies in one directory,
without a lock between readers and writers:

1. A whole file is written beside and renamed, under the name of its location.
2. A file that is read in ranges is `<name>.part`: as large as the file, holes where nothing was read, and behind it one
   byte for each block, set after the block was written. Two processes that miss the same block write the same bytes.
3. Who has a copy open holds a shared flock on it; only copies that nobody has open are deleted to make room, the least
   recently used first. What does not fit is read without being kept.
4. A power cut may keep a block's byte and lose the block: copies are those of one boot of the machine.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock

import xxhash

from eagleray.cluster.file_lock import lock, try_lock

BLOCK = 128 << 10
LOOK_BYTES = 64 << 20  # kept by one process between two looks at all copies: they may pass their bound by so much
_BOOT = Path("/proc/sys/kernel/random/boot_id")

Fetch = Callable[[int, int], bytes]
"""start, length → bytes of the file."""


class FileCache:
    """The copies below `directory`, of at most `bytes_max` bytes. Threads may share one."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        """Copies of earlier boots are deleted."""
        boot = _BOOT.read_text().strip() if _BOOT.exists() else "one"
        self._directory = directory / boot
        self._directory.mkdir(parents=True, exist_ok=True)
        for other in directory.iterdir():
            if other != self._directory:
                shutil.rmtree(other, ignore_errors=True)
        self._bytes_max = bytes_max
        self._lock = Lock()
        self._written = LOOK_BYTES  # the first write looks
        self._full = False

    def whole(self, location: str, fetch: Callable[[], bytes]) -> bytes:
        """A small file as a whole: its copy, or what `fetch` gets, which is kept."""
        file = self._file(location)
        try:
            with file.open("rb") as found:
                os.utime(file)
                return found.read()
        except OSError:
            data = fetch()
            self.keep(location, data)
            return data

    def keep(self, location: str, data: bytes) -> None:
        """Keep a file that was fetched or written as a whole."""
        if not self._room(len(data)):
            return
        file = self._file(location)
        with suppress(OSError):  # a full disk keeps nothing
            descriptor, name = tempfile.mkstemp(prefix=".", dir=self._directory)
            try:
                with os.fdopen(descriptor, "wb") as out:
                    out.write(data)
                Path(name).rename(file)
            except OSError:
                Path(name).unlink()

    def open(self, location: str, size: int, fetch: Fetch) -> Ranges:
        """The file at `location`, of `size` bytes, to be read in ranges; `fetch` gets what is not here."""
        file = self._file(location)
        for name, whole in ((file, True), (file.with_suffix(".part"), False)):
            with suppress(OSError):
                descriptor = os.open(name, os.O_RDWR | (0 if whole else os.O_CREAT), 0o600)
                lock(descriptor, shared=True)
                with suppress(OSError):
                    os.utime(name)
                return Ranges(self, descriptor, size, fetch, whole)
        return Ranges(self, None, size, fetch, False)

    def _file(self, location: str) -> Path:
        return self._directory / xxhash.xxh3_128_hexdigest(location.encode())

    def _room(self, length: int) -> bool:
        """Whether `length` more bytes may be kept; makes room now and then."""
        with self._lock:
            self._written += length
            if self._written >= min(LOOK_BYTES, self._bytes_max // 4):
                self._written = 0
                self._full = not self._make_room()
            return not self._full

    def _make_room(self) -> bool:
        found = []
        for entry in os.scandir(self._directory):
            with suppress(OSError):
                known = entry.stat()
                found.append((known.st_mtime_ns, known.st_blocks * 512, entry.path))
        used = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if used <= self._bytes_max:
                break
            if _deleted(path):
                used -= size
        return used <= self._bytes_max


def _deleted(path: str) -> bool:
    """Delete a copy unless somebody has it open."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return True
    try:
        if not try_lock(descriptor):
            return False
        Path(path).unlink()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


class Ranges:
    """A file that is read in ranges, from its copy and from the store. Threads may share one."""

    def __init__(self, cache: FileCache, descriptor: int | None, size: int, fetch: Fetch, whole: bool) -> None:
        """Use `FileCache.open`."""
        self._cache = cache
        self._descriptor = descriptor
        self.size = size
        self._fetch = fetch
        self._whole = whole
        if descriptor is not None and not whole:
            with suppress(OSError):
                blocks = -(-size // BLOCK)
                if os.fstat(descriptor).st_size < size + blocks:
                    os.ftruncate(descriptor, size + blocks)

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end of the file; raises OSError."""
        length = max(0, min(length, self.size - start))
        if not length:
            return b""
        if self._descriptor is None:
            return self._fetch(start, length)
        if not self._whole:
            first, last = start // BLOCK, (start + length - 1) // BLOCK
            held = os.pread(self._descriptor, last - first + 1, self.size + first)
            missing = [first + index for index, there in enumerate(held.ljust(last - first + 1, b"\0")) if not there]
            for begin, end in _runs(missing):
                if not self._fill(begin, end):
                    return self._fetch(start, length)
        return _read(self._descriptor, start, length)

    def _fill(self, first: int, end: int) -> bool:
        """Get the blocks from `first` up to `end`; False where they cannot be kept."""
        assert self._descriptor is not None
        start = first * BLOCK
        length = min(end * BLOCK, self.size) - start
        if not self._cache._room(length):
            return False
        data = self._fetch(start, length)
        try:
            _write(self._descriptor, data, start)
            _write(self._descriptor, b"\1" * (end - first), self.size + first)
        except OSError:  # the disk is full
            return False
        return True

    def close(self) -> None:
        """Let go of the copy, which may then be deleted."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def __del__(self) -> None:
        """Whoever forgets to close, as DuckDB does, holds the copy no longer than the object."""
        self.close()


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Neighbours as (first, end)."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


def _read(descriptor: int, start: int, length: int) -> bytes:
    data = os.pread(descriptor, length, start)
    while len(data) < length:  # the kernel gives at most 2 GiB at once
        more = os.pread(descriptor, length - len(data), start + len(data))
        if not more:
            raise OSError("a copy of a file in the cache is cut short")
        data += more
    return data


def _write(descriptor: int, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, start)
        view, start = view[done:], start + done
