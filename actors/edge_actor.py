"""The edge in an actor: the one place where the edge meets Ray. Serves from the first `attend` on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from eagleray.actors.edge.server import Edge
from eagleray.actors.messages import EdgeReport
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
        self.port = 0
        self.backend = RayBackend(config, RayPeer(controller, ray.get_actor(controller, NAMESPACE), hosted=False))
        self._starting = asyncio.Lock()

    async def attend(
        self,
        port: int,
        validators: Sequence[tuple[Any, int]],
        committer: Any,
        sql: Sequence[Any],
        spent: Mapping[str, float],
    ) -> EdgeReport:
        """Take the controller's news, serve on `port` (0: any) if not serving yet."""
        self.backend.attend(validators, committer, sql)
        await self.backend.warm()
        async with self._starting:
            if self.edge is None:
                edge = Edge(self.config, self.backend)
                self.port = await edge.start(port)
                self.edge = edge
            return EdgeReport(self.port, self.edge.in_flight_bytes, self.edge.exchange(spent), self.edge.answered)

    async def drain(self) -> None:
        """Finish what is in flight and close."""
        if self.edge:
            await self.edge.drain()

    async def stats(self) -> dict[str, float]:
        """The edge's own counters."""
        return self.edge.stats() if self.edge else {}
