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
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from eagleray.actors.messages import CLOSED, PartitionId, Staged, Topology, WorkerReport
from eagleray.actors.peer import Peer, PeerLost
from eagleray.actors.window_closing import closing_target, may_close
from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import CommitFailed, CommitUnknown, EaglerayError
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.progress import NEVER
from eagleray.cluster.log.backends import open_log

logger = logging.getLogger(__name__)

COLLECT_TIMEOUT_S = 30.0  # a worker that takes longer is skipped for this round; its work is not lost
TRIM_INTERVAL_S = 30.0
EXPIRE_EVERY_COMMITS = 20


class Committer:
    """Commits for all tables of all streams. `attend` hands it the topology; it works until `drain`."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        """Open lake and log; nothing is called before `attend`."""
        self.config = config
        self.clock = clock or SystemClock()
        self.lake = Lake.open(config)
        self.streams = load_streams(config)
        self.log = open_log(config)
        self.topology = Topology(version=-1)
        self.advance: dict[str, int] = {}
        self.reports: dict[str, dict[PartitionId, Any]] = {"writer": {}, "window": {}}
        self.counters: defaultdict[str, float] = defaultdict(float)
        self.commits: defaultdict[str, int] = defaultdict(int)
        self.last_commit_us: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def attend(self, topology: Topology) -> int:
        """Take the newest topology and make sure that the loops run; returns the version in force."""
        if topology.version > self.topology.version:
            self.topology = topology
        if not self._tasks and not self._stopping:
            self._tasks = [
                asyncio.create_task(self._forever(self.write_round, self.config.lake.commit_interval_s)),
                asyncio.create_task(self._forever(self.window_round, self.config.lake.commit_interval_s)),
                asyncio.create_task(self._forever(self.trim_round, TRIM_INTERVAL_S)),
            ]
        return self.topology.version

    async def _forever(self, work: Callable[[], Awaitable[object]], interval_s: float) -> None:
        while not self._stopping:
            began = time.monotonic()
            try:
                await work()
            except Exception:
                # The next round starts from what the tables say, so nothing is lost by going on.
                self.counters[f"committer_errors_total{{round={work.__name__}}}"] += 1
                logger.exception("%s failed; trying again", work.__name__)
            await asyncio.sleep(max(0.05, interval_s - (time.monotonic() - began)))

    # ── events and dead letters ────────────────────────────────────────────────────────────────────────────────────

    async def write_round(self) -> bool:
        """Collect from every writer and commit what it staged; True if every writer has nothing left to do."""
        progress = await self._progress("events", "dead_letters")
        reports = await self._collect("writer", self.topology.writer, progress)
        await asyncio.gather(*(self._commit_in_order(report.staged) for report in reports))
        complete = len(self.reports["writer"]) == len(self.topology.writer)
        idle = all(report.position >= report.end for report in self.reports["writer"].values())
        return complete and idle and not any(report.staged for report in reports)

    async def _commit_in_order(self, staged: list[Staged]) -> None:
        for batch in staged:
            if not await self._commit(batch):
                return  # what follows must not overtake: the worker offers all of it again

    async def _commit(self, batch: Staged) -> bool:
        began = time.monotonic()
        try:
            await asyncio.to_thread(self.lake.commit, batch.table, batch.files, batch.begins, batch.ends)
        except CommitFailed as error:
            self.counters[f"commits_refused_total{{table={batch.table}}}"] += 1
            logger.warning("commit to %s refused: %s", batch.table, error)
            return False
        except CommitUnknown as error:
            self.counters[f"commits_unknown_total{{table={batch.table}}}"] += 1
            logger.warning("commit to %s unknown, the table will tell: %s", batch.table, error)
            return False
        self.counters[f"commits_total{{table={batch.table}}}"] += 1
        self.counters[f"committed_rows_total{{table={batch.table}}}"] += batch.rows
        self.counters[f"commit_seconds_total{{table={batch.table}}}"] += time.monotonic() - began
        self.last_commit_us[batch.table] = self.clock.now_us()
        self.commits[batch.table] += 1
        if self.commits[batch.table] % EXPIRE_EVERY_COMMITS == 0:
            await asyncio.to_thread(self.lake.expire, batch.table)
        return True

    # ── windows ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def window_round(self) -> bool:
        """Collect from every window worker, commit late events, close what can be closed; True if nothing was left."""
        progress = await self._progress("late", *sorted({w for s in self.streams.values() for w in s.windows}))
        reports = await self._collect("window", self.topology.window, progress, self.advance)
        await asyncio.gather(*(self._commit_in_order(report.staged) for report in reports))
        by_partition = self.reports["window"]
        self.advance = {}
        closings = []
        for name, stream in self.streams.items():
            mine = [by_partition.get((name, p)) for p in range(self.config.log.partitions)]
            if not stream.windows or any(report is None for report in mine):
                continue  # a partition nobody has restored yet holds every window open
            present = [report for report in mine if report is not None]
            target = closing_target(present)
            if target is not None:
                self.advance[name] = target
            if all(report.watermark_us is not None for report in present):
                watermark = min(report.watermark_us for report in present)
                closings += [self._close(name, w, watermark, progress) for w in stream.windows]
        await asyncio.gather(*closings)
        caught_up = all(report.position >= report.end for report in by_partition.values())
        return caught_up and len(by_partition) == len(self.topology.window) and not any(r.staged for r in reports)

    async def _close(
        self, stream: str, window: str, watermark_us: int, progress: Mapping[str, Mapping[str, int]]
    ) -> None:
        begins = progress[f"{stream}.{window}"].get(CLOSED, NEVER)
        spec, lateness = self.streams[stream].windows[window], self.streams[stream].config.allowed_lateness
        if not may_close(spec, lateness, begins, watermark_us):
            return
        refs = [
            peer.ref("partials", stream, window, partitions, begins, watermark_us)
            for peer, partitions in self._owners(stream)
        ]
        merger = self._merger(stream, window)
        try:
            staged: Staged = await merger.call(
                "merge", stream, window, begins, watermark_us, *refs, timeout_s=COLLECT_TIMEOUT_S
            )
        except Exception as error:  # a worker being restored, lost or wrong: the windows stay open until it answers
            self.counters[f"closings_delayed_total{{table={stream}.{window}}}"] += 1
            logger.warning("closing %s.%s waits: %s: %s", stream, window, type(error).__name__, error)
            return
        if staged.files and await self._commit(staged) and spec.kind == "session":
            # A fragment may go once it is known to be of no open session; a worker that does not hear it keeps more.
            told = (
                peer.call("settle", stream, window, watermark_us, staged.still_open, timeout_s=COLLECT_TIMEOUT_S)
                for peer, _ in self._owners(stream)
            )
            await asyncio.gather(*told, return_exceptions=True)

    def _owners(self, stream: str) -> list[tuple[Peer, list[int]]]:
        mine = {key: self.topology.window[key] for key in sorted(self.topology.window) if key[0] == stream}
        return [(peer, [partition for _, partition in owned]) for peer, owned in _by_peer(mine)]

    def _merger(self, stream: str, window: str) -> Peer:
        peers = [peer for peer, _ in self._owners(stream)]
        return peers[list(self.streams[stream].windows).index(window) % len(peers)]

    async def windows(self, stream: str, window: str, from_us: int | None, to_us: int | None) -> list[dict[str, Any]]:
        """Rows of a window that start in [from, to): final ones from the table, and open ones with `final` false."""
        table = f"{stream}.{window}"
        # 1. open rows first: a window that is committed meanwhile then shows up in both, and never in neither.
        begins = (await asyncio.to_thread(self.lake.progress, table)).get(CLOSED, NEVER)
        refs = [peer.ref("partials", stream, window, parts, begins, None) for peer, parts in self._owners(stream)]
        open_rows: list[dict[str, Any]] = []
        if refs:
            merger = self._merger(stream, window)
            open_rows = await merger.call("rows", stream, window, from_us, to_us, *refs, timeout_s=COLLECT_TIMEOUT_S)
        # 2. final rows, which win.
        final_rows = await asyncio.to_thread(self.lake.window_rows, table, from_us, to_us)
        groups = ["window_start", *(path.column for path in self.streams[stream].windows[window].group_by)]
        known = {tuple(row[g] for g in groups) for row in final_rows}
        still_open = [row for row in open_rows if tuple(row[g] for g in groups) not in known]
        return [*({**row, "final": True} for row in final_rows), *({**row, "final": False} for row in still_open)]

    # ── shared ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _progress(self, *tables: str) -> dict[str, dict[str, int]]:
        names = [
            f"{name}.{table}"
            for name, stream in self.streams.items()
            for table in tables
            if table in ("events", "dead_letters", "late") or table in stream.windows
        ]
        found = await asyncio.gather(*(asyncio.to_thread(self.lake.progress, name) for name in names))
        return dict(zip(names, found, strict=True))

    async def _collect(
        self, pool: str, owners: Mapping[PartitionId, Peer], progress: dict[str, dict[str, int]], *more: Any
    ) -> list[WorkerReport]:
        async def one(peer: Peer, owned: list[PartitionId]) -> WorkerReport | None:
            try:
                return await peer.call("collect", owned, progress, *more, timeout_s=COLLECT_TIMEOUT_S)  # type: ignore[no-any-return]
            except (PeerLost, TimeoutError, EaglerayError) as error:
                logger.warning("%s does not answer: %s", peer.name, error)
                return None

        answers = await asyncio.gather(*(one(peer, owned) for peer, owned in _by_peer(owners)))
        reports = [report for report in answers if report is not None]
        self.reports[pool] = {key: value for report in reports for key, value in report.partitions.items()}
        return reports

    async def trim_round(self) -> None:
        """Delete log records that every consumer has committed and that are older than the retention."""
        older_than = self.clock.now_us() - round(self.config.log.retention_hours * 3_600_000_000)
        writer, window = self.reports["writer"], self.reports["window"]
        for (stream, partition), report in list(writer.items()):
            other = window.get((stream, partition))
            if other is not None:
                safe = min(report.safe, other.safe)
                await asyncio.to_thread(self.log.trim, stream, partition, safe, older_than)

    async def drain(self, timeout_s: float) -> bool:
        """Commit all that was acked, then stop; False if `timeout_s` was not enough (the log still has the rest)."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            written, windowed = await asyncio.gather(self.write_round(), self.window_round())
            if written and windowed:
                return True
            await asyncio.sleep(0.1)
        return False

    async def status(self) -> dict[str, Any]:
        """Partitions, tables and counters, for /v1/status and /metrics."""
        partitions = []
        for (stream, partition), writer in sorted(self.reports["writer"].items()):
            window = self.reports["window"].get((stream, partition))
            row: dict[str, Any] = {"stream": stream, "partition": partition, "end": writer.end}
            row |= {"writer": asdict(writer), "window": asdict(window) if window else None}
            partitions.append(row)
        return {
            "partitions": partitions,
            "last_commit_us": dict(self.last_commit_us),
            "counters": dict(self.counters),
            "topology": self.topology.version,
        }


def _by_peer(owners: Mapping[PartitionId, Peer]) -> list[tuple[Peer, list[PartitionId]]]:
    """The partitions of each peer, both in the order of `owners`."""
    owned: defaultdict[str, list[PartitionId]] = defaultdict(list)
    peers: dict[str, Peer] = {}
    for partition, peer in owners.items():
        owned[peer.name].append(partition)
        peers[peer.name] = peer
    return [(peers[name], partitions) for name, partitions in owned.items()]
