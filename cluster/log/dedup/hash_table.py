"""Deduplication ids in memory: an exact hash table in numpy arrays, probed by whole batches. The hot part of `dedup`.

Ids are kept in the order in which they came, in four columns. An index (open addressing, linear probing, at most half
full) finds the latest row of an id: a slot holds the row number and 31 bits of the id, so that an unknown id is told
from its neighbours without a look into the columns. An id that came again after the horizon has several rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

UNSEEN = -(1 << 62)
"""A time before all others: of ids that are not there."""

ROW_BYTES = 48  # 32 in the columns and 16 in the index
_FIRST_ROWS = 1024
_ROW = 0xFFFFFFFF


class Ids(NamedTuple):
    """Rows of (id, ingestion time, record offset), as columns of one length; an id is (hi, lo)."""

    hi: U64
    lo: U64
    time: I64
    offset: I64

    @classmethod
    def empty(cls, rows: int) -> Ids:
        """Room for `rows`, not initialised."""
        hi, lo = np.empty(rows, np.uint64), np.empty(rows, np.uint64)
        return cls(hi, lo, np.empty(rows, np.int64), np.empty(rows, np.int64))

    def take(self, where: Mask | I64 | slice) -> Ids:
        """Some of the rows."""
        return Ids(self.hi[where], self.lo[where], self.time[where], self.offset[where])


class IdTable:
    """Room for `rows_max` ids (a power of two), taken as needed; more only if more are reserved."""

    def __init__(self, rows_max: int) -> None:
        """An empty table."""
        self.rows_max = rows_max
        self.rows = 0
        self._columns = Ids.empty(_FIRST_ROWS)
        self._index = np.zeros(2 * _FIRST_ROWS, np.int64)  # tag << 32 | row + 1; 0: empty; below 0: claimed by a batch

    def clear(self) -> None:
        """Forget everything; the memory is kept for what comes."""
        self.rows = 0
        self._index[:] = 0

    @property
    def ids(self) -> Ids:
        """All rows, oldest first; a view."""
        return self._columns.take(slice(0, self.rows))

    @property
    def memory_bytes(self) -> int:
        """Bytes of columns and index."""
        return sum(column.nbytes for column in self._columns) + self._index.nbytes

    def sorted(self) -> Ids:
        """All rows in the order of `hi`. The index is nearly in this order: sorting from there costs a tenth."""
        rows = self._latest()
        if len(rows) < self.rows:
            older = np.ones(self.rows, np.bool_)
            older[rows] = False
            rows = np.concatenate((rows, np.flatnonzero(older)))
        hi = self._columns.hi[rows]
        order = np.argsort(hi, kind="stable")
        rows = rows[order]
        return Ids(hi[order], self._columns.lo[rows], self._columns.time[rows], self._columns.offset[rows])

    def find(self, ids: Ids) -> tuple[I64, I64]:
        """For each id its latest row (-1: none), and the slot where it stands or belongs."""
        slot = self._home(ids.hi)
        row = np.full(len(slot), -1, np.int64)
        tag = _tag(ids.lo)
        entry = self._index.take(slot)
        pending = np.flatnonzero(entry)
        entry = entry[pending]
        while len(pending):
            alike = np.flatnonzero(entry >> 32 == tag[pending])
            if len(alike):
                which, at = pending[alike], (entry[alike] & _ROW) - 1
                same = (self._columns.lo[at] == ids.lo[which]) & (self._columns.hi[at] == ids.hi[which])
                row[which[same]] = at[same]
                pending = np.delete(pending, alike[same])
            step = (slot[pending] + 1) & (len(self._index) - 1)
            slot[pending] = step
            entry = self._index[step]
            occupied = np.flatnonzero(entry)
            pending, entry = pending[occupied], entry[occupied]
        return row, slot

    def reserve(self, rows: int) -> None:
        """Make room for `rows` more, so that slots stay valid between `find` and `admit`."""
        capacity = len(self._columns.hi)
        if self.rows + rows <= capacity:
            return
        needed = 1 << (self.rows + rows - 1).bit_length()
        capacity = max(needed, min(4 * capacity, self.rows_max))
        held, latest = self.ids, self._latest()
        self._columns = Ids.empty(capacity)
        for column, old in zip(self._columns, held, strict=True):
            column[: self.rows] = old
        self._index = np.zeros(2 * capacity, np.int64)
        self._place(latest)

    def admit(self, ids: Ids, slot: I64, pending: I64, horizon_us: int) -> Mask:
        """Add the rows `pending` of `ids`, each to be claimed at its `slot`; of equal ids the first wins. True: added.

        An id that came again in the same batch is added again if the horizon has passed in between.
        """
        fresh = np.zeros(len(ids.hi), np.bool_)
        while len(pending):
            at = slot[pending]
            self._index[at[::-1]] = -1 - pending[::-1]  # the last write stays: the first row of the batch
            owner = -1 - self._index[at]
            won = owner == pending
            fresh[pending[won]] = True
            lost = np.flatnonzero(~won)
            pending = self._next(ids, slot, pending[lost], owner[lost], horizon_us)
        self._append(ids.take(fresh), slot[fresh])
        return fresh

    def _next(self, ids: Ids, slot: I64, lost: I64, owner: I64, horizon_us: int) -> I64:
        """Who claims again among those that found their slot taken by `owner`: not the repeated ids."""
        if not len(lost):
            return lost
        same = (ids.lo[lost] == ids.lo[owner]) & (ids.hi[lost] == ids.hi[owner])
        again = same & (ids.time[lost] - ids.time[owner] >= horizon_us)
        moving = lost[~same]
        at, searching = slot[moving], np.arange(len(moving))
        while len(searching):
            at[searching] = (at[searching] + 1) & (len(self._index) - 1)
            searching = searching[self._index[at[searching]] != 0]
        slot[moving] = at
        return np.sort(np.concatenate((moving, lost[again])))

    def _append(self, ids: Ids, slot: I64) -> None:
        end = self.rows + len(ids.hi)
        for column, new in zip(self._columns, ids, strict=True):
            column[self.rows : end] = new
        self._index[slot] = _tag(ids.lo) << 32 | np.arange(self.rows + 1, end + 1)
        self.rows = end

    def _home(self, hi: U64) -> I64:
        shift = 65 - len(self._index).bit_length()
        return (hi >> np.uint64(shift)).view(np.int64)

    def _latest(self) -> I64:
        """The latest row of each id, nearly in the order of ids."""
        latest: I64 = (self._index[self._index != 0] & _ROW) - 1
        return latest

    def _place(self, rows: I64) -> None:
        """Index rows whose ids all differ."""
        ids = self._columns.take(rows)
        slot, entry = self._home(ids.hi), _tag(ids.lo) << 32 | (rows + 1)
        while len(entry):
            free = self._index[slot] == 0
            self._index[slot[free]] = entry[free]
            lost = self._index[slot] != entry
            entry, slot = entry[lost], (slot[lost] + 1) & (len(self._index) - 1)


def _tag(lo: U64) -> I64:
    return (lo >> np.uint64(33)).view(np.int64)
