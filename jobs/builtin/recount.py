"""Counts events of the lake in a window as the stream does, with the same aggregates, but for lateness: all count.

The partial aggregates of `cluster.windowing` are merged as they grow: memory is bounded by the number of groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from eagleray.cluster.events.event_time import EventTime
from eagleray.cluster.events.filter import Filter
from eagleray.cluster.events.stream import TIME, Stream
from eagleray.cluster.lake.predicate import EVERYTHING, All, Compare, Predicate
from eagleray.cluster.lake.scan import Pinned
from eagleray.cluster.windowing.assign import panes
from eagleray.cluster.windowing.definition import WindowSpec
from eagleray.cluster.windowing.event_columns import Batch, extract
from eagleray.cluster.windowing.partial import Layout
from eagleray.cluster.windowing.watermark import NEVER

MERGE_ROWS = 1 << 20  # of partial aggregates
_PLACE = ("_partition", "_offset", "_row")


class Recount:
    """Partial aggregates of one window of a stream over its table `events`."""

    def __init__(self, stream: Stream, spec: WindowSpec, events: Pinned) -> None:
        """`events` is read as it is pinned."""
        self.layout = Layout.of(spec, stream.log_schema)
        self._stream = stream
        self._spec = spec
        self._events = events
        self._time = EventTime(stream)
        self._filter = Filter(stream.config.filter, stream.events.arrow) if stream.config.filter else None

    def between(self, from_us: int, to_us: int) -> pa.Table:
        """Of the events whose time is in [from, to)."""
        partials: list[pa.Table] = []
        rows = 0
        for events in self._read(from_us, to_us):
            partials += self._lifted(events)
            rows += partials[-1].num_rows if partials else 0
            if rows > MERGE_ROWS:
                partials = [self.layout.merge(partials)]
                rows = partials[0].num_rows // 2  # or a table of many groups would be merged with every batch
        return self.layout.merge(partials)

    def _read(self, from_us: int, to_us: int) -> Iterator[pa.Table]:
        fields = [field for field in self._stream.events.arrow if field.name in self._needed()]
        plan = self._events.plan(self._pruning(from_us, to_us))
        if not plan.files:
            return
        for batch in plan.batches([*(field.name for field in fields), *_PLACE]):
            table = pa.Table.from_batches([batch])
            columns = {field.name: table.column(field.name).cast(field.type) for field in fields}
            columns |= {name: table.column(name) for name in _PLACE}
            rows = pa.table(columns)
            times, bad = self._time.column(extract(rows, self._stream.time))
            kept = (times >= from_us) & (times < to_us)
            if bad is not None:
                kept &= ~bad
            rows = rows.append_column(TIME, pa.array(times)).filter(pa.array(kept))
            if rows.num_rows and self._filter is not None:
                rows = rows.filter(pa.array(self._filter.mask(rows)))
            if rows.num_rows:
                yield rows

    def _needed(self) -> set[str]:
        paths = [*self._spec.group_by, *(one.path for one in self._spec.aggregates if one.path), self._stream.time]
        return {path.names[0] for path in paths} | set(self._filter.columns if self._filter else ())

    def _pruning(self, from_us: int, to_us: int) -> Predicate:
        name = self._stream.time.names[0]
        if len(self._stream.time.names) > 1 or not pa.types.is_timestamp(self._stream.events.arrow.field(name).type):
            return EVERYTHING
        return All((Compare(name, ">=", from_us), Compare(name, "<", to_us)))

    def _lifted(self, events: pa.Table) -> list[pa.Table]:
        """Partial aggregates by log partition, in log order, as `first` and `last` are told by it."""
        events = events.sort_by([(name, "ascending") for name in _PLACE])
        numbers = events.column("_partition").to_numpy()
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        lifted = []
        for start, end in itertools.pairwise(cuts):
            batch = Batch(events.slice(start, end - start), int(numbers[start]))
            if self._spec.kind == "session":
                lifted.append(self.layout.lift(batch, batch.times, batch.times))
            else:
                found = panes(self._spec, batch.times, np.full(batch.length, NEVER), 0)
                lifted.append(self.layout.lift(batch, found.since, found.pane))
        return lifted
