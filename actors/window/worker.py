"""The window worker: owns partitions, counts their events in windows, and answers the committer.

A background thread reads the log, counts and takes snapshots (partition.py); the methods called from outside work on
what it has published and never wait for it. All state is a cache of the log: a worker that is killed starts again from
its newest snapshot, and the tables say what of it is done already.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pyarrow as pa

from eagleray.actors.messages import (
    CLOSED,
    Heard,
    Order,
    PartitionId,
    PartitionReport,
    Progress,
    Staged,
    WorkerReport,
    partition_key,
)
from eagleray.actors.window.partition import View, WindowPartition
from eagleray.actors.window.recounted import StateOfTables, TablesBehind
from eagleray.actors.window.staging import LateStaging
from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError, LogCorrupt, LogUnavailable
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.window_history import StreamHistory, load_history
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.log.protocol import EventLog
from eagleray.cluster.pulse import Pulse
from eagleray.cluster.state.backends import open_state
from eagleray.cluster.state.protocol import Fenced, StateUnavailable
from eagleray.cluster.telemetry import tracing
from eagleray.cluster.telemetry.metrics import sample
from eagleray.cluster.windowing.era import Era, live
from eagleray.cluster.windowing.merge import close, open_rows, select
from eagleray.cluster.windowing.page import Range, order, page, together
from eagleray.cluster.windowing.partial import Layout
from eagleray.cluster.windowing.watermark import NEVER

logger = logging.getLogger(__name__)

POLL_S = 0.5  # between rounds that found little: each chunk has a fixed cost, so few large ones are cheaper
FULL_BYTES = 1 << 20  # a round that read this much is followed by the next one at once
LOOP = "counting"  # by the background thread; each step of a partition is a piece of it
RESTORING_S = 1.0  # that a restore takes before the worker says so: one that fails at once must not be excused
RETRY_S = 1.0  # after an error, before a partition is tried again


Partials = Mapping[str, pa.Table]
"""Partial aggregates of one window by era (`Era.key`)."""


class NotReady(EaglerayError):
    """The partition is not owned, still being restored, or not as far as was asked for. Ask again later."""


@dataclass(frozen=True)
class _Orders:
    """What the committer said last."""

    owned: frozenset[PartitionId] = frozenset()
    progress: Mapping[str, Progress] = field(default_factory=dict)
    advance: Mapping[str, int] = field(default_factory=dict)


class WindowWorker:
    """Windows of the partitions that the committer names in `collect`."""

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        log: EventLog | None = None,
        lake: Lake | None = None,
        background: bool = True,
    ) -> None:
        """Open log and lake; owns nothing before the first `collect`. Without `background`, `turn` does the work."""
        self.config = config
        self.clock = clock or SystemClock()
        self.streams = load_streams(config)
        self.log = log or open_log(config)
        self.lake = lake or Lake.open(config)
        self._orders = _Orders()
        self._held: dict[PartitionId, WindowPartition] = {}  # changed by the background thread alone
        self._retry_at: dict[PartitionId, float] = {}
        self._failing: frozenset[PartitionId] = frozenset()  # whose last attempt failed
        self._restoring_since: float | None = None  # by time.monotonic; the one that is at work now
        self._lost: dict[PartitionId, _Orders] = {}  # taken by another owner, while these orders were the last ones
        self._histories: dict[str, StreamHistory] = {}  # as the tables said first: they change before workers start
        self._open_sessions: dict[str, dict[str, tuple[int, Mapping[str, bytes]]]] = {name: {} for name in self.streams}
        self._late = LateStaging(self.lake.write, self.lake.stale, config.log.retention_hours * 3600)
        self._counters: dict[str, float] = {}
        self._mutex = threading.Lock()  # orders, counters and hints; never held across I/O
        self._heard = Heard()
        self.pulse = Pulse()
        self._state = open_state(config, self._beat)
        self._tables = StateOfTables(self.log, self.lake, self._beat)
        self._wake, self._stopping = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="windows", daemon=True) if background else None
        if self._thread is not None:
            self._thread.start()

    # ── the background thread ──────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._stopping:
            if self.turn() < FULL_BYTES:
                self._wake.wait(POLL_S)
                self._wake.clear()
        self.pulse.rest(LOOP)

    def turn(self) -> int:
        """One round: adopt and release partitions, then read some of each; returns the bytes read."""
        orders = self._orders
        self._beat()
        wanted = {key for key in orders.owned if self._counts(key[0], orders)}
        for key in self._held.keys() - wanted:
            self._release(key)
        self._failing &= wanted
        self._tables.expect(wanted - self._held.keys())
        return sum(self._attempt(key, orders) for key in sorted(wanted) if not self._stopping)

    def _beat(self) -> None:
        self.pulse.beat(LOOP, POLL_S)

    def _counts(self, stream: str, orders: _Orders) -> bool:
        """Whether some window of the stream, configured or removed since, is not final."""
        if self.streams[stream].windows:
            return True
        try:
            return bool(self._history(stream).live(_closed(self._history(stream), stream, orders.progress)))
        except Exception as error:  # whatever the catalog says: asked again in the next round
            logger.warning("windows of %s wait for the lake: %s: %s", stream, type(error).__name__, error)
            return True

    def _history(self, stream: str) -> StreamHistory:
        found = self._histories.get(stream)
        if found is None:
            found = self._histories[stream] = load_history(self.lake, self.streams[stream])
        return found

    def _attempt(self, key: PartitionId, orders: _Orders) -> int:
        self._beat()
        if time.monotonic() < self._retry_at.get(key, 0.0) or self._lost.get(key) is orders:
            return 0
        self._restoring_since = None if key in self._held else time.monotonic()
        try:
            read = self._work(key, orders)
            self._failing -= {key}
            return read
        except (LogUnavailable, StateUnavailable, TablesBehind) as error:
            self._log_error(key[0], error)
            if isinstance(error, MemoryError):  # else it is not this worker that fails
                self._failing |= {key}
            logger.warning("%s/%d waits: %s", *key, error)
        except Fenced as error:
            # Taken again only on newer orders: a worker that its orders no longer reach must not fence its successor.
            logger.warning("%s/%d is let go: %s", *key, error)
            self._release(key)
            self._lost[key] = orders
        except Exception as error:
            self._log_error(key[0], error)
            # Half a chunk may have been counted: start over from snapshot and log, which know better.
            logger.exception("%s/%d failed; starting over from its snapshot", *key)
            self._release(key)
            self._count(sample("window_errors_total", stream=key[0], partition=key[1]))
            self._failing |= {key}
        finally:
            self._restoring_since = None
        self._retry_at[key] = time.monotonic() + RETRY_S
        return 0

    def _log_error(self, stream: str, error: Exception) -> None:
        if isinstance(error, (LogUnavailable, LogCorrupt)):
            self._count(sample("log_errors_total", stream=stream, operation="read", error=type(error).__name__))

    def _release(self, key: PartitionId) -> None:
        if (partition := self._held.get(key)) is not None:
            self._held = {other: held for other, held in self._held.items() if other != key}
            for name, value in _named(partition).items():
                self._count(name, value)
            partition.close()

    def _work(self, key: PartitionId, orders: _Orders) -> int:
        stream, number = key
        partition = self._held.get(key)
        if partition is None:
            history = self._history(stream)
            closed = _closed(history, stream, orders.progress)
            partition = WindowPartition(
                *(self.streams[stream], number, self.log, self.lake, history, closed),
                *(self._state, self.clock, self._tables, self._beat),
            )
            self._held = {**self._held, key: partition}
            position = partition.view.position
            logger.info("partition taken over", extra={"stream": stream, "partition": number, "position": position})
        self._settle(stream, number, partition, orders)
        read = partition.step()
        target = orders.advance.get(stream)
        if target is not None and partition.advance(target):
            read += partition.step()
        partition.snapshot_if_due()
        return read

    def _settle(self, stream: str, number: int, partition: WindowPartition, orders: _Orders) -> None:
        closed = _closed(partition.history, stream, orders.progress)
        late = orders.progress.get(f"{stream}.late", {}).get(partition_key(number), 0)
        partition.settle(closed, self._open_sessions[stream], late)

    # ── what the committer asks ────────────────────────────────────────────────────────────────────────────────────

    def collect(
        self,
        owned: Sequence[PartitionId],
        progress: Mapping[str, Progress],
        advance: Mapping[str, int] | None = None,
        order: Order | None = None,
    ) -> WorkerReport:
        """Take orders and report: late rows to commit, and how each owned partition stands.

        Partitions not named are let go; new ones are restored in the background and absent until then. Raises
        LogUnavailable, and Outdated where a newer `order` came before.
        """
        known = {key for key in owned if key[0] in self.streams}
        with self._mutex:
            self._heard.heed(order)
            self._orders = _Orders(frozenset(known), progress, advance or {})
        self._wake.set()
        held = self._held
        views = {key: held[key].view for key in known if key in held}
        reports = {key: self._report(key, held[key], view) for key, view in views.items()}
        for key in known:
            if not self._counts(key[0], self._orders) and (end := self._end(key)) is not None:
                reports[key] = PartitionReport(end, end, end)
        since = self._restoring_since
        restoring = since is not None and time.monotonic() - since > RESTORING_S
        return WorkerReport(self._stage(views, progress), reports, self._failing & known - reports.keys(), restoring)

    def _report(self, key: PartitionId, partition: WindowPartition, view: View) -> PartitionReport:
        end = self._end(key) or view.position
        watermark = None if view.watermark_us == NEVER else view.watermark_us
        idle = view.position >= end and partition.idle()
        return PartitionReport(view.position, end, partition.safe, watermark, idle, bool(partition.traced))

    def _end(self, key: PartitionId) -> int | None:
        """The end of the log's partition; None where one stream's log is damaged, which is no reason to stop others."""
        try:
            return self.log.bounds(*key).end
        except LogCorrupt as error:
            logger.warning("end of %s/%d unknown: %s", *key, error)
            return None

    def _stage(self, views: Mapping[PartitionId, View], progress: Mapping[str, Progress]) -> list[Staged]:
        staged = []
        for stream in sorted({stream for stream, _ in views}):
            mine = {number: view for (name, number), view in views.items() if name == stream}
            try:
                offered = self._late.offer(stream, mine, progress.get(f"{stream}.late", {}))
            except Exception as error:  # whatever the object store says: the rows stay here, and are offered again
                said = "late rows of %s could not be stored and will be tried again: %s: %s"
                logger.warning(said, stream, type(error).__name__, error)
                self._count(sample("window_errors_total", stream=stream, partition="late"))
                continue
            if offered is not None:
                staged.append(offered)
        return staged

    def partials(
        self, stream: str, window: str, partitions: Sequence[int], after_us: int, upto_us: int | None
    ) -> Partials:
        """Partial aggregates of the windows with a closing time in (after, upto], by era; None: of all open ones.

        Raises NotReady unless every partition is here, with a watermark of at least `upto_us`.
        """
        views = []
        for number in partitions:
            partition = self._held.get((stream, number))
            if partition is None:
                raise NotReady(f"{stream}/{number} is not here")
            view = partition.view
            if upto_us is not None and view.watermark_us < upto_us:
                raise NotReady(f"{stream}/{number} stands at {view.watermark_us}, not yet at {upto_us}")
            views.append((partition, view))
        found = {}
        for era in live(self._history(stream).windows[window], after_us):
            after, upto = era.closed(after_us), None if upto_us is None else era.closed(upto_us)
            tables = [
                table
                for partition, view in views
                for table in partition.states[era.key].tables(view.runs[era.key], after, upto)
            ]
            found[era.key] = select(_layout(era), tables, era.allowed_lateness_us, after, upto)
        return found

    def merge(self, stream: str, window: str, begins_closed: int, ends_closed: int, *partials: Partials) -> Staged:
        """Final rows of the windows with a closing time in (begins, ends], written as files; raises OSError.

        `partials` cover every partition of the stream. The batch has no files if no such window has rows.
        """
        table, files, rows, still_open = f"{stream}.{window}", [], 0, {}
        for era in live(self._history(stream).windows[window], begins_closed):
            mine = [found[era.key] for found in partials]
            after, upto = era.closed(begins_closed), era.closed(ends_closed)
            closed = close(_layout(era), mine, era.allowed_lateness_us, after, upto)
            if closed.overflows:
                self._count(sample("window_overflows_total", stream=stream, window=window), closed.overflows)
            files += self.lake.write(table, self.lake.named_now(table, closed.rows)) if closed.rows.num_rows else []
            rows += closed.rows.num_rows
            still_open[era.key] = closed.still_open
        self.settle(stream, window, ends_closed, still_open)
        return Staged(table, files, rows, {CLOSED: begins_closed}, {CLOSED: ends_closed}, still_open)

    def traces(
        self, stream: str, window: str, partitions: Sequence[int], after_us: int, upto_us: int
    ) -> tuple[str, ...]:
        """Contexts of traced events in these partitions that windows with a closing time in (after, upto] may count."""
        held = [one for number in partitions if (one := self._held.get((stream, number))) is not None]
        return tuple(
            context
            for era in live(self._history(stream).windows[window], after_us)
            for partition in held
            for context in partition.traced.closing(era, era.closed(after_us), era.closed(upto_us))
        )

    def merge_traced(
        self, traces: Sequence[str], stream: str, window: str, begins: int, ends: int, *partials: Partials
    ) -> Staged:
        """As `merge`, in these contexts, which the commit belongs to as well."""
        with tracing.begin("merge", traces, table=f"{stream}.{window}") as spans:
            staged = self.merge(stream, window, begins, ends, *partials)
            spans.note(rows=staged.rows)
        return replace(staged, traces=tuple(traces))

    def settle(self, stream: str, window: str, closed_us: int, still_open: Mapping[str, bytes]) -> None:
        """Hear which sessions were open when windows up to `closed_us` were merged; used once the table is there."""
        with self._mutex:
            self._open_sessions[stream] = {**self._open_sessions[stream], window: (closed_us, still_open)}

    def rows(self, stream: str, window: str, wanted: Range, *partials: Partials) -> pa.Table:
        """The page of rows of the open windows that is wanted, in order; raises BadCursor."""
        eras = self._history(stream).windows[window]
        rows = [
            open_rows(_layout(era), mine, era.allowed_lateness_us, wanted.from_us, wanted.to_us)
            for era in eras
            if (mine := [found[era.key] for found in partials if era.key in found])
        ]
        specs = [era.spec for era in eras]
        return page(together(rows, specs), order(*specs), wanted, sort=len(rows) > 1)

    # ── the pool ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _count(self, name: str, by: float = 1) -> None:
        with self._mutex:
            self._counters[name] = self._counters.get(name, 0) + by

    def stats(self) -> dict[str, float]:
        """Counters since the process began, and the bytes of state held now."""
        with self._mutex:
            found = dict(self._counters)
        for (stream, _), partition in self._held.items():
            for name, value in _named(partition).items():
                found[name] = found.get(name, 0) + value
            state = sample("window_state_bytes", stream=stream)
            runs = (run for runs in partition.view.runs.values() for run in runs)
            found[state] = found.get(state, 0) + sum(run.table.nbytes for run in runs)
        return found

    def stop(self) -> None:
        """Finish the round in progress, save snapshots, and answer no more."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        for key, partition in self._held.items():
            with suppress(Fenced):  # its new owner has what counts
                partition.snapshot()
            self._release(key)
        self._state.close()


def _closed(history: StreamHistory, stream: str, progress: Mapping[str, Progress]) -> dict[str, int]:
    """By window, where its table stands."""
    return {name: progress.get(f"{stream}.{name}", {}).get(CLOSED, NEVER) for name in history.windows}


def _layout(era: Era) -> Layout:
    return Layout.of(era.spec, era.definition.fields)


def _named(partition: WindowPartition) -> dict[str, float]:
    found: dict[str, float] = {}
    for what, value in list(partition.counters.items()):
        name, _, window = what.partition(":")
        labels = {"stream": partition.stream.name} | ({"window": window} if window else {})
        found[sample(name, **labels)] = value
    return found
