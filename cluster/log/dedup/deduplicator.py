"""Finds events that were accepted before: exact, within a horizon, in bounded memory. `reader` has one per partition.

An event is a duplicate iff its id was stored less than `horizon_us` of ingestion time ago. The answer depends only on
the sequence of (id, ingestion time), never on batching, spilling, merging or restarts. Recent ids are in memory
(`hash_table`), older ones in sorted runs on disk (`run_set`). `save` and `restore` keep them as a cache of the log.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import numpy.typing as npt

from eagleray.cluster.log.dedup.hash_table import I64, ROW_BYTES, UNSEEN, Ids, IdTable, Mask
from eagleray.cluster.log.dedup.journal import IdJournal, read_journal
from eagleray.cluster.log.dedup.run import RunInvalid
from eagleray.cluster.log.dedup.run_set import IdRuns
from eagleray.cluster.log.dedup.store import IdStore, Manifest
from eagleray.cluster.state.protocol import Fenced, Place

MEMORY_BYTES_MAX = 64 << 20
_REPLAY_ROWS = 1 << 15


class Deduplicator:
    """The ids of one partition. Not thread-safe: one caller at a time."""

    def __init__(self, horizon_us: int, memory_bytes_max: int = MEMORY_BYTES_MAX) -> None:
        """Remember nothing yet. `memory_bytes_max` bounds table, filters and indexes; one batch may exceed it."""
        self.log = ""  # identity of the log whose ids these are: saved ids of another one do not count
        self._horizon_us = horizon_us
        rows_max = 1 << max(10, (memory_bytes_max // 2 // ROW_BYTES).bit_length() - 1)
        self._table = IdTable(rows_max)
        self._store = IdStore.private()
        self._runs = IdRuns(self._store, memory_bytes_max - rows_max * ROW_BYTES)
        self._journal: IdJournal | None = None  # the table's first rows, for a restore
        self._complete = 0  # offset below which everything is on disk in a place
        self._floor = 0  # offset below which restoring is not exact any more
        self._lost = False  # another one owns the place

    @property
    def memory_bytes(self) -> int:
        """Bytes held between calls."""
        return self._table.memory_bytes + self._runs.memory_bytes

    def fresh(
        self,
        ids: npt.NDArray[np.uint64],
        present: Mask | None,
        ingested_at_us: int | I64,
        offset: int | I64,
    ) -> Mask:
        """Which events are not duplicates, and remember them; of equal ids the first wins, also within the batch.

        `ids` is (n, 2); events without an id (`present` False) are always fresh. `ingested_at_us` and `offset` are one
        per event or one for all, never below those of earlier calls. Raises OSError before anything changed.
        """
        fresh = np.ones(len(ids), np.bool_)
        where = slice(None) if present is None else np.flatnonzero(present)
        times = np.broadcast_to(np.asarray(ingested_at_us, np.int64), len(ids))[where]
        offsets = np.broadcast_to(np.asarray(offset, np.int64), len(ids))[where]
        if len(times):
            hi, lo = np.ascontiguousarray(ids[where, 0]), np.ascontiguousarray(ids[where, 1])
            fresh[where] = self._admit(Ids(hi, lo, times, offsets))
        return fresh

    def save(self, place: Place, upto_offset: int) -> None:
        """Write what is not yet saved of records below `upto_offset`, and drop what a restore from there cannot need.

        Raises OSError; then nothing is lost, and the next call writes it. Without effect once another one has taken
        over `place`.
        """
        if not self._store.owned:
            self._move(place)
        if self._lost or upto_offset <= self._complete:
            return
        self._save_rows(upto_offset)
        self._complete = upto_offset
        if self._runs.expire(self._time_before(upto_offset) - self._horizon_us):
            self._floor = upto_offset
        self._publish()

    def restore(self, place: Place, upto_offset: int) -> int:
        """Take over `place` with the ids of records below `upto_offset`, forgetting everything else.

        Returns the offset up to which the ids are complete, at most `upto_offset`; the caller feeds the records from
        there on. 0: nothing usable was there. Raises OSError.
        """
        self._forget(IdStore.take_over(place))
        manifest = self._store.manifest
        fits = manifest.log == self.log and manifest.horizon_us >= self._horizon_us
        if fits and manifest.floor <= upto_offset:
            try:
                self._load(manifest, min(manifest.complete, upto_offset))
            except (RunInvalid, FileNotFoundError, IsADirectoryError):
                # Only a cache: the caller reads tables and log instead.
                self._runs.clear()
                self._table.clear()
        self._save_rows(self._complete)
        self._publish()
        with suppress(Fenced):  # found out by the next save
            self._store.sweep()
        return self._complete

    def close(self) -> None:
        """Stop merging and close all files; what was saved stays."""
        self._forget(IdStore.private())

    def _admit(self, batch: Ids) -> Mask:
        if self._table.rows and self._table.rows + len(batch.hi) > self._table.rows_max:
            self._spill()
        self._table.reserve(len(batch.hi))
        row, slot = self._table.find(batch)
        candidates = np.flatnonzero(batch.time - self._stored(batch, row) >= self._horizon_us)
        return self._table.admit(batch, slot, candidates, self._horizon_us)

    def _stored(self, batch: Ids, row: I64) -> I64:
        """When each id was last stored; UNSEEN if it was not, or longer ago than matters."""
        stored = np.full(len(row), UNSEEN, np.int64)
        known = row >= 0
        stored[known] = self._table.ids.time[row[known]]
        if self._runs.runs:
            unknown = np.flatnonzero(~known)
            since = int(batch.time[0]) - self._horizon_us
            stored[unknown] = self._runs.newest(batch.hi[unknown], batch.lo[unknown], since)
        return stored

    def _spill(self) -> None:
        """Turn the whole table into a run. Raises OSError before anything changed."""
        newest_us = int(self._table.ids.time[-1])
        self._runs.add(self._table.sorted())
        self._table.clear()
        self._drop_journal()
        if not self._store.owned:
            self._runs.expire(newest_us - self._horizon_us)
        with suppress(OSError):  # the last manifest still holds, and so do its files
            self._publish()

    def _load(self, manifest: Manifest, below: int) -> None:
        """Take the ids of records under `below` from the store; raises RunInvalid, OSError."""
        self._runs.load(manifest.runs, below)
        if manifest.journal is not None:
            mark = manifest.journal
            ids = read_journal(self._store.fetch(mark.name, mark.size), mark)
            ids = ids.take(slice(0, int(np.searchsorted(ids.offset, below))))
            for start in range(0, len(ids.hi), _REPLAY_ROWS):
                self._admit(ids.take(slice(start, start + _REPLAY_ROWS)))  # all of them are fresh, as they were
        self._complete, self._floor = below, manifest.floor

    def _save_rows(self, upto_offset: int) -> None:
        ids = self._table.ids
        upto = int(np.searchsorted(ids.offset, upto_offset))
        if upto > (self._journal.rows if self._journal else 0):
            if self._journal is None:
                self._journal = IdJournal(self._store.journal_path(int(ids.offset[0])))
            self._journal.append(ids.take(slice(self._journal.rows, upto)))

    def _drop_journal(self) -> None:
        if self._journal is not None:
            self._store.discard([self._journal])
            self._journal = None

    def _time_before(self, offset: int) -> int:
        """An ingestion time that records from `offset` on are not below; UNSEEN if unknown."""
        ids = self._table.ids
        row = int(np.searchsorted(ids.offset, offset))
        return int(ids.time[row - 1]) if row else self._runs.last_us(offset)

    def _publish(self) -> None:
        manifest = Manifest(self.log, self._horizon_us, self._complete, self._floor)
        if not self._store.publish(manifest, self._runs.runs, self._journal):
            self._lost = True  # its files belong to the new owner now; ours stay readable as long as they are open
            self._store = self._runs.store = IdStore.private()
            self._journal = None

    def _move(self, place: Place) -> None:
        """Adopt `place` without a restore, dropping what it holds."""
        if self._lost:
            return  # a place is given once
        store = IdStore.take_over(place)
        self._runs.move(store)
        self._store = store

    def _forget(self, store: IdStore) -> None:
        self._runs.clear()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._table.clear()
        self._store = self._runs.store = store
        self._complete, self._floor, self._lost = 0, 0, False
