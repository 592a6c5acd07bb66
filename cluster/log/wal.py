"""Is SQLite's write-ahead log whole? Asked by `stream_file` before the first connection after everyone was gone.

After a crash SQLite reads its write-ahead log up to the first frame whose checksum fails and forgets the rest, as it
must with a torn last transaction. A damaged frame in the middle would so take acked records with it in silence.

What proves damage: each transaction is synced before the next begins, and each frame's checksum goes on from that of
the frame before. So where two commits follow one another in an unbroken chain behind a bad frame, the first of them was
on disk. Frames behind a torn transaction prove nothing by themselves: what an earlier torn or refused transaction left
there, under the same salts, stays until it is written over.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eagleray.cluster.errors import LogCorrupt

_HEADER, _FRAME = 32, 24  # bytes, see https://www.sqlite.org/fileformat2.html#walformat
_MAGIC = 0x377F0682  # checksums over little-endian words, as every machine that we run on writes them
_PART = 1024  # frames at a time
_REPAIR = "restore the log from a backup, or move it away and run `eagleray recover`"

U32 = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]


def check_wal(path: Path) -> None:
    """Raise LogCorrupt if committed transactions lie behind a damaged frame; the file must not be in use."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    if size <= _HEADER:
        return
    with path.open("rb") as file:
        head = np.frombuffer(file.read(_HEADER), ">u4").astype(np.uint32)
        if not head.any():
            return  # never written: the machine went down before the first transaction was synced
        words = head[:6].astype(">u4").view("<u4").astype(np.uint32)
        state = _after(words[None, :], 0, 0)[0]
        if head[0] != _MAGIC or state != (int(head[6]), int(head[7])):
            raise LogCorrupt(f"{path}: the header is damaged; nothing was read or changed; {_REPAIR}")
        frame_bytes = _FRAME + int(head[2])
        chain = _Chain(state, (int(head[4]), int(head[5])))
        for start in range(0, (size - _HEADER) // frame_bytes, _PART):
            raw = file.read(min(_PART, (size - _HEADER) // frame_bytes - start) * frame_bytes)
            chain.add(np.frombuffer(raw, np.uint8).reshape(-1, frame_bytes))
    if chain.proven >= 2:
        raise LogCorrupt(
            f"{path}: frame {chain.bad} is damaged, and at least {chain.proven} transactions behind it would be lost;"
            f" nothing was changed; {_REPAIR}"
        )


class _Chain:
    """The frames in order: where the first bad one is, and what follows it."""

    def __init__(self, state: tuple[int, int], salts: tuple[int, int]) -> None:
        self.bad: int | None = None
        self.proven = 0  # commits of the longest unbroken chain at or behind the bad frame
        self._salts = salts
        self._state = state  # the checksum so far; at the bad frame, what it would be by its content
        self._count = 0  # frames so far
        self._said = np.zeros((1, 2), np.uint32)  # the checksum that the frame before says it has
        self._commits = 0  # of the chain that goes on

    def add(self, frames: npt.NDArray[np.uint8]) -> None:
        fields = np.ascontiguousarray(frames[:, :_FRAME]).view(">u4").astype(np.uint32)
        current = (fields[:, 2] == self._salts[0]) & (fields[:, 3] == self._salts[1])  # else from before a reset
        said, words = fields[:, 4:6], _summed(frames)
        first = 0
        if self.bad is None:
            sums = _after(words, *self._state)
            good = current & (said == np.array(sums, np.uint32)).all(axis=1)
            first = len(good) if good.all() else int(np.argmin(good))
            self._state = sums[min(first, len(good) - 1)]
        if first < len(frames):
            links = current & (_after_each(words, np.concatenate((self._said, said[:-1]))) == said).all(axis=1)
            behind = first + 1 if self.bad is None else 0 if self.bad == self._count - 1 else len(frames)
            if behind < len(frames):  # the bad frame may be bad in what it says of itself alone
                content = _after_each(words[behind : behind + 1], np.array([self._state], np.uint32))
                links[behind] |= current[behind] and bool((content == said[behind]).all())
            ends = links & (fields[:, 1] != 0)
            if self.bad is None:
                links[first], ends[first] = False, bool(current[first]) and fields[first, 1] != 0
            self._follow(links[first:], ends[first:])
        if self.bad is None and first < len(frames):
            self.bad = self._count + first
        self._count += len(frames)
        self._said = said[-1:]

    def _follow(self, links: Flags, ends: Flags) -> None:
        """Frames from the bad one on: which go on from the frame before, and which end a transaction."""
        chain = np.cumsum(~links)  # 0: the one that goes on
        counts = np.bincount(chain, weights=ends)
        counts[0] += self._commits
        self.proven = max(self.proven, int(counts.max()))
        self._commits = int(counts[-1])


def _summed(frames: npt.NDArray[np.uint8]) -> U32:
    """The words that a frame's checksum covers: page number, size after commit, page."""
    return np.ascontiguousarray(np.concatenate((frames[:, :8], frames[:, _FRAME:]), axis=1)).view(np.uint32)


def _after(words: U32, s0: int, s1: int) -> list[tuple[int, int]]:
    """SQLite's checksum after each row of words, carried on from (s0, s1).

    `s0 += x0 + s1; s1 += x1 + s0` for each pair is linear: a row adds the same combination of its words to a fixed
    transformation of the sum before it, so that rows are summed at once instead of word by word.
    """
    of_words, (a, b, c, d) = _coefficients(words.shape[1] // 2)
    added0 = (words * of_words[0]).sum(axis=1, dtype=np.uint32).tolist()
    added1 = (words * of_words[1]).sum(axis=1, dtype=np.uint32).tolist()
    sums = []
    for add0, add1 in zip(added0, added1, strict=True):
        s0, s1 = (a * s0 + b * s1 + add0) & 0xFFFFFFFF, (c * s0 + d * s1 + add1) & 0xFFFFFFFF
        sums.append((s0, s1))
    return sums


def _after_each(words: U32, before: U32) -> U32:
    """The checksum after each row of words, each carried on from the checksum (s0, s1) in the same row of `before`."""
    of_words, (a, b, c, d) = _coefficients(words.shape[1] // 2)
    s0, s1 = before[:, 0], before[:, 1]
    one = np.uint32(a) * s0 + np.uint32(b) * s1 + (words * of_words[0]).sum(axis=1, dtype=np.uint32)
    two = np.uint32(c) * s0 + np.uint32(d) * s1 + (words * of_words[1]).sum(axis=1, dtype=np.uint32)
    return np.stack((one, two), axis=1)


@lru_cache(maxsize=4)
def _coefficients(pairs: int) -> tuple[U32, tuple[int, int, int, int]]:
    """(weight of each word in s0 and s1, the transformation of the sum before) for rows of `pairs` pairs."""
    weights = np.empty((2, 2 * pairs), np.uint32)
    a, b, c, d = 1, 0, 0, 1  # powers of ((1, 1), (1, 2)), modulo 2**32
    for pair in range(pairs - 1, -1, -1):
        weights[:, 2 * pair] = (a + b) & 0xFFFFFFFF, (c + d) & 0xFFFFFFFF
        weights[:, 2 * pair + 1] = b, d
        a, b, c, d = (v & 0xFFFFFFFF for v in (a + b, a + 2 * b, c + d, c + 2 * d))
    return weights, (a, b, c, d)
