"""The composition: which class works in which pool. The one place that knows all four stages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray

from eagleray.actors.committer import Committer
from eagleray.actors.controller import Controller
from eagleray.actors.edge.server import Edge
from eagleray.actors.messages import EdgeReport
from eagleray.actors.peer import RayPeer
from eagleray.actors.pool import Kind
from eagleray.actors.ray_backend import RayBackend
from eagleray.actors.validate.worker import ValidateWorker
from eagleray.actors.window.worker import WindowWorker
from eagleray.actors.writer.worker import WriterWorker
from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.ray_session import NAMESPACE

CONTROLLER = "controller"
START_TIMEOUT_S = 120.0
BEHIND = 5  # niceness of those that nobody waits for: acks at 500 requests/s, p99 54 → 35 ms (benchmarks/RESULTS.md)


class EdgeActor:
    """The edge in a Ray actor: serves from the first `attend` on."""

    def __init__(self, config: Config) -> None:
        """Nothing listens yet."""
        self.config = config
        self.edge: Edge | None = None
        self.port = 0
        self.backend = RayBackend(config, RayPeer(CONTROLLER, ray.get_actor(CONTROLLER, NAMESPACE)))
        self._starting = asyncio.Lock()

    async def attend(
        self, port: int, validators: Any, committer: Any, sql: Any, spent: Mapping[str, float]
    ) -> EdgeReport:
        """Take the controller's news, serve on `port` (0: any) if not serving yet."""
        self.backend.attend(validators, committer, sql)
        await self.backend.warm()
        async with self._starting:
            if self.edge is None:
                edge = Edge(self.config, self.backend)
                self.port = await edge.start(port)
                self.edge = edge
            return EdgeReport(self.port, self.edge.in_flight_bytes, self.edge.exchange(spent))

    async def drain(self) -> None:
        """Finish what is in flight and close."""
        if self.edge:
            await self.edge.drain()

    async def stats(self) -> dict[str, float]:
        """The edge's own counters."""
        return self.edge.stats() if self.edge else {}


def kinds(config: Config, sql_worker: type | None, scheduler: type | None = None) -> dict[str, Kind]:
    """Every pool's workers. `sql_worker` and `scheduler` are the batch plane's, which this package does not know."""
    found = {
        # Two threads: one decodes while the other waits for the disk; more would only queue for the interpreter.
        "validate": Kind("validate", ValidateWorker, (config,), config.logs_dir, concurrency=3),
        "window": Kind("window", WindowWorker, (config,), config.logs_dir, 8, BEHIND),
        # Not behind: beside validators that never rest it fell back by a third of the rate; 0 costs acks 1 ms at p99.
        "writer": Kind("writer", WriterWorker, (config,), config.logs_dir, 4),
        "committer": Kind("committer", Committer, (config,), config.logs_dir, 100, BEHIND),
        "edge": Kind("edge", EdgeActor, (config,), config.logs_dir, concurrency=1000),
    }
    if sql_worker:
        found["sql"] = Kind("sql", sql_worker, (config,), config.logs_dir, 4, BEHIND)
    if scheduler:
        found["scheduler"] = Kind("scheduler", scheduler, (config,), config.logs_dir, 2, BEHIND)
    return found


class Platform:
    """The running platform, from outside."""

    def __init__(self, config: Config, sql_worker: type | None = None, scheduler: type | None = None) -> None:
        """Make the controller, or find the one that runs."""
        remote: Any = ray.remote
        self.controller = (
            remote(Controller)
            .options(
                name=CONTROLLER,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_concurrency=100,
                num_cpus=0,
            )
            .remote(config, kinds(config, sql_worker, scheduler))
        )

    def start(self) -> int:
        """Wait until events can be sent; returns the HTTP port. Raises what the start failed with."""
        try:
            port: int = ray.get(self.controller.run.remote(), timeout=START_TIMEOUT_S)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.GetTimeoutError:
            raise EaglerayError(f"not every worker answered within {START_TIMEOUT_S:g} s") from None
        return port

    def drain(self, timeout_s: float) -> bool:
        """Stop taking events and commit what was acked; True if all was committed in time."""
        try:
            done: bool = ray.get(self.controller.drain.remote(timeout_s), timeout=timeout_s + 20)
        except ray.exceptions.RayError:
            return False
        ray.kill(self.controller)
        return done
