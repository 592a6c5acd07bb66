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
from eagleray.actors.messages import EdgeReport, PartitionId, Topology
from eagleray.actors.peer import PeerLost, RayPeer
from eagleray.actors.pool import Kind, Member, Pool, process_facts
from eagleray.actors.rate_exchange import Exchange
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.telemetry.logging import configure_file

logger = logging.getLogger(__name__)

RECONCILE_INTERVAL_S = 0.5
LAG_RECORDS_BUSY = 2000  # a partition this far behind counts as a pool at its limit
SCALABLE = ("validate", "window", "writer")
COUNTING = ("validate", "window", "writer", "edge", "scheduler")  # pools whose workers have `stats`


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
        self._loop: asyncio.Task[None] | None = None
        self._draining = False
        self._serving: frozenset[str] = frozenset()  # edges that listen
        self._in_flight_bytes = 0  # at the fullest edge
        self._spent = Exchange()

    async def run(self) -> int:
        """Start reconciling; returns the edge's port once every worker answers. Raises what start-up failed with."""
        if self._loop is None:
            await self._reconcile()
            self._loop = asyncio.create_task(self._forever())
        while not self._ready():
            await asyncio.sleep(0.05)
        return self.port

    def _ready(self) -> bool:
        edges = self.pools["edge"]
        up = all(len(pool.alive()) == pool.size for pool in self.pools.values())
        return up and all(member.peer.name in self._serving for member in edges.alive())

    async def _forever(self) -> None:
        while not self._draining:
            await asyncio.sleep(RECONCILE_INTERVAL_S if self._ready() else 0.1)
            try:
                await self._reconcile()
                await self._autoscale()
            except Exception:
                logger.exception("reconciliation failed; trying again")

    async def _reconcile(self) -> None:
        # 1. the right number of workers
        changed = [name for name, pool in self.pools.items() if pool.reconcile()]
        # 2. who answers
        await asyncio.gather(*(pool.heartbeat() for pool in self.pools.values()))
        # 3. who owns what
        if changed or not self.topology.version:
            self.topology = Topology(self._clock.now_us(), self._assign("window"), self._assign("writer"))
        # 4. tell committer and edges
        await self._attend()

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
        await self.pools["committer"].ask("attend", self.topology)
        committer = next(iter(self.pools["committer"].members.values())).peer
        sql = [member.peer for member in self.pools["sql"].members.values()] if "sql" in self.pools else []
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
            except (PeerLost, TimeoutError) as error:
                logger.warning("%s does not answer: %s", member.peer.name, error)
                continue
            self.port = report.port
            self._spent.answered(member.peer.name, report.spent, names)
            serving.add(member.peer.name)
            in_flight.append(report.in_flight_bytes)
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
            **next(iter(committer.values()), {}),
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
        left = max(1.0, deadline - time.monotonic())
        done = await self.pools["committer"].ask("drain", left, timeout_s=left + 5)
        await asyncio.gather(
            self.pools["window"].ask("stop", timeout_s=10), self.pools["writer"].ask("stop", timeout_s=10)
        )
        for pool in self.pools.values():
            pool.size = 0
            pool.reconcile()
        return all(done.values())
