"""The controller: one detached actor that keeps pools at their size and tells everyone who is there.

In the manner of Ray Serve's controller: a loop that compares what should be with what is, and repeats itself; every
message it sends states the whole truth, so a lost one or a restarted receiver is mended by the next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import ray

from eagleray.actors.autoscale import Autoscaler
from eagleray.actors.host import Kind, process_facts
from eagleray.actors.messages import EdgeReport, PartitionId, StartReport, Topology
from eagleray.actors.peer import PeerLost, RayPeer
from eagleray.actors.pool import Member, Pool
from eagleray.actors.rate_exchange import Exchange
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.telemetry.logging import configure_file

logger = logging.getLogger(__name__)

RECONCILE_INTERVAL_S = 0.5
MISSING_LOOK_S = 0.1  # instead, while workers are missing
QUIET_LOOK_S = 2.0  # instead, where nobody has asked for anything for QUIET_AFTER_S
QUIET_AFTER_S = 10.0
LAG_RECORDS_BUSY = 2000  # a partition this far behind counts as a pool at its limit
ACKING = ("edge", "validate")  # with the log, all that an ack needs: made first, and alone
SCALABLE = ("validate", "window", "writer")
COUNTING = ("validate", "window", "writer", "edge", "scheduler")  # pools whose workers have `stats`


_NO_COMMITTER: Mapping[str, Any] = {"partitions": [], "last_commit_us": {}, "counters": {}, "topology": 0}


class Controller:
    """Reconciles the pools. `kinds` says how the workers of each pool are made."""

    def __init__(self, config: Config, kinds: Mapping[str, Kind]) -> None:
        """Nothing is started before `run`."""
        configure_file(config.logs_dir, "controller")
        self.config = config
        sizes = {
            "edge": config.edge.processes,
            "validate": config.pools.validate_.min,
            "window": config.pools.window.min,
            "writer": config.pools.writer.min,
        }
        self.pools = {name: Pool(kind, sizes.get(name, 1)) for name, kind in kinds.items()}
        self.autoscaler = Autoscaler(config.pools)
        self.port = config.edge.port
        self.topology = Topology(version=0)
        self._clock = SystemClock()
        self._acking = False  # events can be acked, since once
        self._refused: EaglerayError | None = None  # why an edge cannot listen
        self._complete_us: dict[str, int] = {}
        self._answered: dict[str, int] = {}  # requests, by edge
        self._asked_at = time.monotonic()  # when an edge had last answered one
        self._loop: asyncio.Task[None] | None = None
        self._draining = False
        self._serving: frozenset[str] = frozenset()  # edges that listen
        self._in_flight_bytes = 0  # at the fullest edge
        self._spent = Exchange()

    async def run(self) -> int:
        """Start reconciling; returns the edge's port once events can be acked. Raises what that failed with.

        Window and writer workers, committer, SQL and scheduler are made afterwards: nobody waits for them, since what
        is acked is in the log.
        """
        if self._loop is None:
            await self._reconcile()
            self._loop = asyncio.create_task(self._forever())
        while not self._acking:
            failures = [self._refused] if self._refused else []
            failures += [failure for name in ACKING for failure in self.pools[name].failures()]
            if failures:
                raise failures[0]
            await asyncio.sleep(MISSING_LOOK_S)
        return self.port

    async def start_report(self) -> StartReport:
        """How far the start is."""
        failures = [failure for pool in self.pools.values() for failure in pool.failures()]
        return StartReport(dict(self._complete_us), self._complete(), failures)

    def _complete(self) -> bool:
        edges = self.pools["edge"].alive()
        up = all(pool.complete for pool in self.pools.values())
        return up and all(member.peer.name in self._serving for member in edges)

    async def _forever(self) -> None:
        while not self._draining:
            await asyncio.sleep(self._pause_s())
            try:
                await self._reconcile()
                if self._complete():
                    await self._autoscale()
            except Exception:
                logger.exception("reconciliation failed; trying again")

    def _pause_s(self) -> float:
        """Until the next look. Each asks every worker: 10 % of a core for a platform that nobody uses."""
        if not self._complete():
            return MISSING_LOOK_S
        quiet_s = time.monotonic() - self._asked_at
        return QUIET_LOOK_S if quiet_s > QUIET_AFTER_S and not self._in_flight_bytes else RECONCILE_INTERVAL_S

    async def _reconcile(self) -> None:
        # 1. the right number of workers; those that ack have the machine for themselves until they do
        wanted = [name for name in self.pools if self._acking or name in ACKING]
        changed = [name for name in wanted if self.pools[name].reconcile()]
        # 2. who answers
        await asyncio.gather(*(pool.heartbeat() for pool in self.pools.values()))
        # 3. who owns what
        if self._acking and (changed or not self.topology.version):
            self.topology = Topology(self._clock.now_us(), self._assign("window"), self._assign("writer"))
        # 4. tell committer and edges
        await self._attend()
        self._acking = self._acking or bool(self._serving and self.pools["validate"].alive())
        for name in wanted:
            if self.pools[name].complete:
                self._complete_us.setdefault(name, self._clock.now_us())

    async def _autoscale(self) -> None:
        committer = await self.pools["committer"].ask("status")
        loads = {"validate": self._in_flight_bytes / self.config.edge.in_flight_bytes_max}
        partitions = [row for status in committer.values() for row in status["partitions"]]
        for pool in ("window", "writer"):
            lags = (row["end"] - row[pool]["position"] for row in partitions if row.get(pool))
            loads[pool] = max(lags, default=0) / LAG_RECORDS_BUSY
        cores = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        for name, load in loads.items():
            free = cores - sum(self.pools[pool].size for pool in SCALABLE)
            self.pools[name].size = self.autoscaler.size(name, self.pools[name].size, load, free)

    def _assign(self, pool: str) -> dict[PartitionId, RayPeer]:
        peers = [member.peer for member in self.pools[pool].members.values()]
        partitions = [(s, p) for s in sorted(self.config.streams) for p in range(self.config.log.partitions)]
        return {partition: peers[index % len(peers)] for index, partition in enumerate(partitions)}

    async def _attend(self) -> None:
        # a committer that has not heard of this topology yet knows only a part of the windows
        heard = await self.pools["committer"].ask("attend", self.topology) if self.topology.version else {}
        committer = next((m.peer for m in self.pools["committer"].alive() if m.peer.name in heard), None)
        sql = [member.peer for member in self.pools["sql"].alive()] if "sql" in self.pools else []
        validators = [(member.peer, member.pid) for member in self.pools["validate"].alive()]
        edges = self.pools["edge"].alive()
        names = [member.peer.name for member in edges]
        serving, in_flight = set(), []
        for index, member in enumerate(edges):
            if not self.port and index:
                break  # the first edge finds the port, the others share it
            try:
                news = (self.port, validators, committer, sql, self._spent.waiting(member.peer.name))
                report: EdgeReport = await member.peer.call("attend", *news, timeout_s=10)
            except ConfigError as error:  # the port is taken
                self._refused = error
                continue
            except (PeerLost, TimeoutError) as error:
                logger.warning("%s does not answer: %s", member.peer.name, error)
                continue
            self.port = report.port
            self._spent.answered(member.peer.name, report.spent, names)
            serving.add(member.peer.name)
            in_flight.append(report.in_flight_bytes)
            if self._answered.get(member.peer.name) != report.answered:
                self._answered[member.peer.name], self._asked_at = report.answered, time.monotonic()
        self._serving, self._in_flight_bytes = frozenset(serving), max(in_flight, default=0)

    async def scale(self, pool: str, size: int) -> int:
        """Set a pool's size within its limits and hold it there; returns the size. Raises EaglerayError."""
        if pool not in SCALABLE:
            raise EaglerayError(f"no pool {pool!r} can be scaled; expected one of {', '.join(SCALABLE)}")
        limits = self.autoscaler.limits(pool)
        if not 1 <= size <= limits.max:
            raise EaglerayError(f"pools.{pool}.max is {limits.max}; expected a size from 1 to {limits.max}")
        self.pools[pool].size = size
        self.autoscaler.hold(pool)
        await self._reconcile()
        return size

    async def status(self) -> dict[str, Any]:
        """What runs: pools, processes, partitions, tables, counters."""
        stats, committer = await asyncio.gather(self._stats(), self.pools["committer"].ask("status"))
        own = Member(RayPeer("controller-0", None), alive=True, **process_facts())  # type: ignore[arg-type]
        rows = [("controller", own)] + [(p, m) for p, pool in self.pools.items() for m in pool.members.values()]
        return {
            "pools": {name: {"size": pool.size, "alive": len(pool.alive())} for name, pool in self.pools.items()},
            "processes": [
                {"pool": pool, "name": m.peer.name, "pid": m.pid, "alive": m.alive, "restarts": m.restarts}
                | {"rss_bytes": m.rss_bytes}
                for pool, m in rows
            ],
            "workers": stats,
            **next(iter(committer.values()), _NO_COMMITTER),
        }

    async def _stats(self) -> dict[str, dict[str, float]]:
        pools = [pool for name, pool in self.pools.items() if name in COUNTING]
        answers = await asyncio.gather(*(pool.ask("stats") for pool in pools))
        return {name: stats for answer in answers for name, stats in answer.items()}

    async def drain(self, timeout_s: float) -> bool:
        """Stop taking events, commit what was acked, save state; True if all of it was done in `timeout_s`."""
        self._draining = True
        deadline = time.monotonic() + timeout_s
        await self.pools["edge"].ask("drain", timeout_s=timeout_s)
        while not self._complete() and time.monotonic() < deadline:  # a drain soon after the start
            await self._reconcile()
            await asyncio.sleep(MISSING_LOOK_S)
        left = max(1.0, deadline - time.monotonic())
        done = await self.pools["committer"].ask("drain", left, timeout_s=left + 5)
        await asyncio.gather(
            self.pools["window"].ask("stop", timeout_s=10), self.pools["writer"].ask("stop", timeout_s=10)
        )
        for pool in self.pools.values():
            pool.size = 0
            pool.reconcile()
        return bool(done) and all(done.values())
