"""The runs that a deduplicator looks at: few enough to be asked one by one. Used by `dedup`.

Too many runs are merged in a background thread, smallest neighbours first, so that each id is rewritten a few times at
most. Filters are folded until all of them fit into their share of memory.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eagleray.cluster.log.dedup.hash_table import I64, U64, UNSEEN, Ids
from eagleray.cluster.log.dedup.run import IdRun, Stopped, filter_mask, merge_runs, open_run, write_run
from eagleray.cluster.log.dedup.store import IdStore

RUNS_MAX = 8  # each costs every unknown id a look into its filter, about 12 ns (benchmarks/log.py)
FAN_IN = 4


class IdRuns:
    """Runs of one deduplicator, oldest first; their files are in `store`."""

    def __init__(self, store: IdStore, filter_bytes_max: int) -> None:
        """No runs yet. `filter_bytes_max` bounds what filters and indexes take, down to two bits per id."""
        self.store = store
        self.runs: list[IdRun] = []
        self._filter_bytes_max = filter_bytes_max
        self._merge: _Merge | None = None

    @property
    def memory_bytes(self) -> int:
        """Bytes of all filters and indexes."""
        return sum(run.memory_bytes for run in self.runs)

    def newest(self, hi: U64, lo: U64, since_us: int) -> I64:
        """When each id was last stored; UNSEEN if it was not. Runs that end at or before `since_us` are not asked."""
        times = np.full(len(hi), UNSEEN, np.int64)
        mask = filter_mask(lo)
        for run in self.runs:
            if run.last_us > since_us:
                run.newest(hi, lo, mask, times)
        return times

    def add(self, ids: Ids) -> None:
        """Write `ids` (in the order of `hi`) as the newest run. Raises OSError before anything changed."""
        self._adopt()
        if self._merge is not None and len(self.runs) >= 2 * RUNS_MAX:
            self._merge.join()  # merging does not keep up: wait, or the number of runs has no bound
            self._adopt()
        self.runs.append(write_run(self.store.path(int(ids.offset.min()), int(ids.offset.max()) + 1), ids))
        self._settle()

    def load(self, names: Sequence[str], below: int) -> None:
        """Open runs of the store, without ids of records from `below` on; raises RunInvalid, OSError."""
        for name in names:
            run = open_run(self.store.fetch(name))
            self.runs.append(run)  # so that `clear` closes it, whatever happens
            if run.end > below:
                kept = merge_runs(self.store.path(run.first, below), [run], below) if run.first < below else None
                self.runs[-1:] = [kept] if kept else []
                self.store.discard([run])
        self._settle()

    def expire(self, until_us: int) -> bool:
        """Drop runs whose ids were all stored at or before `until_us`; True if there were any."""
        self._adopt()
        busy = self._merge.sources if self._merge else []
        old = [run for run in self.runs if run.last_us <= until_us and run not in busy]
        self.runs = [run for run in self.runs if run not in old]
        self.store.discard(old)
        return bool(old)

    def last_us(self, offset: int) -> int:
        """The last time in runs that end at or before `offset`; UNSEEN if there is none."""
        return max((run.last_us for run in self.runs if run.end <= offset), default=UNSEEN)

    def move(self, store: IdStore) -> None:
        """Move all files to another store; raises OSError."""
        if self._merge is not None:
            self._merge.join()
            self._adopt()
        for run in self.runs:
            run.move(store.path(run.first, run.end))
        self.store = store

    def clear(self) -> None:
        """Close everything and forget it; files stay."""
        if self._merge is not None:
            self._merge.stop.set()
            self._merge.join()
            if self._merge.result is not None:
                self._merge.result.close()
            self._merge = None
        for run in self.runs:
            run.close()
        self.runs = []

    def _adopt(self) -> None:
        """Put a finished merge in the place of its sources."""
        merge = self._merge
        if merge is None or merge.is_alive():
            return
        self._merge = None
        if merge.result is not None:  # else it failed, for want of space, and is tried again later
            at = self.runs.index(merge.sources[0])
            self.runs[at : at + len(merge.sources)] = [merge.result]
            self.store.discard(merge.sources)
            self._settle()

    def _settle(self) -> None:
        """Fold filters into their memory, and start a merge if there are too many runs."""
        while self.memory_bytes > self._filter_bytes_max:
            largest = max((run for run in self.runs if run.can_fold), key=lambda run: run.memory_bytes, default=None)
            if largest is None:
                break
            largest.fold()
        if self._merge is None and len(self.runs) > RUNS_MAX:
            groups = [self.runs[at : at + FAN_IN] for at in range(len(self.runs) - FAN_IN + 1)]
            group = min(groups, key=lambda runs: sum(run.rows for run in runs))
            ends = min(run.first for run in group), max(run.end for run in group)
            self._merge = _Merge(self.store.path(*ends), group)


class _Merge(threading.Thread):
    """One merge in the background. `result` is None if it failed or was stopped."""

    def __init__(self, path: Path, sources: list[IdRun]) -> None:
        super().__init__(name="dedup-merge", daemon=True)
        self.sources = sources
        self.stop = threading.Event()
        self.result: IdRun | None = None
        self._path = path
        self.start()

    def run(self) -> None:
        try:
            self.result = merge_runs(self._path, self.sources, stop=self.stop)
        except (OSError, Stopped):
            pass
