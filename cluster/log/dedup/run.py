"""Deduplication ids on disk: immutable files sorted by id, with a filter and an index in memory. Used by `dedup`.

A run is a header and blocks of 64 ids. A lookup reads a block only if the filter (a blocked Bloom filter) lets the id
XX
"""

from __future__ import annotations

import os
import shutil
import struct
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from eagleray.cluster.log.dedup.hash_table import I64, U64, UNSEEN, Ids

BLOCK_ROWS = 64
_BLOCK = np.dtype([("hi", "<u8", 64), ("lo", "<u8", 64), ("time", "<i8", 64), ("offset", "<i8", 64)])
_HEADER = struct.Struct("<8sQqqqqQ")  # magic, rows, first offset, end offset, first time, last time, checksum of blocks
_MAGIC = b"EGLIDS01"
_FILTER_BITS = 10  # per id, at least: 1-3 % of unknown ids cost a read
_READ_BLOCKS = 2048  # 4 MiB at a time
_MERGE_ROWS = 1 << 17
_FILL_BLOCKS = 512  # what is computed on the way to the filter stays in the cache
_ODD = np.uint64(0x9E3779B97F4A7C15)


Blocks = npt.NDArray[np.void]  # of _BLOCK


class RunInvalid(Exception):
    """The file is torn, altered, or not a run."""


class Stopped(Exception):
    """A merge was asked to stop."""


def filter_mask(lo: U64) -> U64:
    """The four bits of an id within its filter word."""
    mixed = lo * _ODD
    one, six = np.uint64(1), np.uint64(63)
    mask = one << (mixed >> np.uint64(58))
    for shift in (52, 46, 40):
        mask |= one << ((mixed >> np.uint64(shift)) & six)
    return mask


class _Lookup:
    """Which blocks may hold an id: a filter over all ids, and the first `hi` of each block."""

    def __init__(self, rows: int) -> None:
        bits = max(4, (rows * _FILTER_BITS // 64).bit_length())
        self.words = np.zeros(1 << bits, np.uint64)
        self.shift = np.uint64(64 - bits)
        self.fence = np.empty(-(-rows // BLOCK_ROWS), np.uint64)
        self.blocks = 0

    def add(self, blocks: Blocks) -> None:
        self.fence[self.blocks : self.blocks + len(blocks)] = blocks["hi"][:, 0]
        self.blocks += len(blocks)
        for start in range(0, len(blocks), _FILL_BLOCKS):
            part = blocks[start : start + _FILL_BLOCKS]
            word = (part["hi"].reshape(-1) >> self.shift).view(np.int64)  # sorted, as the ids are
            starts = np.flatnonzero(np.concatenate(([True], word[1:] != word[:-1])))
            self.words[word[starts]] |= np.bitwise_or.reduceat(filter_mask(part["lo"].reshape(-1)), starts)

    def maybe(self, hi: U64, mask: U64) -> I64:
        words = self.words.take((hi >> self.shift).view(np.int64))
        words &= mask
        return np.flatnonzero(words == mask)

    def fold(self) -> None:
        self.words = self.words[0::2] | self.words[1::2]
        self.shift = np.uint64(int(self.shift) + 1)


class _Header(NamedTuple):
    magic: bytes
    rows: int
    first: int
    end: int
    first_us: int
    last_us: int
    checksum: int


class IdRun:
    """An open run: ids of records in [`first`, `end`), stored at times in [`first_us`, `last_us`]."""

    def __init__(self, path: Path, header: _Header, fd: int, lookup: _Lookup) -> None:
        """Use `open_run`, `write_run` or `merge_runs`."""
        _, self.rows, self.first, self.end, self.first_us, self.last_us, _ = header
        self.path = path
        self._fd = fd
        self._lookup = lookup
        self._blocks = len(lookup.fence)
        self._close = weakref.finalize(self, os.close, fd)

    @property
    def memory_bytes(self) -> int:
        """Bytes that filter and index take."""
        return self._lookup.words.nbytes + self._lookup.fence.nbytes

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._fd).st_size

    @property
    def can_fold(self) -> bool:
        """Whether the filter has at least two bits per id to give."""
        return bool(self._lookup.words.nbytes * 4 > self.rows and self._lookup.shift < 63)

    def fold(self) -> None:
        """Halve the filter; more unknown ids will cost a read."""
        self._lookup.fold()

    def move(self, path: Path) -> None:
        """Give the file another place; raises OSError."""
        shutil.move(self.path, path)
        self.path = path

    def close(self) -> None:
        """Close the file."""
        self._close()

    def newest(self, hi: U64, lo: U64, mask: U64, times: I64) -> None:
        """Raise `times` to the latest time stored here with each id; `mask` is `filter_mask(lo)`."""
        maybe, fence = self._lookup.maybe(hi, mask), self._lookup.fence
        for start in range(0, len(maybe), _READ_BLOCKS):
            rows = maybe[start : start + _READ_BLOCKS]
            block = np.maximum(np.searchsorted(fence, hi[rows], side="left") - 1, 0)
            while len(rows):
                blocks = self._gather(block)
                same = (blocks["hi"] == hi[rows, None]) & (blocks["lo"] == lo[rows, None])
                hit = np.flatnonzero(same.any(axis=1))
                if len(hit):
                    found = np.where(same[hit], blocks["time"][hit], UNSEEN).max(axis=1)
                    times[rows[hit]] = np.maximum(times[rows[hit]], found)
                block += 1
                more = np.flatnonzero(block < self._blocks)
                more = more[fence[block[more]] <= hi[rows[more]]]
                rows, block = rows[more], block[more]

    def sorted_parts(self, splits: U64) -> Iterator[Ids]:
        """All ids in order, cut after each of `splits`: one more part than splits."""
        block, rest = 0, _columns(np.empty(0, _BLOCK), 0)
        for split in [*splits, None]:
            until = self._blocks if split is None else int(np.searchsorted(self._lookup.fence, split, side="right"))
            read = self._read(block, until) if until > block else np.empty(0, _BLOCK)
            new = _columns(read, min(self.rows - block * BLOCK_ROWS, len(read) * BLOCK_ROWS))  # without the padding
            block = max(block, until)
            held = _concatenate([rest, new])
            cut = len(held.hi) if split is None else int(np.searchsorted(held.hi, split, side="right"))
            yield held.take(slice(0, cut))
            rest = held.take(slice(cut, None))

    def _read(self, start: int, end: int) -> Blocks:
        return _read(self._fd, self.path, start, end)

    def _gather(self, block: I64) -> Blocks:
        # read, not mapped: mapped pages would count as memory of this process without any bound
        raw = np.empty((len(block), _BLOCK.itemsize), np.uint8)
        into, size = raw.reshape(-1).data, _BLOCK.itemsize
        for i, at in enumerate((block * size + _HEADER.size).tolist()):
            if os.preadv(self._fd, [into[i * size : (i + 1) * size]], at) != size:
                raise RunInvalid(f"{self.path}: cut short")
        return raw.view(_BLOCK)[:, 0]


def open_run(path: Path) -> IdRun:
    """Read and check a whole file; raises RunInvalid, OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = os.pread(fd, _HEADER.size, 0)
        if len(raw) < _HEADER.size or raw[:8] != _MAGIC:
            raise RunInvalid(f"{path}: not a run")
        header = _Header(*_HEADER.unpack(raw))
        blocks = -(-header.rows // BLOCK_ROWS)
        if os.fstat(fd).st_size != _HEADER.size + blocks * _BLOCK.itemsize:
            raise RunInvalid(f"{path}: wrong size")
        lookup, digest = _Lookup(header.rows), xxhash.xxh3_64()
        for start in range(0, blocks, _READ_BLOCKS):
            part = _read(fd, path, start, min(start + _READ_BLOCKS, blocks))
            digest.update(part.data)
            lookup.add(part)
        digest.update(raw[:-8])
        if digest.intdigest() != header.checksum:
            raise RunInvalid(f"{path}: checksum mismatch")
    except BaseException:
        os.close(fd)
        raise
    return IdRun(path, header, fd, lookup)


def _read(fd: int, path: Path, start: int, end: int) -> Blocks:
    size = (end - start) * _BLOCK.itemsize
    data = os.pread(fd, size, _HEADER.size + start * _BLOCK.itemsize)
    if len(data) != size:
        raise RunInvalid(f"{path}: cut short")
    return np.frombuffer(data, _BLOCK)


def write_run(path: Path, ids: Ids) -> IdRun:
    """Write `ids` (in the order of `hi`, at least one) and open the run; an OSError leaves nothing behind."""
    return _write(path, len(ids.hi), [ids])


def merge_runs(
    path: Path, runs: Sequence[IdRun], below: int | None = None, stop: threading.Event | None = None
) -> IdRun | None:
    """Write one run with all ids of `runs`, or only those of records under `below`; None if that leaves nothing.

    Takes little memory however large the runs are. Raises OSError, and Stopped after `stop` was set.
    """
    rows = sum(run.rows for run in runs)
    parts = max(1, rows // _MERGE_ROWS)
    splits = np.array([(1 << 64) * part // parts for part in range(1, parts)], np.uint64)
    if below is not None:
        kept = [int((ids.offset < below).sum()) for run in runs for ids in run.sorted_parts(splits)]
        rows = sum(kept)
    return _write(path, rows, _merged([run.sorted_parts(splits) for run in runs], below, stop)) if rows else None


def _merged(sources: Sequence[Iterator[Ids]], below: int | None, stop: threading.Event | None) -> Iterator[Ids]:
    for parts in zip(*sources, strict=True):
        if stop is not None and stop.is_set():
            raise Stopped
        ids = _concatenate(parts)
        if below is not None:
            ids = ids.take(ids.offset < below)
        yield ids.take(np.argsort(ids.hi, kind="stable"))  # cheap: the parts are sorted


def _write(path: Path, rows: int, parts: Iterable[Ids]) -> IdRun:
    making = path.with_suffix(".making")
    lookup, digest, tail = _Lookup(rows), xxhash.xxh3_64(), _columns(np.empty(0, _BLOCK), 0)
    bounds: list[tuple[int, int, int, int]] = []
    fd = os.open(making, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(bytes(_HEADER.size))
            for part in parts:
                bounds += _bounds(part)
                held = _concatenate([tail, part])
                whole = len(held.hi) // BLOCK_ROWS * BLOCK_ROWS
                _put(file, digest, lookup, held.take(slice(0, whole)))
                tail = held.take(slice(whole, None))
            _put(file, digest, lookup, _padded(tail))
            low, high = np.min(bounds, axis=0), np.max(bounds, axis=0)
            header = _Header(_MAGIC, rows, int(low[0]), int(high[1]) + 1, int(low[2]), int(high[3]), 0)
            raw = _HEADER.pack(*header)[:-8]
            digest.update(raw)
            file.seek(0)
            file.write(raw + digest.intdigest().to_bytes(8, "little"))
        os.fsync(fd)
        making.rename(path)
    except BaseException:
        os.close(fd)
        making.unlink(missing_ok=True)
        raise
    return IdRun(path, header, fd, lookup)


def _bounds(ids: Ids) -> list[tuple[int, int, int, int]]:
    if not len(ids.hi):
        return []
    return [(int(ids.offset.min()), int(ids.offset.max()), int(ids.time.min()), int(ids.time.max()))]


def _put(file: BinaryIO, digest: xxhash.xxh3_64, lookup: _Lookup, ids: Ids) -> None:
    blocks = np.empty(len(ids.hi) // BLOCK_ROWS, _BLOCK)
    for name, column in zip(Ids._fields, ids, strict=True):
        blocks[name] = column.reshape(-1, BLOCK_ROWS)
    digest.update(blocks.data)
    lookup.add(blocks)
    file.write(blocks.data)


def _padded(ids: Ids) -> Ids:
    missing = -len(ids.hi) % BLOCK_ROWS
    top = np.full(missing, np.iinfo(np.uint64).max, np.uint64)
    never = np.full(missing, UNSEEN, np.int64)
    return _concatenate([ids, Ids(top, top, never, never)])


def _columns(blocks: Blocks, rows: int) -> Ids:
    return Ids(*(blocks[name].reshape(-1)[:rows] for name in Ids._fields))


def _concatenate(parts: Sequence[Ids]) -> Ids:
    if len(parts) == 1:
        return parts[0]
    return Ids(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
