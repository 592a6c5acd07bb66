"""The ids in memory, once more on disk: rows in the order in which they came, appended by each save. Used by `dedup`.

A journal lives as long as its table; when the table becomes a run, the journal goes. Only as many rows count as the
manifest says: what a killed process wrote beyond is ignored.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from eagleray.cluster.log.dedup.hash_table import Ids
from eagleray.cluster.log.dedup.run import RunInvalid

_ROW_BYTES = 32
_PART_ROWS = 1 << 15


@dataclass(frozen=True)
class JournalMark:
    """How much of which journal is valid."""

    name: str
    rows: int
    checksum: int

    @property
    def size(self) -> int:
        """Bytes that are valid."""
        return self.rows * _ROW_BYTES


class IdJournal:
    """A journal being written."""

    def __init__(self, path: Path) -> None:
        """Create the file; raises OSError."""
        self.path = path
        self.rows = 0
        self._digest = xxhash.xxh3_64()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._close = weakref.finalize(self, os.close, self._fd)

    @property
    def mark(self) -> JournalMark:
        """What is valid now."""
        return JournalMark(self.path.name, self.rows, self._digest.intdigest())

    def append(self, ids: Ids) -> None:
        """Write more rows, durably; raises OSError, and then the next call writes to the same place."""
        digest, rows = self._digest.copy(), self.rows
        for start in range(0, len(ids.hi), _PART_ROWS):
            part = ids.take(slice(start, start + _PART_ROWS))
            data = np.column_stack([column.view(np.uint64) for column in part]).tobytes()
            digest.update(data)
            if os.pwrite(self._fd, data, rows * _ROW_BYTES) != len(data):
                raise OSError(f"{self.path}: written in part")
            rows += len(part.hi)
        os.fdatasync(self._fd)
        self._digest, self.rows = digest, rows

    def close(self) -> None:
        """Close the file."""
        self._close()


def read_journal(path: Path, mark: JournalMark) -> Ids:
    """The valid rows of the file at `path`; raises RunInvalid, OSError."""
    with path.open("rb") as file:
        data = file.read(mark.rows * _ROW_BYTES)
    if len(data) != mark.rows * _ROW_BYTES or xxhash.xxh3_64_intdigest(data) != mark.checksum:
        raise RunInvalid(f"{path}: cut short or altered")
    rows = np.frombuffer(data, np.uint64).reshape(-1, 4)
    hi, lo, time, offset = (np.ascontiguousarray(rows[:, column]) for column in range(4))
    return Ids(hi, lo, time.view(np.int64), offset.view(np.int64))
