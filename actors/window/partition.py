"""One partition of a stream as its window worker sees it: reads the log, counts, keeps what is not in the lake yet.

One thread calls the methods that change anything; `view` is replaced as a whole, so every other thread sees a position
together with exactly the state after it. What `step` raises leaves the object unusable: make a new one, from snapshot
and log.

Where no snapshot reaches what the log still holds, open windows are counted again from the tables (`recounted.py`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from eagleray.actors.messages import partition_key
from eagleray.actors.window.late import Late, Place, event_text, late_rows, places
from eagleray.actors.window.recounted import StateOfTables
from eagleray.actors.window.snapshot import Needed, Snapshot, SnapshotStore
from eagleray.actors.window.state import Missed, Run, WindowState
from eagleray.actors.window.traced import TracedEvents
from eagleray.cluster.clock import Clock
from eagleray.cluster.errors import EaglerayError, LogUnavailable
from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.events.filter import Filter
from eagleray.cluster.events.stream import TIME, Stream
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.stream_tables import LATE_COLUMNS
from eagleray.cluster.lake.window_history import StreamHistory, WatermarkEra
from eagleray.cluster.log.dedup.deduplicator import Deduplicator
from eagleray.cluster.log.protocol import Entry, EventLog, Kind
from eagleray.cluster.log.reader import Chunk, PartitionReader
from eagleray.cluster.log.record import encode_control
from eagleray.cluster.seen_ids import SeenIds
from eagleray.cluster.state.protocol import State
from eagleray.cluster.telemetry import tracing
from eagleray.cluster.windowing.era import Era
from eagleray.cluster.windowing.event_columns import Batch, lenient_cast, read_fields, retyped_paths
from eagleray.cluster.windowing.watermark import NEVER, Int64, bounded_times, watermarks

logger = logging.getLogger(__name__)

READ_BYTES_MAX = 8 << 20  # read ahead of what is counted, compressed: some 50,000 events of 350 bytes
UNCOMMITTED_BYTES_MAX = 256 << 20  # closed windows and late rows that the lake has not taken; above it reading waits
SNAPSHOT_INTERVAL_S = 15.0  # what a killed worker has to read again
SNAPSHOT_SHARE = 20  # writing snapshots may take one twentieth of the time
_LATE = "late"


class HalfCounted(EaglerayError):
    """A chunk could not be counted to its end; only a new partition, from snapshot and log, can go on."""


@dataclass(frozen=True)
class View:
    """The partition after all records below `position`."""

    position: int
    watermark_us: int = NEVER
    runs: dict[str, tuple[Run, ...]] = field(default_factory=dict)  # by era of a window
    late: tuple[Late, ...] = ()


class WindowPartition:
    """The windows of one partition of one stream."""

    def __init__(
        self,
        stream: Stream,
        partition: int,
        log: EventLog,
        lake: Lake,
        history: StreamHistory,
        closed: Mapping[str, int],
        state: State,
        clock: Clock,
        tables: StateOfTables,
        beat: Callable[[], object] = lambda: None,
    ) -> None:
        """Become the partition's owner in `state`, and restore.

        From the newest snapshot there, else from the log's first record, else from the tables. `history`: every
        definition of the stream's windows; `closed`: by window, where its table stands. `beat` is called while
        restoring goes on. Raises LogUnavailable, StateUnavailable (call again), OSError.
        """
        self._tables = tables
        self.stream, self.partition, self.log, self.lake, self.clock = stream, partition, log, lake, clock
        self.counters: dict[str, int] = {}
        self._beat = beat
        self.history = history
        self._key = partition_key(partition)
        place = f"{stream.name}/window/{self._key}"
        self._ids = state.place(f"{place}/ids")
        live = [era for eras in history.live(closed).values() for era in eras]
        self._store = SnapshotStore(state.place(place), {era.key: _needed(era, self._key) for era in live})
        single = log.partitions == 1
        self.states = {
            era.key: WindowState(era.spec, era.definition.fields, era.allowed_lateness_us, single, era.floor_us)
            for era in history.eras
        }
        self._read_schema = _read_schema(history, stream)
        self._counting = _counting(history, self._read_schema)
        self._settings = WatermarkTimes(history.watermarks, self._key)
        self.traced = TracedEvents(history.eras)
        self._late: list[Late] = []
        self._heard: dict[str, int] = {}  # session windows: the merge whose open sessions were applied last
        self._dedup = Deduplicator(stream.config.dedup_horizon)
        self.end = 0
        self._counted_from, watermark = self._restore(closed)
        self._reader = self._open_reader()
        self.view = self._viewed(self._counted_from, watermark)
        self._active_us = clock.now_us()
        self._saved, self._save_at = self._counted_from, time.monotonic() + SNAPSHOT_INTERVAL_S

    def _count(self, what: str, by: int = 1) -> None:
        if by:
            self.counters[what] = self.counters.get(what, 0) + by

    # ── restoring ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _restore(self, closed: Mapping[str, int]) -> tuple[int, int]:
        first, self.end = self.log.bounds(self.stream.name, self.partition)
        found = self._store.load()
        if found is not None and first <= found.position <= self.end:
            for key, state in self.states.items():
                if key in found.tables:
                    state.load(found.tables[key])
            rows = found.tables[_LATE]
            if rows.num_rows:
                self._late = [Late(rows, int(np.max(rows.column("_offset").to_numpy())))]
            return found.position, found.watermark_us
        return (first, NEVER) if first == 0 else self._recounted(first, closed)

    def _recounted(self, first: int, closed: Mapping[str, int]) -> tuple[int, int]:
        """Count open windows again from the tables, up to where `late` is decided; the log goes on from there."""
        found = self._tables.restore(self.stream, self.history, closed, self.partition, first)
        for key, table in found.open.items():
            self.states[key].load(table)
        self._count("window_state_lost_total")
        return found.position, found.watermark_us

    def _open_reader(self) -> PartitionReader:
        seen = SeenIds(self.stream, self.log, self.lake)
        for _ in seen.restore(self._dedup, self._ids, self.partition, self._counted_from):
            self._beat()
        return PartitionReader(
            self.log, self.stream, self.partition, self._counted_from, self._dedup, self._read_schema
        )

    # ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self) -> int:
        """Read and count some records; returns their bytes, 0 if there was nothing or the lake must catch up first.

        Raises LogUnavailable (call again), HalfCounted, LogCorrupt, OffsetOutOfRange (make a new one).
        """
        if self.uncommitted_bytes() > UNCOMMITTED_BYTES_MAX:
            return 0
        chunk = self._reader.read(READ_BYTES_MAX)
        if chunk is None:
            self.end = self.log.bounds(self.stream.name, self.partition).end
            return 0
        self.end = max(self.end, chunk.end)
        if chunk.end > self._counted_from:
            try:
                stream, number = self.stream.name, self.partition
                with tracing.begin("count in windows", chunk.traces, stream=stream, partition=number) as spans:
                    self._add(chunk, spans.contexts)
            except LogUnavailable as error:  # the texts of late events are read again
                # Half of the chunk is counted, and its ids are seen: called again, this would go on behind it.
                place = f"{self.stream.name}/{self.partition}: records {chunk.first} to {chunk.end - 1}"
                raise HalfCounted(f"{place}: late events could not be read: {error}") from error
        return chunk.bytes

    def _add(self, chunk: Chunk, contexts: Sequence[str]) -> None:
        events, counted = chunk.events, self._counted_from
        if chunk.first < counted:
            events = events.filter(pa.array(events.column("_offset").to_numpy() >= counted))
        if events.num_rows or chunk.duplicates:
            self._active_us = self.clock.now_us()
        batch = Batch(events, self.partition)
        advances = [
            (control.offset, int(control.body["advance"]))
            for control in chunk.controls
            if control.offset >= counted and control.offset == control.body.get("expected")
        ]
        offsets = batch.integers("_offset")
        slack, disorder = self._settings.of(offsets)
        moved = bounded_times(batch.times, batch.integers("_ingested_at"), slack)
        before, after = watermarks(moved, offsets, advances, self.view.watermark_us, disorder)
        missed: list[tuple[str, Missed]] = []
        for counting in self._counting:  # one, unless filters changed
            part, part_before, rows = batch, before, None
            if counting.filter is not None and batch.length:
                rows = np.flatnonzero(counting.filter.mask(_conformed(events, counting.filtered)))
                part, part_before = batch.take(rows), before[rows]
            for era, types in counting.eras:
                one = self.states[era.key].add(part.retyped(types), part_before)
                if len(one.rows):
                    missed.append((era.spec.name, one if rows is None else one._replace(rows=rows[one.rows])))
        self._keep_late(batch, missed)
        self._count("window_events_total", part.length)
        self._count("window_duplicates_total", chunk.duplicates)
        if contexts and batch.length:
            self.traced.add(contexts, int(batch.times.min()), int(batch.times.max()))
        self.view = self._viewed(chunk.end, after)

    def _keep_late(self, batch: Batch, missed: list[tuple[str, Missed]]) -> None:
        if not missed:
            return
        texts = self._texts(places(batch, (one for _, one in missed)))
        self._late.append(late_rows(batch, missed, texts))
        for name, one in missed:
            self._count(f"window_late_total:{name}", len(one.rows))

    def _texts(self, found: list[Place]) -> dict[Place, str]:
        texts: dict[Place, str] = {}
        for offset in sorted({offset for offset, _ in found}):
            chunk = PartitionReader(self.log, self.stream, self.partition, offset, None, None).read(1)
            assert chunk is not None and chunk.first == offset
            numbers = chunk.events.column("_row").to_pylist()
            wanted = [at for at, row in enumerate(numbers) if (offset, row) in set(found)]
            for at, event in zip(wanted, chunk.events.take(pa.array(wanted, pa.int64())).to_pylist(), strict=True):
                texts[offset, numbers[at]] = event_text(event, self.stream.events.arrow)
        return texts

    def _viewed(self, position: int, watermark_us: int) -> View:
        runs = {name: state.runs for name, state in self.states.items()}
        return View(position, watermark_us, runs, tuple(self._late))

    def uncommitted_bytes(self) -> int:
        """Bytes of closed windows and late rows that are here until the lake has them."""
        watermark = self.view.watermark_us
        closed: int = sum(
            run.table.nbytes
            for state in self.states.values()
            if state.spec.kind != "session"
            for run in state.runs
            if run.last_us <= watermark
        )
        late: int = sum(late.rows.nbytes for late in self._late)
        return closed + late

    # ── what the committer says ────────────────────────────────────────────────────────────────────────────────────

    def settle(
        self, closed: Mapping[str, int], open_sessions: Mapping[str, tuple[int, Mapping[str, bytes]]], late_upto: int
    ) -> None:
        """Let go of what the tables have: windows closed up to `closed` (by name), late rows of records < `late_upto`.

        `open_sessions` has what the last merge of a session window said of each era, with the closing time it was made
        for.
        """
        for name, eras in self.history.windows.items():
            upto, packed = open_sessions.get(name, (NEVER, {}))
            news = upto == closed[name] and upto != self._heard.get(name)
            for era in eras:
                final = closed[name] >= era.final_us
                self.states[era.key].drop(closed[name], b"" if final else packed.get(era.key) if news else None)
            if news:
                self._heard[name] = upto
        self._late = [late for late in self._late if late.last >= late_upto]
        self.view = self._viewed(self.view.position, self.view.watermark_us)

    def idle(self) -> bool:
        """Caught up, and silent for idle_timeout since the last event or since this partition was taken over."""
        silent_us = self.clock.now_us() - self._active_us
        return self.view.position >= self.end and silent_us >= self.stream.config.idle_timeout

    def advance(self, target_us: int) -> bool:
        """Write into the log that the watermark goes on to `target_us`, if this partition is still idle and behind.

        Under this owner's epoch: raises Fenced where the partition has another owner. A record that is held up between
        the check and the log counts only where nothing was appended meanwhile (`expected`), so it decides nothing that
        the new owner has not read as well. Raises LogUnavailable, StateUnavailable.
        """
        position = self.view.position
        if self.view.watermark_us >= target_us or not self.idle():
            return False
        self.end = self.log.bounds(self.stream.name, self.partition).end
        if self.end != position:
            return False
        self._store.check()
        body = encode_control({"advance": target_us, "expected": position, "epoch": self.epoch})
        self.log.append(self.stream.name, [Entry(self.partition, Kind.CONTROL, 0, body)])
        self.end = position + 1
        return True

    # ── snapshots ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def epoch(self) -> int:
        """Of this owner of the partition."""
        return self._store.epoch

    @property
    def safe(self) -> int:
        """Records below are never needed again by this partition: snapshots hold what they made."""
        return self._store.safe

    def close(self) -> None:
        """Release files; what was saved stays."""
        self._dedup.close()

    def snapshot_if_due(self) -> None:
        """Save a snapshot when the time has come and something was read."""
        if time.monotonic() >= self._save_at and self.view.position > self._saved:
            self.snapshot()

    def snapshot(self) -> None:
        """Save a snapshot. A disk that does not take it changes nothing but how much is read again.

        Raises Fenced where the partition has another owner.
        """
        began, view = time.monotonic(), self.view
        tables = {name: state.compacted() for name, state in self.states.items()}
        tables[_LATE] = pa.concat_tables([LATE_COLUMNS.empty_table(), *(late.rows for late in self._late)])
        try:
            # Ids come second: those missing on disk are read again from the log, those beyond a snapshot cost it all.
            self._store.save(Snapshot(view.position, view.watermark_us, tables))
            self._saved = view.position
            self._dedup.save(self._ids, view.position)
            self._count("window_snapshots_total")
        except OSError as error:
            self._count("window_snapshot_failures_total")
            logger.warning("%s/%d: no snapshot: %s", self.stream.name, self.partition, error)
        now = time.monotonic()
        self._save_at = now + max(SNAPSHOT_INTERVAL_S, SNAPSHOT_SHARE * (now - began))


def _needed(era: Era, key: str) -> Needed:
    return Needed(era.at.get(key, 0), era.open_key, era.ended_at.get(key, 0))


class _Counting(NamedTuple):
    """Eras that count the same events, with the fields that they read as another type than the log has now."""

    filter: Filter | None
    filtered: pa.Schema
    eras: list[tuple[Era, dict[FieldPath, pa.DataType]]]


def _counting(history: StreamHistory, read: pa.Schema) -> list[_Counting]:
    """By filter; the one in force comes last."""
    found: dict[str, _Counting] = {}
    for era in sorted(history.eras, key=lambda era: era.until_us):
        definition = era.definition
        text = json.dumps([definition.filter, definition.identity["filtered"]])
        if text not in found:
            made = Filter(definition.filter, definition.filtered) if definition.filter is not None else None
            found[text] = _Counting(made, definition.filtered, [])
        found[text].eras.append((era, retyped_paths(era.spec, definition.fields, read)))
        found[text] = found.pop(text)
    return list(found.values())


def _conformed(events: pa.Table, wanted: pa.Schema) -> pa.Table:
    """`events`, or the columns of `wanted` where some are of other types."""
    if all(events.schema.field(field.name).type == field.type for field in wanted):
        return events
    return pa.table({field.name: lenient_cast(events.column(field.name), field.type) for field in wanted})


def _read_schema(history: StreamHistory, stream: Stream) -> pa.Schema:
    """The columns of the log that windows need: as they are now, or as they were last where the schema lost them."""
    definitions = [schema for era in history.eras for schema in (era.definition.fields, era.definition.filtered)]
    now = stream.log_schema
    found = {field.name: field for field in read_fields(now, *definitions)}
    known = [found.pop(field.name, field) for field in now if field.name == TIME or field.name in found]
    return pa.schema([*known, *found.values()])


class WatermarkTimes:
    """Which settings of watermarks hold for which records of a partition."""

    def __init__(self, eras: Sequence[WatermarkEra], key: str) -> None:
        """`eras` in log order; `key` is the partition's progress key."""
        self._since = np.array([era.at.get(key, 0) for era in eras], np.int64)
        self._slack = np.array([era.settings.clock_slack_us for era in eras], np.int64)
        self._disorder = np.array([era.settings.max_out_of_orderness_us for era in eras], np.int64)

    def of(self, offsets: Int64) -> tuple[Int64, Int64]:
        """`clock_slack` and `max_out_of_orderness` (n,) of records at `offsets`, or (1,) where they are the same."""
        ends = offsets[[0, -1]] if len(offsets) else np.zeros(1, np.int64)
        first, last = (np.searchsorted(self._since, [ends[0], ends[-1]], side="right") - 1).tolist()
        if first == last:
            return self._slack[first : first + 1], self._disorder[first : first + 1]
        at = np.searchsorted(self._since, offsets, side="right") - 1
        return self._slack[at], self._disorder[at]
