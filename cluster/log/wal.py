"""Is SQLite's write-ahead log whole? Asked by `stream_file` before the first connection after everyone was gone.

After a crash SQLite reads its write-ahead log up to the first frame whose checksum fails and forgets the rest, as it
must with a torn last transaction. A damaged frame in the middle would so take acked records with it in silence. Each
transaction is synced before the next begins: two commits behind a bad frame prove damage, not a torn write.
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

U32 = npt.NDArray[np.uint32]


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
            raise LogCorrupt(f"{path}: the header is damaged; nothing was read or changed")
        frame_bytes = _FRAME + int(head[2])
        bad: int | None = None
        commits = 0  # behind the first bad frame
        for start in range(0, (size - _HEADER) // frame_bytes, _PART):
            raw = file.read(min(_PART, (size - _HEADER) // frame_bytes - start) * frame_bytes)
            frames = np.frombuffer(raw, np.uint8).reshape(-1, frame_bytes)
            fields = np.ascontiguousarray(frames[:, :_FRAME]).view(">u4").astype(np.uint32)
            current = (fields[:, 2] == head[4]) & (fields[:, 3] == head[5])  # else from before the last reset
            if bad is None:
                sums = _after(_summed(frames), *state)
                state = sums[-1]
                good = current & (fields[:, 4:6] == np.array(sums, np.uint32)).all(axis=1)
                if good.all():
                    continue
                first = int(np.argmin(good))
                bad = start + first
                current[:first] = False
            commits += int(np.count_nonzero(current & (fields[:, 1] != 0)))
    if commits >= 2:
        raise LogCorrupt(
            f"{path}: frame {bad} is damaged, and {commits} transactions behind it would be lost; nothing was changed"
        )


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
