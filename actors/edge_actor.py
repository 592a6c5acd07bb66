"""The edge in an actor: the one place where the edge meets Ray. Serves from the first `attend` on."""

from __future__ import annotations

import asyncio
import secrets

import ray

from eagleray.actors.edge.server import Edge
from eagleray.actors.messages import EdgeNews, EdgeReport, Outdated, Version
from eagleray.actors.objectives import Counts
from eagleray.actors.peer import RayPeer
from eagleray.actors.ray_backend import RayBackend
from eagleray.cluster.config import Config
from eagleray.cluster.ray_session import NAMESPACE


class EdgeActor:
    """One edge process; asynchronous."""

    def __init__(self, config: Config, controller: str) -> None:
        """Nothing listens yet. `controller` is the name of its actor."""
        self.config = config
        self.edge: Edge | None = None
        self._life = f"edge {secrets.token_hex(8)}"  # a process id may come again, and its counts from 0
        self.port = 0
        self.backend = RayBackend(config, RayPeer(controller, ray.get_actor(controller, NAMESPACE), hosted=False))
        self._heard: Version = (0, 0)
        self._starting = asyncio.Lock()

    async def attend(self, news: EdgeNews) -> EdgeReport:
        """Take the controller's news, serve if not serving yet. Raises Outdated, ConfigError for a taken port."""
        if news.version <= self._heard:
            raise Outdated(news.version, self._heard)
        self._heard = news.version
        self.backend.attend(news)
        await self.backend.warm()
        async with self._starting:
            if self.edge is None:
                name = str(ray.get_runtime_context().get_actor_name())
                edge = Edge(self.config, self.backend, name.rpartition("-")[0])
                self.port = await edge.start(news.port, news.shared_port)
                self.edge = edge
            spent = self.edge.exchange(news.spent)
            return EdgeReport(self.port, self.edge.in_flight_bytes, spent, self.edge.answered)

    async def drain(self) -> None:
        """Finish what is in flight and close."""
        if self.edge:
            await self.edge.drain()

    async def judgements(self) -> tuple[str, Counts]:
        """A name for this life of the process, and what objectives have judged in it."""
        return self._life, self.edge.judgements() if self.edge else {}

    async def stats(self) -> dict[str, float]:
        """The edge's own counters."""
        return self.edge.stats() if self.edge else {}
