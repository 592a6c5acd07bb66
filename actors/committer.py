"""The committer: the one actor that moves tables forward. Pulls from writer and window workers; commits to the lake.

Two loops run side by side, so that windows never delay events: the writer loop (collect → commit `dead_letters`,
then `events`) and the window loop (collect → commit `late` → close windows). Progress lives in the tables alone, so
this actor can be killed at any instruction: its successor reads the tables and asks the workers again. A batch is
committed only where the table stands exactly at the batch's beginning; a stopped committer that wakes up finds its
commit refused.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from eagleray.actors.collector import Collector, by_peer, while_owners
from eagleray.actors.messages import (
    CLOSED,
    Order,
    PartitionId,
    PartitionReport,
    Staged,
    Topology,
    Version,
    WorkerReport,
    partition_key,
)
from eagleray.actors.objectives import Counts
from eagleray.actors.peer import Peer
from eagleray.actors.retention import Retention
from eagleray.actors.window_closing import closing_target, may_close
from eagleray.cluster.backup.hold import deleting
from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import CommitFailed, CommitUnknown, EaglerayError, LogCorrupt, LogUnavailable
from eagleray.cluster.events.stream import Stream, load_streams
from eagleray.cluster.lake.lake import Beside, Lake
from eagleray.cluster.lake.progress import NEVER, decode
from eagleray.cluster.lake.window_history import StreamHistory, load_history
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.log.lineage import decode as lineage
from eagleray.cluster.pulse import Pulse
from eagleray.cluster.telemetry import tracing
from eagleray.cluster.telemetry.freshness import Freshness
from eagleray.cluster.telemetry.metrics import sample
from eagleray.cluster.windowing.era import History
from eagleray.cluster.windowing.page import Cursor, Range, joined, last, order, together, values

logger = logging.getLogger(__name__)

TRACES_TIMEOUT_S = 1.0  # without an answer there is no span, and nothing else is missing
COLLECT_TIMEOUT_S = 30.0  # a worker that takes longer is skipped for this round; its work is not lost
# That a commit may take before it is overdue: six tries, each of which may wait for a catalog that is locked or away.
# Readiness says much sooner that a table stands still; a committer that is replaced for an outage mends nothing.
COMMIT_S = 120.0
STANDING = 2  # times `pools.stalled_after_s` that a partition may stand still before its worker is replaced for it
ROUND_S = 120.0  # that a round may take between what is timed by itself
TRIM_INTERVAL_S = 30.0
OVERTAKEN_INTERVAL_S = 10.0
OVERTAKEN = "were deleted before the tables had them: the stream stands still; `eagleray recover` goes on without them"
EXPIRE_EVERY_COMMITS = 20
GONE = "is gone: put it back, or stop, and start: `up` says what can be done"


class Committer:
    """Commits for all tables of all streams. `attend` hands it the topology; it works until `drain`."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        """Open lake and log; nothing is called before `attend`."""
        self.config = config
        self.clock = clock or SystemClock()
        self.lake = Lake.open(config)
        self.streams = load_streams(config)
        self.log = open_log(config, self.clock)
        self._overtaken: dict[str, str] = {}  # streams whose log begins beyond what `events` has read
        self._troubled: dict[str, dict[str, Any]] = {}  # streams whose log has something wrong, as last seen
        self._retention = Retention(self.log, self.clock, round(config.log.retention_hours * 3_600_000_000))
        self.histories: dict[str, StreamHistory] = {}  # read by the first round
        self._open: frozenset[str] = frozenset()  # streams with windows that are not final
        self._empty: dict[str, int] = {}  # window tables: how far their last merge without rows went
        self.topology = Topology(version=(-1, 0))
        self.advance: dict[str, int] = {}
        self.counters: defaultdict[str, float] = defaultdict(float)
        self.pools = {
            "writer": Collector("writer", lambda: self.topology.writer, self.counters),
            "window": Collector("window", lambda: self.topology.window, self.counters),
        }
        self.commits: defaultdict[str, int] = defaultdict(int)
        self.last_commit_us: dict[str, int] = {}
        self.freshness = Freshness(config.slo.freshness_p99)
        self._life = f"committer {secrets.token_hex(8)}"  # a process id may come again, and its counts from 0
        self.pulse = Pulse()
        self._failing: dict[str, tuple[float, str]] = {}  # rounds, since when and with what
        self._refused: dict[str, str] = {}  # tables whose last commit was refused, or is not known; and why
        self.gone: dict[str, str] = {}  # tables that somebody dropped, or that cannot be read; and what is said of it
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._rounds = 0  # with the topology's version, the order of what workers are asked

    async def attend(self, topology: Topology) -> Version:
        """Take the newest topology and make sure that the loops run; returns the version in force."""
        if topology.version > self.topology.version:
            self._count_handovers(topology)
            owners = {pool: _owners_of(getattr(topology, pool)) for pool in ("window", "writer")}
            logger.info("partitions assigned", extra={"version": topology.version, **owners})
            self.topology = topology
        if not self._tasks and not self._stopping:
            self._tasks = [
                asyncio.create_task(self._forever(self.write_round, self.config.lake.commit_interval_s)),
                asyncio.create_task(self._forever(self.window_round, self.config.lake.commit_interval_s)),
                asyncio.create_task(self._forever(self.trim_round, TRIM_INTERVAL_S)),
                asyncio.create_task(self._forever(self.overtaken_round, OVERTAKEN_INTERVAL_S)),
            ]
        return self.topology.version

    def _count_handovers(self, newer: Topology) -> None:
        for pool in ("window", "writer"):
            before: Mapping[PartitionId, Peer] = getattr(self.topology, pool)
            after: Mapping[PartitionId, Peer] = getattr(newer, pool)
            moved = sum(after[key].name != peer.name for key, peer in before.items() if key in after)
            if before:  # else this process has just begun, and knows of no owner before
                self.counters[sample("partition_handovers_total", pool=pool)] += moved

    async def _forever(self, work: Callable[[], Awaitable[object]], interval_s: float) -> None:
        name = work.__name__
        while not self._stopping:
            began = time.monotonic()
            self.pulse.beat(name, ROUND_S)
            try:
                await work()
                self._failing.pop(name, None)
            except Exception as error:
                # The next round starts from what the tables say, so nothing is lost by going on.
                self.counters[f"committer_errors_total{{round={name}}}"] += 1
                self._failing.setdefault(name, (began, f"{type(error).__name__}: {error}"))
                logger.exception("%s failed; trying again", name)
            pause_s = max(0.05, interval_s - (time.monotonic() - began))
            self.pulse.beat(name, pause_s)
            await asyncio.sleep(pause_s)

    def problems(self) -> dict[str, str]:
        """What has kept tables from moving for `edge.ready_lag_s`, by part of the platform; for readiness."""
        now, found = time.monotonic(), {}
        if self.gone:
            found["tables"] = "; ".join(f"{table} {why}" for table, why in sorted(self.gone.items()))
        for since, what in list(self._failing.values()):
            if now - since >= self.config.edge.ready_lag_s:
                found["lake"] = f"no round of commits has succeeded for {now - since:.0f} s: {what}"
        for pool, collector in self.pools.items():
            seconds, sentence = collector.still.longest(now)
            if seconds >= self.config.edge.ready_lag_s:
                refused = "".join(f"; {table}: {why}" for table, why in list(self._refused.items()))
                found["lake" if refused else pool] = sentence + refused
        found |= {f"log {stream}": trouble["problem"]["detail"] for stream, trouble in self._troubled.items()}
        return found

    def standing(self, pool: str) -> dict[PartitionId, int]:
        """Partitions that their worker in `pool` does not move, though the lake takes what it is given; and where."""
        if self._refused or self._failing:
            return {}
        return self.pools[pool].still.standing(STANDING * self.config.pools.stalled_after_s)

    # ── events and dead letters ────────────────────────────────────────────────────────────────────────────────────

    async def write_round(self) -> bool:
        """Collect from every writer and commit what it staged; True if every writer has nothing left to do."""
        self._troubled = await asyncio.to_thread(self._troubles)
        if self._failing:  # what follows may raise again, and events wait meanwhile
            await asyncio.to_thread(self._look_at_ends, {}, {})
        progress = await self._progress("events", "dead_letters")
        reports = await self._collect("writer", self.topology.writer, progress)
        await asyncio.to_thread(self._look_at_ends, progress, self.pools["writer"].reports)
        self._look_at_positions(progress, await self._commit_staged(reports))
        return self.pools["writer"].caught_up(self._partitions()) and not any(report.staged for report in reports)

    async def _commit_staged(self, reports: Sequence[WorkerReport]) -> list[Staged]:
        """Commit what the workers staged; returns what could not be. Streams do not wait for one another.

        The workers of a stream commit to the same tables: at once, they would overtake one another and try again.
        """
        by_stream: defaultdict[str, list[list[Staged]]] = defaultdict(list)
        for report in reports:
            mine: defaultdict[str, list[Staged]] = defaultdict(list)
            for batch in report.staged:
                mine[batch.table.partition(".")[0]].append(batch)
            for stream, batches in mine.items():
                by_stream[stream].append(batches)
        left = await asyncio.gather(*map(self._commit_in_turns, by_stream.values()))
        return [batch for batches in left for batch in batches]

    async def _commit_in_turns(self, workers: Sequence[Sequence[Staged]]) -> list[Staged]:
        left: list[Staged] = []
        for staged in workers:
            for at, batch in enumerate(staged):
                if not await self._commit(batch):
                    left += staged[at:]  # what follows must not overtake: the worker offers all of it again
                    break
        return left

    def _look_at_ends(
        self, progress: Mapping[str, Mapping[str, int]], reports: Mapping[PartitionId, PartitionReport]
    ) -> None:
        """Note where the log ends, before anything of this round can hang; the log says it where no report does."""
        now_us = self.clock.now_us()
        for stream, partition in self._partitions():
            lag, writer = self.freshness.lag((stream, partition)), reports.get((stream, partition))
            end = writer.end if writer is not None else self._end(stream, partition)
            since_us = now_us
            if lag.is_new and progress:
                at = progress[f"{stream}.events"].get(partition_key(partition), 0)
                since_us = self._waited_since_us(stream, partition, at, end) or now_us
            lag.see(end, since_us)

    def _look_at_positions(self, progress: Mapping[str, Mapping[str, int]], left: Sequence[Staged]) -> None:
        """Note how far each consumer is: the writer where the tables have all before, so not where it has read."""
        for stream, partition in self._partitions():
            key, positions = partition_key(partition), self.freshness.lag((stream, partition)).positions
            writer = self.pools["writer"].reports.get((stream, partition))
            window = self.pools["window"].reports.get((stream, partition))
            at = progress.get(f"{stream}.events", {}).get(key, 0)
            if writer is not None:  # beyond what is in the tables lie records without rows, unless a commit is missing
                mine = (b.begins[key] for b in left if b.table.startswith(f"{stream}.") and key in b.begins)
                at = min([max(at, writer.position), *mine])
            positions["writer"] = max(at, positions.get("writer", 0))
            if window is not None:
                positions["window"] = window.position

    def _end(self, stream: str, partition: int) -> int:
        try:
            return self.log.bounds(stream, partition).end
        except (LogUnavailable, LogCorrupt):
            return 0  # said elsewhere

    def _waited_since_us(self, stream: str, partition: int, at: int, end: int) -> int | None:
        """When the record at an offset came, for a committer that has just begun; None: there is none."""
        try:
            return self.log.read(stream, partition, at, 1)[0].ingested_at_us if at < end else None
        except EaglerayError:
            return None

    async def _commit(self, batch: Staged) -> bool:
        with tracing.begin("commit", batch.traces, table=batch.table, rows=batch.rows) as spans:
            landed = await self._committed(batch)
            if spans.contexts:
                spans.note(landed=landed, snapshot=await asyncio.to_thread(self.lake.newest_snapshot, batch.table))
        return landed

    async def _committed(self, batch: Staged) -> bool:
        began = time.monotonic()
        try:
            beside = Beside(marks=batch.marks)
            with self.pulse.work(f"a commit to {batch.table}", COMMIT_S):
                await asyncio.to_thread(self.lake.commit, batch.table, batch.files, batch.begins, batch.ends, beside)
        except CommitFailed as error:
            self._refused[batch.table] = str(error)
            self.counters[f"commits_refused_total{{table={batch.table}}}"] += 1
            logger.warning("commit to %s refused: %s", batch.table, error)
            return False
        except CommitUnknown as error:
            self._refused[batch.table] = str(error)
            self.counters[f"commits_unknown_total{{table={batch.table}}}"] += 1
            logger.warning("commit to %s unknown, the table will tell: %s", batch.table, error)
            return False
        self._refused.pop(batch.table, None)
        self._tell(batch)
        self.counters[f"commits_total{{table={batch.table}}}"] += 1
        self.counters[f"committed_rows_total{{table={batch.table}}}"] += batch.rows
        self.counters[f"commit_seconds_total{{table={batch.table}}}"] += time.monotonic() - began
        self.last_commit_us[batch.table] = now_us = self.clock.now_us()
        self.freshness.landed(batch.table, batch.arrivals, now_us)
        self.commits[batch.table] += 1
        if self.commits[batch.table] % EXPIRE_EVERY_COMMITS == 0:
            await asyncio.to_thread(self.lake.expire, batch.table)
        return True

    def _tell(self, batch: Staged) -> None:
        """Let the log's own tools know how far `events` has read."""
        stream, _, table = batch.table.partition(".")
        if table == "events":
            keys = {partition: partition_key(partition) for partition in range(self.log.partitions)}
            self.log.committed(stream, {p: batch.ends[key] for p, key in keys.items() if key in batch.ends})

    # ── windows ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def window_round(self) -> bool:
        """Collect from every window worker, commit late events, close what can be closed; True if nothing was left."""
        await self._load_histories()
        progress = await self._progress("late", windows=True)
        reports = await self._collect("window", self.topology.window, progress, self.advance)
        await self._commit_staged(reports)
        by_partition = self.pools["window"].reports
        self.advance = {}
        closings = []
        for name in self.histories:
            mine = [by_partition.get((name, p)) for p in range(self.config.log.partitions)]
            open_ones = self._live(name, progress)
            self._open = self._open | {name} if open_ones else self._open - {name}
            if not open_ones or any(report is None for report in mine):
                continue  # a partition nobody has restored yet holds every window open
            present = [report for report in mine if report is not None]
            target = closing_target(present)
            if target is not None:
                self.advance[name] = target
            watermarks = [report.watermark_us for report in present if report.watermark_us is not None]
            if len(watermarks) == len(present):
                watermark = min(watermarks)
                closings += [self._close(name, w, eras, watermark, progress) for w, eras in open_ones.items()]
        await asyncio.gather(*closings)
        return self.pools["window"].caught_up(self._partitions()) and not any(report.staged for report in reports)

    async def _load_histories(self) -> None:
        """Read the definitions of windows, once: they change before the platform starts, and not while it runs."""
        for name in self.streams:
            try:
                await self._history(name)
            except Exception as error:  # whatever its tables say: the other streams' windows go on
                logger.warning("windows of %s wait: %s: %s", name, type(error).__name__, error)

    async def _history(self, name: str) -> StreamHistory:
        """The definitions of the stream's windows; raises what its tables say."""
        found = self.histories.get(name)
        if found is None:
            found = self.histories[name] = await asyncio.to_thread(load_history, self.lake, self.streams[name])
        return found

    def _counts(self, stream: str) -> bool:
        return bool(self.streams[stream].windows) or stream in self._open

    def _live(self, stream: str, progress: Mapping[str, Mapping[str, int]]) -> dict[str, History]:
        history = self.histories[stream]
        return history.live({name: progress[f"{stream}.{name}"].get(CLOSED, NEVER) for name in history.windows})

    async def _close(
        self, stream: str, window: str, eras: History, watermark_us: int, progress: Mapping[str, Mapping[str, int]]
    ) -> None:
        table = f"{stream}.{window}"
        begins = progress[table].get(CLOSED, NEVER)
        # Up to there a merge found no rows, and late events never make any: it would find none again.
        empty = max(begins, self._empty.get(table, NEVER))
        if not may_close(eras, empty, watermark_us):
            return
        traces = await self._traces(stream, window, empty, watermark_us)
        spans = tracing.begin("close a window", traces, table=table)  # not ended, and so not told, if nothing closes
        refs = [
            peer.ref("partials", stream, window, partitions, begins, watermark_us)
            for peer, partitions in self._owners(stream)
        ]
        merger = self._merger(stream, window)
        merge = ("merge_traced", spans.contexts) if spans.contexts else ("merge",)
        try:
            call = merger.call(*merge, stream, window, begins, watermark_us, *refs, timeout_s=COLLECT_TIMEOUT_S)
            asked = [peer for peer, _ in self._owners(stream)]
            staged: Staged = await self._while_owners(asked, call)
        except Exception as error:  # a worker being restored, lost or wrong: the windows stay open until it answers
            self.counters[f"closings_delayed_total{{table={stream}.{window}}}"] += 1
            logger.warning("closing %s.%s waits: %s: %s", stream, window, type(error).__name__, error)
            return
        if not staged.files:
            self._empty[table] = watermark_us
            return
        landed = await self._commit(staged)
        spans.note(rows=staged.rows, landed=landed)
        spans.end()
        if landed and any(era.spec.kind == "session" for era in eras):
            # A fragment may go once it is known to be of no open session; a worker that does not hear it keeps more.
            told = (self._settle(peer, stream, window, watermark_us, staged) for peer, _ in self._owners(stream))
            await asyncio.gather(*told, return_exceptions=True)

    async def _traces(self, stream: str, window: str, after_us: int, upto_us: int) -> list[str]:
        """Contexts of traced events in windows that close in (after, upto]; asked for only where any are."""
        if not any(report.traced for (name, _), report in self.pools["window"].reports.items() if name == stream):
            return []
        asked = (
            peer.call("traces", stream, window, partitions, after_us, upto_us, timeout_s=TRACES_TIMEOUT_S)
            for peer, partitions in self._owners(stream)
        )
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [context for answer in answers if isinstance(answer, tuple) for context in answer]

    async def _settle(self, peer: Peer, stream: str, window: str, watermark_us: int, staged: Staged) -> None:
        call = peer.call("settle", stream, window, watermark_us, staged.still_open, timeout_s=COLLECT_TIMEOUT_S)
        await self._while_owners([peer], call)

    def _owners(self, stream: str) -> list[tuple[Peer, list[int]]]:
        mine = {key: self.topology.window[key] for key in sorted(self.topology.window) if key[0] == stream}
        return [(peer, [partition for _, partition in owned]) for peer, owned in by_peer(mine)]

    def _merger(self, stream: str, window: str) -> Peer:
        peers = [peer for peer, _ in self._owners(stream)]
        return peers[list(self.histories[stream].windows).index(window) % len(peers)]

    async def windows(
        self, stream: str, window: str, from_us: int | None, to_us: int | None, cursor: Cursor | None, limit: int
    ) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """A page of a window's rows that start in [from, to), and the cursor behind it where there are more.

        Final rows are from the table, open ones have `final` false. Raises BadCursor, LakeDamaged.
        """
        table = f"{stream}.{window}"
        specs = [era.spec for era in (await self._history(stream)).windows[window]]
        keys, wanted = order(*specs), Range(from_us, to_us, cursor, limit + 1)
        # 1. open rows first: a window that is committed meanwhile then shows up in both, and never in neither.
        begins = (await asyncio.to_thread(self.lake.progress, table)).get(CLOSED, NEVER)
        refs = [peer.ref("partials", stream, window, parts, begins, None) for peer, parts in self._owners(stream)]
        still_open = together([], specs)
        if refs:
            merger = self._merger(stream, window)
            still_open = await merger.call("rows", stream, window, wanted, *refs, timeout_s=COLLECT_TIMEOUT_S)
        # 2. final rows, which win.
        final = await asyncio.to_thread(self.lake.window_rows, table, keys, wanted)
        rows, are_final = joined(final, still_open, keys, limit + 1)
        shown = rows.slice(0, limit)
        found = [{**row, "final": is_final} for row, is_final in zip(values(shown), are_final, strict=False)]
        return found, last(shown, keys) if rows.num_rows > limit else None

    # ── shared ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _partitions(self) -> set[PartitionId]:
        """All that can get on, whether or not the topology has them: before the first one, it has none."""
        every = ((stream, partition) for stream in self.streams for partition in range(self.config.log.partitions))
        return {partition for partition in every if self._is_whole(partition)}

    async def _progress(self, *tables: str, windows: bool = False) -> dict[str, dict[str, int]]:
        """Where the tables stand. One that is gone, or that cannot be read, holds up its own stream and no other.

        Raises what the first one raises where none can be read: then it is the catalog, or the store.
        """
        names = [
            f"{name}.{table}"
            for name, stream in self.streams.items()
            for table in (*tables, *(self._windows(name, stream) if windows else ()))
        ]
        with self.pulse.work("a look at the tables' progress", COMMIT_S):
            looks = (asyncio.to_thread(self._standing, name) for name in names)
            found = dict(zip(names, await asyncio.gather(*looks, return_exceptions=True), strict=True))
        errors = [answer for answer in found.values() if isinstance(answer, BaseException)]
        if errors and len(errors) == len(found):
            raise errors[0]
        standing = {}
        for name, answer in found.items():
            if isinstance(answer, BaseException):
                self._miss(name, f"cannot be read: {type(answer).__name__}: {answer}")
            elif answer is None:
                self._miss(name, GONE)
            else:
                self.gone.pop(name, None)
            standing[name] = answer if isinstance(answer, dict) else {}
        return standing

    def _windows(self, name: str, stream: Stream) -> Collection[str]:
        """Window tables of the stream; while its history cannot be read, those of the configuration."""
        return self.histories[name].windows if name in self.histories else stream.windows

    def _miss(self, table: str, why: str) -> None:
        if table not in self.gone:
            logger.error("%s %s; nothing of its stream is stored until it is back", table, why)
        self.gone[table] = why

    def _standing(self, table: str) -> dict[str, int] | None:
        """Where the table stands; None where there is none."""
        if (found := self.lake.find(table)) is None:
            return None
        if (snapshot := found.current_snapshot()) is not None:  # of an earlier committer
            self.last_commit_us.setdefault(table, snapshot.timestamp_ms * 1000)
        if table.endswith(".events"):
            self.counters[sample("log_epochs", stream=table.partition(".")[0])] = len(lineage(found.properties))
        return decode(found.properties)

    def _is_whole(self, partition: PartitionId) -> bool:
        """Whether the partition's stream has all of its tables."""
        return not any(table.startswith(f"{partition[0]}.") for table in list(self.gone))

    async def _collect(
        self, pool: str, owners: Mapping[PartitionId, Peer], progress: dict[str, dict[str, int]], *more: Any
    ) -> list[WorkerReport]:
        self._rounds += 1
        order: Order = (*self.topology.version, self._rounds)

        def ask(peer: Peer, owned: list[PartitionId]) -> Coroutine[Any, Any, WorkerReport]:
            return peer.call("collect", owned, progress, *more, order, timeout_s=COLLECT_TIMEOUT_S)

        owners = {partition: peer for partition, peer in owners.items() if self._is_whole(partition)}
        return await self.pools[pool].round(owners, self._partitions(), ask)

    async def _while_owners(self, peers: Collection[Peer], call: Coroutine[Any, Any, Any]) -> Any:
        return await while_owners(lambda: self.topology.window, peers, call)

    async def overtaken_round(self) -> None:
        """Look for records that left the log before `events` had them: retention of others, or somebody's hand."""
        progress = await self._progress("events")
        places = [(*key, progress[f"{key[0]}.events"].get(partition_key(key[1]), 0)) for key in self._partitions()]
        found = await asyncio.to_thread(lambda: [self._lost(*place) for place in places])
        self._overtaken = {}
        for (stream, partition, at), lost in zip(places, found, strict=True):
            name = f"log_overtaken_records{{stream={stream},partition={partition}}}"
            if not lost:
                self.counters.pop(name, None)
                continue
            self.counters[name] = lost
            self._overtaken[stream] = f"{lost} records of partition {partition}, from offset {at} on, {OVERTAKEN}"
            logger.error("log %s: %s", stream, self._overtaken[stream])

    def _lost(self, stream: str, partition: int, at: int) -> int:
        try:
            return max(0, self.log.bounds(stream, partition).first - at)
        except (LogUnavailable, LogCorrupt):
            return 0  # said elsewhere

    async def trim_round(self) -> None:
        """Delete log records that every consumer has committed and that are older than the retention.

        Where windows count, none that `late` has not decided: state that is lost is counted again from there. Not while
        a backup is taken, which needs them from the tables' progress on.
        """
        with deleting(self.config.data_dir) as allowed:
            if allowed:
                await self._trim()

    async def _trim(self) -> None:
        writer, window = self.pools["writer"].reports, self.pools["window"].reports
        for (stream, partition), report in list(writer.items()):
            other = window.get((stream, partition))
            if other is not None:
                safe = min(report.safe, other.safe)
                try:
                    await asyncio.to_thread(self._trim_partition, stream, partition, safe)
                except Exception as error:  # of one stream, its log or its tables: the others go on
                    logger.warning("log %s/%d is not trimmed: %s: %s", stream, partition, type(error).__name__, error)

    def _trim_partition(self, stream: str, partition: int, safe: int) -> None:
        if self._counts(stream):
            safe = min(safe, self.lake.progress(f"{stream}.late").get(partition_key(partition), 0))
        horizon_us = self.streams[stream].config.dedup_horizon
        older_than = self._retention.older_than_us((stream, partition), safe, horizon_us)
        self.log.trim(stream, partition, safe, older_than)

    async def drain(self, timeout_s: float) -> bool:
        """Commit all that was acked, then stop; False if `timeout_s` was not enough (the log still has the rest)."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            return await self._commit_all(timeout_s)
        finally:
            for collector in self.pools.values():
                await collector.close()

    async def _commit_all(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                written, windowed = await asyncio.gather(self.write_round(), self.window_round())
            except Exception:
                logger.exception("a round of the drain failed; trying again")
                written = windowed = False
            if written and windowed:
                return not self.gone
            await asyncio.sleep(0.1)
        return False

    async def judgements(self) -> tuple[str, Counts]:
        """A name for this life of the process, and what objectives have judged in it."""
        return self._life, self.freshness.judgements()

    async def status(self) -> dict[str, Any]:
        """Partitions, tables and counters, for /v1/status and /metrics."""
        troubles = self._troubled = await asyncio.to_thread(self._troubles)
        partitions = []
        for stream, partition in sorted(self._partitions()):
            writer = self.pools["writer"].reports.get((stream, partition))
            window = self.pools["window"].reports.get((stream, partition))
            if writer is None and stream not in troubles:
                continue  # being restored
            row: dict[str, Any] = {"stream": stream, "partition": partition, "end": writer.end if writer else 0}
            row |= {"writer": asdict(writer) if writer else None, "window": asdict(window) if window else None}
            partitions.append(row | troubles.get(stream, {}))
        now_us = self.clock.now_us()
        return {
            "partitions": partitions,
            "last_commit_us": dict(self.last_commit_us),
            "counters": dict(self.counters) | self.freshness.samples(self.last_commit_us, now_us) | self._room(),
            "topology": self.topology.version,
            "standing": {pool: list(self.standing(pool).items()) for pool in self.pools},
            "gone": sorted(self.gone),
        }

    def _room(self) -> dict[str, float]:
        """Of the disks that the platform writes to."""
        places = {"data": str(self.config.data_dir), "lake": self.config.warehouse}
        found = {}
        for place, path in places.items():
            with suppress(OSError):  # in an object store, or not made yet
                usage = shutil.disk_usage(path)
                found[sample("disk_free_bytes", place=place)] = float(usage.free)
                found[sample("disk_size_bytes", place=place)] = float(usage.total)
        return found

    def _troubles(self) -> dict[str, dict[str, Any]]:
        """By stream, what is wrong with its log."""
        found = {stream: self.log.trouble(stream) for stream in self.streams}
        overtaken = {
            stream: {"problem": {"code": "log_overtaken", "detail": d}} for stream, d in self._overtaken.items()
        }
        return overtaken | {
            stream: {"problem": {"code": error.code, "detail": str(error)}}
            for stream, error in found.items()
            if error is not None
        }


def _owners_of(owners: Mapping[PartitionId, Peer]) -> dict[str, int]:
    """How many partitions each worker has."""
    return dict(Counter(peer.name for peer in owners.values()))
