"""Counts events of the lake in a window as the stream does: with the same aggregates, filter and limits of its era.

`Recount.between` counts every event, for `rebuild`. `open_windows` counts what the stream counted, so without what the
table `late` holds for the window, for window workers whose saved state and log no longer cover open windows. It reads
each file once for all windows and partitions, and only files that may hold events of open windows. The partial
aggregates are merged as they grow: memory is bounded by the number of groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eagleray.cluster.events.event_time import EventTime, TimeRule
from eagleray.cluster.events.filter import Filter
from eagleray.cluster.events.stream import TIME, Stream
from eagleray.cluster.lake.predicate import EVERYTHING, All, Any, Compare, In, Predicate
from eagleray.cluster.lake.scan import Pinned
from eagleray.cluster.log.protocol import partition_key
from eagleray.cluster.windowing.assign import panes, starts_within
from eagleray.cluster.windowing.era import Era
from eagleray.cluster.windowing.event_columns import Batch, extract, lenient_cast, read_fields, retyped_paths
from eagleray.cluster.windowing.merge import closing_times
from eagleray.cluster.windowing.partial import A, B, Layout
from eagleray.cluster.windowing.partial import times as times_of
from eagleray.cluster.windowing.sessions import group_hashes, open_sessions, still_open
from eagleray.cluster.windowing.watermark import FOREVER, NEVER, Int64

MERGE_ROWS = 1 << 20  # of partial aggregates
SESSION_REACH_GAPS = 8  # how far back open sessions are looked for first; then four times as far, and so on
EVER_US = 1 << 57  # more than four thousand years
_PLACE = ("_partition", "_offset", "_row")

Beat = Callable[[], object]
"""Called again and again while there is progress."""


def _no_beat() -> None: ...


class Missed(NamedTuple):
    """The events of one partition that are late for a window, with the last start that each missed.

    An event misses all its windows before that too.
    """

    offsets: Int64  # distinct, ascending
    keys: Int64  # distinct, ascending: place in `offsets` << 32 | row
    starts: Int64  # of each key

    @classmethod
    def of(cls, offsets: Int64, rows: Int64, starts: Int64) -> Missed:
        """From late rows (n,), at least one, in any order."""
        distinct, at = np.unique(offsets, return_inverse=True)
        keys = (at.astype(np.int64) << 32) | rows
        order = np.lexsort((starts, keys))
        keys, starts = keys[order], starts[order]
        last = np.append(keys[1:] != keys[:-1], True)
        return cls(distinct, keys[last], starts[last])

    def find(self, offsets: Int64, rows: Int64) -> Int64:
        """The last start (n,) that each of these events missed; NEVER: none."""
        at = np.minimum(np.searchsorted(self.offsets, offsets), len(self.offsets) - 1)
        keys = (at << 32) | rows
        found = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where((self.offsets[at] == offsets) & (self.keys[found] == keys), self.starts[found], NEVER)


LateStarts = Mapping[int, Missed]
"""What `late` holds for a window, by partition."""


def late_starts(late: Pinned, since: Mapping[str, int], beat: Beat = _no_beat) -> dict[str, LateStarts]:
    """By window, what `<stream>.late` holds for its starts from `since` (by window) on. Reads each file once."""
    wanted = tuple(_late_from(window, from_us) for window, from_us in since.items())
    plan = late.plan(Any(wanted))
    tables = []
    for batch in plan.batches(["window", "window_start", *_PLACE]) if plan.files else ():
        beat()
        rows = pa.Table.from_batches([batch])
        tables.append(rows.filter(pc.is_in(rows.column("window"), pa.array(list(since), pa.string()))))
    if not tables:
        return {}
    whole = pa.concat_tables(tables).unify_dictionaries()
    return {window: _by_partition(whole.filter(pc.field("window") == window)) for window in since}


def _late_from(window: str, from_us: int) -> Predicate:
    named = Compare("window", "=", window)
    return named if from_us <= -EVER_US else All((named, Compare("window_start", ">=", from_us)))


def _by_partition(rows: pa.Table) -> LateStarts:
    partitions, offsets, numbers = (rows.column(name).cast(pa.int64()).to_numpy() for name in _PLACE)
    starts = rows.column("window_start").cast(pa.int64()).to_numpy()
    return {
        int(partition): Missed.of(offsets[mine], numbers[mine], starts[mine])
        for partition in np.unique(partitions)
        for mine in (partitions == partition,)
    }


Times = Sequence[tuple[TimeRule, Mapping[str, int]]]
"""In log order, how events say when they happened, and from which record of each partition (by progress key) on."""


class EventScan:
    """Reads `events` of a stream, as it is pinned, by event time: each event's by the rule of its time."""

    def __init__(self, stream: Stream, events: Pinned, times: Times, beat: Beat = _no_beat) -> None:
        """`beat` is called with every batch."""
        self._events, self._beat = events, beat
        self._rules = [rule for rule, _ in times]
        self._times = [EventTime(stream, rule) for rule in self._rules]
        self._since = [at for _, at in times]

    def between(
        self, columns: Iterable[str], from_us: int, to_us: int, partitions: Iterable[int] | None = None
    ) -> Iterator[pa.Table]:
        """The events with a time in [from, to): these columns as the table has them, their time and their place.

        A column that the table has under another name by now has the old one here; one that it has no longer is left
        out. With `partitions`, files that hold none of them are left out.
        """
        plan = self._events.plan(self._pruning(from_us, to_us, partitions))
        if not plan.files:
            return
        asked = dict.fromkeys([*columns, *(rule.path.names[0] for rule in self._rules)])
        called = {name: now for name in asked if (now := self._events.called(name)) is not None}
        for batch in plan.batches([*dict.fromkeys(called.values()), *_PLACE]):
            self._beat()
            arrays = {name: batch.column(now) for name, now in called.items()}
            rows = pa.table(arrays | {name: batch.column(name) for name in _PLACE})
            at, bad = self._at(rows)
            kept = (at >= from_us) & (at < to_us) & ~bad
            found = rows.append_column(TIME, pa.array(at))
            found = found if kept.all() else found.filter(pa.array(kept))
            if found.num_rows:
                yield found

    def _at(self, rows: pa.Table) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """The time of each event (n,) in µs, and which have none."""
        number = self._rule_numbers(rows)
        at, bad = np.zeros(rows.num_rows, np.int64), np.ones(rows.num_rows, np.bool_)
        for each in np.unique(number):
            mine = number == each
            found, wrong = self._by_rule(rows if mine.all() else rows.filter(pa.array(mine)), each)
            at[mine], bad[mine] = found, wrong
        return at, bad

    def _rule_numbers(self, rows: pa.Table) -> Int64:
        """Which rule (n,) was in force when each event was acked."""
        if len(self._rules) == 1:
            return np.zeros(rows.num_rows, np.int64)
        partitions, offsets = (rows.column(name).to_numpy() for name in _PLACE[:2])
        number = np.zeros(rows.num_rows, np.int64)
        for partition in np.unique(partitions):
            since = [at.get(partition_key(int(partition)), 0) for at in self._since]
            mine = partitions == partition
            number[mine] = np.searchsorted(since, offsets[mine], side="right") - 1
        return np.maximum(number, 0)

    def _by_rule(self, rows: pa.Table, number: int) -> tuple[Int64, npt.NDArray[np.bool_]]:
        rule, none = self._rules[number], np.ones(rows.num_rows, np.bool_)
        try:
            column = extract(rows, rule.path)
        except (KeyError, pa.ArrowInvalid):  # the table has it no longer
            return np.zeros(rows.num_rows, np.int64), none
        at, bad = self._times[number].column(lenient_cast(column, rule.field.type))
        return at, ~none if bad is None else bad

    def _pruning(self, from_us: int, to_us: int, partitions: Iterable[int] | None) -> Predicate:
        limits: list[Predicate] = [] if partitions is None else [In("_partition", tuple(partitions))]
        spans = [self._span(*each, from_us, to_us) for each in zip(self._rules, self._times, strict=True)]
        known = [span for span in spans if span is not None]
        if len(known) == len(spans):
            limits.append(known[0] if len(known) == 1 else Any(tuple(known)))
        return All(tuple(limits)) if limits else EVERYTHING

    def _span(self, rule: TimeRule, time: EventTime, from_us: int, to_us: int) -> Predicate | None:
        """What holds for all events with a time in [from, to), if the column of the time has an order."""
        name = self._events.called(rule.path.names[0])
        ordered = pa.types.is_timestamp(rule.field.type) or (pa.types.is_integer(rule.field.type) and time.has_one_unit)
        if len(rule.path.names) > 1 or not ordered or name is None:
            return None
        # Bounds in the column's own unit, rounded so that they only ever take in more.
        limits: list[Predicate] = []
        limits += [Compare(name, ">=", time.whole_units(from_us))] if from_us > -EVER_US else []
        limits += [Compare(name, "<=", time.whole_units(to_us + 1))] if to_us < EVER_US else []
        return All(tuple(limits)) if limits else EVERYTHING


class Recount:
    """Partial aggregates of one era of a window of a stream over its table `events`."""

    def __init__(self, stream: Stream, era: Era, events: Pinned, times: Times, beat: Beat = _no_beat) -> None:
        """`events` is read as it is pinned."""
        definition = era.definition
        self.layout = Layout.of(era.spec, definition.fields)
        self.era, self.spec = era, era.spec
        self._scan = EventScan(stream, events, times, beat)
        self._filter = Filter(definition.filter, definition.filtered) if definition.filter else None
        self._fields = read_fields(stream.events.arrow, definition.fields, definition.filtered)
        self._casts = retyped_paths(era.spec, definition.fields, pa.schema(self._fields))

    @property
    def columns(self) -> list[str]:
        """The top-level columns of `events` that it reads."""
        return [field.name for field in self._fields]

    def between(self, from_us: int, to_us: int) -> pa.Table:
        """Of all events whose time is in [from, to), late or not."""
        found = _Partials(self.layout)
        for events in self._scan.between(self.columns, from_us, to_us):
            for _, table in self.lifted(events, {}):
                found.add(table)
        return found.merged()

    def lifted(self, events: pa.Table, late: LateStarts) -> Iterator[tuple[int, pa.Table]]:
        """Partition and partial aggregates of `events` less `late`, in log order, as `first` and `last` go by it."""
        columns = {field.name: _column(events, field) for field in self._fields}
        columns |= {name: events.column(name) for name in (TIME, *_PLACE)}
        rows = pa.table(columns).sort_by([(name, "ascending") for name in _PLACE])
        if self._filter is not None:
            rows = rows.filter(pa.array(self._filter.mask(rows)))
        numbers = rows.column("_partition").to_numpy()
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        for start, end in itertools.pairwise(cuts):
            if end > start:
                number = int(numbers[start])
                batch = Batch(rows.slice(start, end - start), number).retyped(self._casts)
                yield number, self._lift(batch, late.get(number))

    def _lift(self, batch: Batch, late: Missed | None) -> pa.Table:
        missed = np.full(batch.length, NEVER, np.int64)
        if late is not None:
            missed = late.find(batch.integers("_offset"), batch.integers("_row"))
        if self.spec.kind == "session":
            inside = (batch.times >= self.spec.from_us) & (batch.times < self.spec.until_us) & (missed == NEVER)
            kept = batch.take(np.flatnonzero(inside))
            return self.layout.lift(kept, kept.times, kept.times)
        found = panes(self.spec, batch.times, np.full(batch.length, NEVER), 0)
        since = np.maximum(found.since, np.where(missed > NEVER, missed + self.spec.every_us, NEVER))
        rows = np.flatnonzero(since <= found.last)
        return self.layout.lift(batch.take(rows), since[rows], found.pane[rows])


def _column(events: pa.Table, field: pa.Field) -> pa.Array:
    """Nulls where the table has it no longer."""
    if field.name not in events.column_names:
        return pa.nulls(events.num_rows, field.type)
    return lenient_cast(events.column(field.name), field.type)


class _Partials:
    """Partial aggregates, merged as they grow."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._tables: list[pa.Table] = []
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._rows += table.num_rows
        if self._rows > MERGE_ROWS:
            self._tables = [self._layout.merge(self._tables)]
            self._rows = self._tables[0].num_rows // 2  # or a table of many groups would be merged with every batch

    def merged(self) -> pa.Table:
        self._tables = [self._layout.merge(self._tables)]
        return self._tables[0]


# ── open windows ───────────────────────────────────────────────────────────────────────────────────────────────────


def open_windows(
    stream: Stream,
    eras: Sequence[tuple[Era, int]],
    events: Pinned,
    late: Pinned,
    upto: Mapping[int, int],
    times: Times,
    beat: Beat = _no_beat,
) -> dict[int, dict[str, pa.Table]]:
    """By partition of `upto` and by era (`Era.key`): partial aggregates that open windows need, and perhaps some more.

    Of the records below `upto` (an offset, by partition). `eras` come with the closing time that the window's table
    stands at. Both tables are read as they are pinned.
    """
    counts = [_Open(Recount(stream, era, events, times), closed_us, upto) for era, closed_us in eras]
    scan = EventScan(stream, events, times, beat)
    left = counts
    while left:
        since: dict[str, int] = {}
        for one in left:
            since[one.window] = min(one.from_us, since.get(one.window, FOREVER))
        missed = late_starts(late, since, beat)
        partitions = None if any(one.sessions for one in left) else upto  # a session may be of any partition
        columns = [column for one in left for column in one.recount.columns]
        low, high = min(since.values()), max(one.to_us for one in left)
        for rows in scan.between(columns, low, high, partitions):
            for one in left:
                one.take(rows, missed.get(one.window, {}))
                beat()
        beat()
        left = [one for one in left if one.goes_further_back()]
    return {partition: {one.recount.era.key: one.of(partition) for one in counts} for partition in upto}


class _Open:
    """One era's open windows on some partitions, while they are counted."""

    def __init__(self, recount: Recount, closed_us: int, upto: Mapping[int, int]) -> None:
        era, spec = recount.era, recount.spec
        self.recount, self.window, self.sessions = recount, spec.name, spec.kind == "session"
        self._closed_us = era.closed(closed_us)
        self._upto = upto
        self._limits = np.full(max(upto, default=-1) + 2, NEVER, np.int64)  # the last one is of all other partitions
        for partition, offset in upto.items():
            self._limits[partition] = offset
        self.to_us = FOREVER if spec.until_us == FOREVER else spec.until_us + spec.size_us - spec.every_us
        self._reach_us = SESSION_REACH_GAPS * spec.gap_us
        self._start()

    def _start(self) -> None:
        self.from_us = max(self._needed_from(), self.recount.spec.from_us)
        self._mine = {partition: _Partials(self.recount.layout) for partition in self._upto}
        self._others = _Partials(self.recount.layout)

    def _needed_from(self) -> int:
        """Events before are of no open window; for sessions a guess that `goes_further_back` judges."""
        if self._closed_us == NEVER:
            return NEVER
        spec, late_us = self.recount.spec, self.recount.era.allowed_lateness_us
        if self.sessions:
            return self._closed_us - 2 * spec.gap_us - late_us - self._reach_us
        return starts_within(spec, late_us, self._closed_us, -NEVER)[0]

    def take(self, events: pa.Table, late: LateStarts) -> None:
        """Count `events`, less `late`."""
        at = events.column(TIME).to_numpy()
        within = (at >= self.from_us) & (at < self.to_us)
        partitions = np.minimum(events.column("_partition").to_numpy(), len(self._limits) - 1)
        mine = within & (events.column("_offset").to_numpy() < self._limits[partitions])
        for partition, table in self.recount.lifted(_where(events, mine), late):
            self._mine[partition].add(table)
        if self.sessions:
            for _, table in self.recount.lifted(_where(events, within & ~mine), late):
                self._others.add(table)

    def goes_further_back(self) -> bool:
        """Whether all has to be counted again, from an earlier time on: an open session may have begun before."""
        if not self.sessions:
            return False
        whole = self._sessions()
        reaches = (times_of(whole, A) <= self.from_us + self.recount.spec.gap_us).any()
        if self.from_us <= max(-EVER_US, self.recount.spec.from_us) or not reaches:
            return False
        self._reach_us *= 4
        self._start()
        return True

    def _sessions(self) -> pa.Table:
        """The open sessions of all partitions.

        An event that is in no table yet is after `closed_us` - gap - lateness, so it can only go on with these.
        """
        layout, late_us = self.recount.layout, self.recount.era.allowed_lateness_us
        whole = layout.merge([self._others.merged(), *(one.merged() for one in self._mine.values())])
        return whole.filter(pa.array(closing_times(layout, whole, late_us) > self._closed_us))

    def of(self, partition: int) -> pa.Table:
        """The partition's partial aggregates; of a session that is open, whichever partition goes on with it."""
        layout, mine = self.recount.layout, self._mine[partition].merged()
        if not self.sessions:
            return mine
        left = self._sessions()
        packed = open_sessions(group_hashes(layout.groups(left), left.num_rows), times_of(left, A))
        hashes = group_hashes(layout.groups(mine), mine.num_rows)
        return mine.filter(pa.array(still_open(packed, hashes, times_of(mine, B))))


def _where(events: pa.Table, chosen: npt.NDArray[np.bool_]) -> pa.Table:
    return events if chosen.all() else events.filter(pa.array(chosen))
