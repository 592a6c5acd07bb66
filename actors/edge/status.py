"""What runs and how it is: /v1/streams, /v1/status, and the probes /livez, /readyz, /metrics, which are open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from eagleray.actors.edge.auth import Gate
from eagleray.actors.edge.backend_protocol import Backend
from eagleray.actors.edge.refusal import Refusal, retry_after
from eagleray.actors.edge.routes import Call
from eagleray.cluster.config import Config, StreamConfig
from eagleray.cluster.quantities import format_duration
from eagleray.cluster.telemetry.gather import platform_samples
from eagleray.cluster.telemetry.prometheus import CONTENT_TYPE, render

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 2.0  # a probe that hangs helps nobody


class Status:
    """Answers questions about the platform itself."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        gate: Gate,
        stats: Callable[[], dict[str, float]],
        report: Callable[[], dict[str, Any]],
    ) -> None:
        """`stats` are this process's own samples, `report` the same for people."""
        self._config = config
        self._backend = backend
        self._gate = gate
        self._stats = stats
        self._report = report
        self.draining = False

    async def streams(self, call: Call) -> web.Response:
        """Every stream: its fields of meaning, its windows and its tables."""
        return _json({"streams": [_describe(name, stream) for name, stream in sorted(self._config.streams.items())]})

    async def status(self, call: Call) -> web.Response:
        """The platform as its controller sees it, and this edge process."""
        return _json({**await self._backend.status(), "edge": self._report()})

    async def livez(self, call: Call) -> web.Response:
        """Answer; depends on nothing else."""
        return _json({"status": "ok"})

    async def readyz(self, call: Call) -> web.Response:
        """Whether events can be sent now; 503 names what is missing."""
        problems = {"edge": "draining"} if self.draining else {}
        if ring := self._gate.ring:
            ring.refresh()
            if ring.problem:
                problems["keys"] = ring.problem
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                problems |= await self._backend.ready()
        except TimeoutError:
            problems["platform"] = f"no answer within {PROBE_TIMEOUT_S:g} s"
        if problems:
            detail = "; ".join(f"{part}: {problem}" for part, problem in problems.items())
            raise Refusal(503, "not_ready", detail, headers=retry_after(1))
        return _json({"status": "ready"})

    async def metrics(self, call: Call) -> web.Response:
        """Prometheus text: the platform's samples where it answers, this process's own in any case."""
        samples: dict[str, float] = {}
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                samples = platform_samples(await self._backend.status())
        except Exception as error:  # in an outage the edge's own numbers matter most
            logger.warning("metrics without the platform's: %s", type(error).__name__)
        return web.Response(body=render(samples | self._stats()), headers={"Content-Type": CONTENT_TYPE})


def _describe(name: str, stream: StreamConfig) -> dict[str, Any]:
    return {
        "name": name,
        "time": stream.time,
        "id": stream.id,
        "key": stream.key,
        "max_out_of_orderness": format_duration(stream.max_out_of_orderness),
        "allowed_lateness": format_duration(stream.allowed_lateness),
        "filter": stream.filter,
        "windows": {
            window: {
                **{kind: format_duration(size) for kind, size in config if isinstance(size, int)},
                "group_by": config.group_by,
                "aggregate": dict(config.aggregate),
            }
            for window, config in sorted(stream.windows.items())
        },
        "tables": [f"{name}.{table}" for table in ("events", "dead_letters", "late", *sorted(stream.windows))],
    }


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
