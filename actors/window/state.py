"""The state of an era of a window on a partition: partial aggregates in runs, merged as they grow, dropped at closing.

A run is a table of partial.py. Each chunk adds one; as soon as FAN_OUT runs of about the same size are there, they
become one (as in an LSM tree), so that a row is merged a few times only. One thread adds; `runs` is an immutable tuple,
so other threads read whatever was there when they looked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from eagleray.cluster.windowing.assign import Panes, missed_windows, panes
from eagleray.cluster.windowing.definition import WindowSpec
from eagleray.cluster.windowing.event_columns import Batch
from eagleray.cluster.windowing.merge import closing_times
from eagleray.cluster.windowing.partial import B, Layout, times
from eagleray.cluster.windowing.sessions import group_hashes, still_open
from eagleray.cluster.windowing.watermark import FOREVER, NEVER, Int64

FAN_OUT = 8
TIER_MIN = 512  # runs below this many rows are of one tier
_NO_ROWS = np.empty(0, np.int64)


class Run(NamedTuple):
    """Partial aggregates with the earliest and the latest closing time among them."""

    table: pa.Table
    first_us: int
    last_us: int


class Missed(NamedTuple):
    """Windows that events came too late for: index of the event in its batch, window start and end (µs)."""

    rows: Int64
    starts: Int64
    ends: Int64


_NONE = Missed(_NO_ROWS, _NO_ROWS, _NO_ROWS)


@dataclass
class WindowState:
    """Partial aggregates of one window on one partition, within the limits of `spec`."""

    spec: WindowSpec
    events: pa.Schema
    allowed_lateness_us: int
    local: bool = False  # sessions: every group lives on one partition, so fragments can go without being asked for
    floor_us: int = NEVER  # nothing is closed before (`Era.floor_us`)
    runs: tuple[Run, ...] = ()
    closed_us: int = NEVER
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        """Derive the layout."""
        self.layout = Layout.of(self.spec, self.events)

    def add(self, batch: Batch, before: Int64) -> Missed:
        """Count the events of `batch`, with the watermarks `before` them (n,); returns what came too late."""
        if batch.length == 0 or self._ended(batch):
            return _NONE
        if self.spec.kind == "session":
            return self._add_session(batch, before)
        found = panes(self.spec, batch.times, before, self.allowed_lateness_us)
        if (found.since > found.first).any() or (self._limited and (found.since > found.last).any()):
            kept = np.flatnonzero(found.since <= found.last)
            self._push(self.layout.lift(batch.take(kept), found.since[kept], found.pane[kept]))
            return self._missed(found)
        self._push(self.layout.lift(batch, found.since, found.pane))
        return _NONE

    @property
    def _limited(self) -> bool:
        return self.spec.from_us > NEVER or self.spec.until_us < FOREVER

    def _ended(self, batch: Batch) -> bool:
        """Whether the window's era ended before every event of `batch`."""
        after_us = self.spec.until_us + self.spec.size_us - self.spec.every_us
        return self.spec.until_us < FOREVER and int(batch.times.min()) >= after_us

    def _missed(self, found: Panes) -> Missed:
        rows, starts = missed_windows(self.spec, found)
        ends = starts + self.spec.size_us
        return Missed(rows, starts, ends if self.spec.overlapping else np.minimum(ends, self.spec.until_us))

    def _add_session(self, batch: Batch, before: Int64) -> Missed:
        if self._limited:
            within = (batch.times >= self.spec.from_us) & (batch.times < self.spec.until_us)
            if not within.all():
                inside = np.flatnonzero(within)
                found = self._add_session(batch.take(inside), before[inside]) if len(inside) else _NONE
                return found._replace(rows=inside[found.rows])
        late = before >= batch.times + self.spec.gap_us + self.allowed_lateness_us
        rows = np.flatnonzero(late)
        kept = batch.take(np.flatnonzero(~late)) if len(rows) else batch
        self._push(self.layout.lift(kept, kept.times, kept.times))
        return Missed(rows, batch.times[rows], batch.times[rows] + self.spec.gap_us)

    def load(self, table: pa.Table) -> None:
        """Take over partial aggregates from a snapshot."""
        self._push(table)

    def _push(self, table: pa.Table) -> None:
        run = self._run(table)
        if run is None:
            return
        runs = [*self.runs, run]
        while len(tier := [r for r in runs if _tier(r) == _tier(runs[-1])]) >= FAN_OUT:
            merged = self._run(self._without_closed(self.layout.merge([r.table for r in tier])))
            runs = [r for r in runs if _tier(r) != _tier(runs[-1])] + ([merged] if merged else [])
            if not merged:
                break
        self.runs = tuple(runs)

    def _run(self, table: pa.Table) -> Run | None:
        if table.num_rows == 0:
            return None
        low, high = times(table, B).min(), times(table, B).max()
        ends = pa.table({B: pa.array([low, high])})
        first, last = closing_times(self.layout, ends, self.allowed_lateness_us).tolist()
        return Run(table, first, last)

    def _without_closed(self, table: pa.Table) -> pa.Table:
        if self.spec.kind == "session" and not self.local:
            return table
        closing = closing_times(self.layout, table, self.allowed_lateness_us)
        return table if closing.min() > self.closed_us else table.filter(pa.array(closing > self.closed_us))

    def drop(self, closed_us: int, open_sessions: bytes | None = None) -> None:
        """Let go of what the table has: every window with a closing time up to `closed_us`.

        Sessions that may span partitions go only with `open_sessions`, made when windows up to `closed_us` were closed.
        """
        closed_us = closed_us if closed_us >= self.floor_us else NEVER
        self.closed_us = max(self.closed_us, closed_us)
        if self.spec.kind == "session" and not self.local:
            if open_sessions is not None:
                self.runs = tuple(run for old in self.runs if (run := self._settled(old, closed_us, open_sessions)))
            return
        self.runs = tuple(run for run in self.runs if run.last_us > self.closed_us)

    def _settled(self, run: Run, closed_us: int, open_sessions: bytes) -> Run | None:
        if run.first_us > closed_us:
            return run
        table = run.table
        closing = closing_times(self.layout, table, self.allowed_lateness_us)
        hashes = group_hashes(self.layout.groups(table), table.num_rows)
        kept = (closing > closed_us) | still_open(open_sessions, hashes, times(table, B))
        return run if kept.all() else self._run(table.filter(pa.array(kept)))

    def tables(self, runs: tuple[Run, ...], after_us: int, upto_us: int | None) -> list[pa.Table]:
        """Those of `runs` (as published earlier) that windows closing in (after, upto] may need."""
        if self.spec.kind == "session":  # a fragment that is still open may connect closed ones
            return [run.table for run in runs]
        # The first window of a run's earliest pane closes up to a window's size before its last one.
        latest = -NEVER if upto_us is None else upto_us + self.spec.size_us
        return [run.table for run in runs if run.last_us > after_us and run.first_us <= latest]

    def compacted(self) -> pa.Table:
        """All of it as one table, for a snapshot."""
        tables = [run.table for run in self.runs]
        return self._without_closed(self.layout.merge(tables)) if tables else self.layout.schema.empty_table()


def _tier(run: Run) -> int:
    return max(0, int(run.table.num_rows // TIER_MIN).bit_length() + 2) // 3
