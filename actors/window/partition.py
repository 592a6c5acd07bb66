"""One partition of a stream as its window worker sees it: reads the log, counts, keeps what is not in the lake yet.

One thread calls the methods that change anything; `view` is replaced as a whole, so every other thread sees a position
together with exactly the state after it. What `step` raises leaves the object unusable: make a new one, from snapshot
and log.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from eagleray.actors.window.late import LATE_SCHEMA, Late, Place, event_text, late_rows, places
from eagleray.actors.window.snapshot import Snapshot, SnapshotStore
from eagleray.actors.window.state import Missed, Run, WindowState
from eagleray.cluster.clock import Clock
from eagleray.cluster.events.filter import Filter
from eagleray.cluster.events.stream import TIME, Stream
from eagleray.cluster.log.dedup.deduplicator import Deduplicator
from eagleray.cluster.log.protocol import Entry, EventLog, Kind
from eagleray.cluster.log.reader import Chunk, PartitionReader
from eagleray.cluster.log.record import encode_control
from eagleray.cluster.windowing.event_columns import Batch
from eagleray.cluster.windowing.watermark import NEVER, watermarks

logger = logging.getLogger(__name__)

READ_BYTES_MAX = 8 << 20  # read ahead of what is counted, compressed: some 50,000 events of 350 bytes
UNCOMMITTED_BYTES_MAX = 256 << 20  # closed windows and late rows that the lake has not taken; above it reading waits
SNAPSHOT_INTERVAL_S = 15.0  # what a killed worker has to read again
SNAPSHOT_SHARE = 20  # writing snapshots may take one twentieth of the time
_LATE = "late"


@dataclass(frozen=True)
class View:
    """The partition after all records below `position`."""

    position: int
    watermark_us: int = NEVER
    runs: dict[str, tuple[Run, ...]] = field(default_factory=dict)
    late: tuple[Late, ...] = ()


class WindowPartition:
    """The windows of one partition of one stream."""

    def __init__(
        self, stream: Stream, partition: int, log: EventLog, state_dir: Path, clock: Clock, single: bool = False
    ) -> None:
        """Restore from the newest snapshot below `state_dir`, else start at the log's first record.

        `single`: the stream has no other partition. Raises LogUnavailable, OSError.
        """
        self.stream, self.partition, self.log, self.clock = stream, partition, log, clock
        self.counters: dict[str, int] = {}
        self._directory = state_dir / stream.name / "window" / f"p{partition}"
        self._store = SnapshotStore(self._directory, fingerprint(stream))
        self._filter = Filter(stream.config.filter, stream.events.arrow) if stream.config.filter else None
        self.states = {
            name: WindowState(spec, stream.log_schema, stream.config.allowed_lateness, single)
            for name, spec in stream.windows.items()
        }
        self._late: list[Late] = []
        self._heard: dict[str, int] = {}  # session windows: the merge whose open sessions were applied last
        self._dedup = Deduplicator(stream.config.dedup_horizon)
        self.end = 0
        self._counted_from, watermark = self._restore()
        self._reader = self._open_reader()
        self.view = self._viewed(self._counted_from, watermark)
        self._active_us = clock.now_us()
        self._saved, self._save_at = self._counted_from, time.monotonic() + SNAPSHOT_INTERVAL_S

    def _count(self, what: str, by: int = 1) -> None:
        if by:
            self.counters[what] = self.counters.get(what, 0) + by

    # ── restoring ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _restore(self) -> tuple[int, int]:
        first, self.end = self.log.bounds(self.stream.name, self.partition)
        found = self._store.load()
        if found is not None and first <= found.position <= self.end:
            for name, state in self.states.items():
                state.load(found.tables[name])
            rows = found.tables[_LATE]
            if rows.num_rows:
                self._late = [Late(rows, int(np.max(rows.column("_offset").to_numpy())))]
            return found.position, found.watermark_us
        if first > 0:
            # Retention keeps what snapshots need, so they were deleted: windows begun before are incomplete.
            self._count("window_state_lost_total")
            logger.error("%s/%d: no snapshot and no log before %d", self.stream.name, self.partition, first)
        return first, NEVER

    def _open_reader(self) -> PartitionReader:
        known = self._dedup.restore(self._directory / "ids", self._counted_from)
        first = self.log.bounds(self.stream.name, self.partition).first
        start = max(first, min(known, self._counted_from))  # ids that are not on disk are read again, without counting
        return PartitionReader(self.log, self.stream, self.partition, start, self._dedup, self._columns())

    def _columns(self) -> list[str] | None:
        paths = [path for spec in self.stream.windows.values() for path in spec.group_by]
        paths += [one.path for spec in self.stream.windows.values() for one in spec.aggregates if one.path]
        names = {TIME, *(path.names[0] for path in paths), *(self._filter.columns if self._filter else ())}
        return [name for name in self.stream.log_schema.names if name in names]

    # ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self) -> int:
        """Read and count some records; returns their bytes, 0 if there was nothing or the lake must catch up first.

        Raises LogUnavailable (call again), LogCorrupt, OffsetOutOfRange.
        """
        if self.uncommitted_bytes() > UNCOMMITTED_BYTES_MAX:
            return 0
        chunk = self._reader.read(READ_BYTES_MAX)
        if chunk is None:
            self.end = self.log.bounds(self.stream.name, self.partition).end
            return 0
        self.end = max(self.end, chunk.end)
        if chunk.end > self._counted_from:
            self._add(chunk)
        return chunk.bytes

    def _add(self, chunk: Chunk) -> None:
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
        before, after = watermarks(
            batch.times,
            batch.integers("_offset"),
            advances,
            self.view.watermark_us,
            self.stream.config.max_out_of_orderness,
        )
        if self._filter is not None and batch.length:
            rows = np.flatnonzero(self._filter.mask(events))
            batch, before = batch.take(rows), before[rows]
        found = {name: state.add(batch, before) for name, state in self.states.items()}
        self._keep_late(batch, {name: missed for name, missed in found.items() if len(missed.rows)})
        self._count("window_events_total", batch.length)
        self._count("window_duplicates_total", chunk.duplicates)
        self.view = self._viewed(chunk.end, after)

    def _keep_late(self, batch: Batch, missed: dict[str, Missed]) -> None:
        if not missed:
            return
        texts = self._texts(places(batch, missed.values()))
        self._late.append(late_rows(batch, missed, texts))
        for name, one in missed.items():
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

    def settle(self, closed: dict[str, int], open_sessions: dict[str, tuple[int, bytes]], late_upto: int) -> None:
        """Let go of what the tables have: windows closed up to `closed` (by name), late rows of records < `late_upto`.

        `open_sessions` has what the last merge of a session window said, with the closing time it was made for.
        """
        for name, state in self.states.items():
            upto, packed = open_sessions.get(name, (NEVER, b""))
            news = upto == closed[name] and upto != self._heard.get(name)
            state.drop(closed[name], packed if news else None)
            if news:
                self._heard[name] = upto
        self._late = [late for late in self._late if late.last >= late_upto]
        self.view = self._viewed(self.view.position, self.view.watermark_us)

    def idle(self) -> bool:
        """Caught up, and silent for idle_timeout since the last event or since this partition was taken over."""
        silent_us = self.clock.now_us() - self._active_us
        return self.view.position >= self.end and silent_us >= self.stream.config.idle_timeout

    def advance(self, target_us: int) -> bool:
        """Write into the log that the watermark goes on to `target_us`, if this partition is still idle and behind."""
        position = self.view.position
        if self.view.watermark_us >= target_us or not self.idle():
            return False
        self.end = self.log.bounds(self.stream.name, self.partition).end
        if self.end != position:
            return False
        body = encode_control({"advance": target_us, "expected": position})
        self.log.append(self.stream.name, [Entry(self.partition, Kind.CONTROL, 0, body)])
        self.end = position + 1
        return True

    # ── snapshots ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def safe(self) -> int:
        """Records below are never needed again."""
        return self._store.safe

    def close(self) -> None:
        """Release files; what was saved stays."""
        self._dedup.close()

    def snapshot_if_due(self) -> None:
        """Save a snapshot when the time has come and something was read."""
        if time.monotonic() >= self._save_at and self.view.position > self._saved:
            self.snapshot()

    def snapshot(self) -> None:
        """Save a snapshot. A disk that does not take it changes nothing but how much is read again."""
        began, view = time.monotonic(), self.view
        tables = {name: state.compacted() for name, state in self.states.items()}
        tables[_LATE] = pa.concat_tables([LATE_SCHEMA.empty_table(), *(late.rows for late in self._late)])
        try:
            # Ids come second: those missing on disk are read again from the log, those beyond a snapshot cost it all.
            self._store.save(Snapshot(view.position, view.watermark_us, self._store.fingerprint, tables))
            self._saved = view.position
            self._dedup.save(self._directory / "ids", view.position)
            self._count("window_snapshots_total")
        except OSError as error:
            self._count("window_snapshot_failures_total")
            logger.warning("%s/%d: no snapshot: %s", self.stream.name, self.partition, error)
        now = time.monotonic()
        self._save_at = now + max(SNAPSHOT_INTERVAL_S, SNAPSHOT_SHARE * (now - began))


def fingerprint(stream: Stream) -> str:
    """What the state of a stream's windows depends on, besides the log."""
    config = stream.config
    parts: list[object] = [config.max_out_of_orderness, config.allowed_lateness, config.filter, config.dedup_horizon]
    for _, spec in sorted(stream.windows.items()):
        types = [(field.name, str(field.type)) for field in spec.schema]
        parts += [spec.name, spec.kind, spec.size_us, spec.every_us, spec.gap_us, spec.group_by, spec.aggregates, types]
    return xxhash.xxh3_128_hexdigest(repr(parts).encode())
