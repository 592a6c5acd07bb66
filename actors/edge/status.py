"""What runs and how it is: /v1/streams, /v1/status, and the probes /livez, /readyz, /metrics, which are open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from eagleray.actors.edge.auth import Gate
from eagleray.actors.edge.backend_protocol import Backend
from eagleray.actors.edge.refusal import Refusal, retry_after
from eagleray.actors.edge.routes import Call
from eagleray.cluster.access import TableAccess
from eagleray.cluster.config import Config
from eagleray.cluster.hidden_paths import without_paths
from eagleray.cluster.quantities import format_duration
from eagleray.cluster.sections import StreamConfig
from eagleray.cluster.telemetry.gather import objective_samples, platform_samples
from eagleray.cluster.telemetry.metrics import parse_sample, sample
from eagleray.cluster.telemetry.prometheus import (
    CONTENT_TYPE,
    OPEN_METRICS,
    OPEN_METRICS_TYPE,
    Exemplar,
    render,
    render_open_metrics,
)

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
        exemplars: Callable[[], dict[str, Exemplar]] = dict,
    ) -> None:
        """`stats` are this process's own samples, `report` the same for people; `exemplars` belong to samples."""
        self._exemplars = exemplars
        self._config = config
        self._backend = backend
        self._gate = gate
        self._stats = stats
        self._report = report
        self.draining = False

    async def streams(self, call: Call) -> web.Response:
        """The streams that the key may see: fields of meaning, windows and tables."""
        access, streams = call.asker.tables, sorted(self._config.streams.items())
        return _json({"streams": [_describe(name, stream, access) for name, stream in streams if access.may_see(name)]})

    async def status(self, call: Call) -> web.Response:
        """The platform as its controller sees it, and this edge process; of streams, those that the key may see."""
        found, access = {**await self._backend.status(), "edge": self._report()}, call.asker.tables
        return _json(found if access.whole else visible(found, access))

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
            told = "; ".join(f"{part}: {problem}" for part, problem in problems.items())
            detail = without_paths(told, (self._config.data_dir, self._config.file.parent))
            raise Refusal(503, "not_ready", detail, headers=retry_after(1))
        return _json({"status": "ready"})

    async def metrics(self, call: Call) -> web.Response:
        """Prometheus text: the platform's samples where it answers, this process's own in any case."""
        samples = objective_samples(self._config.slo)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                problems = await self._backend.ready()
                samples |= {sample("problems", part=part): 1.0 for part in problems}
                samples |= platform_samples(await self._backend.status())
        except Exception as error:  # in an outage the edge's own numbers matter most
            logger.warning("metrics without the platform's: %s", type(error).__name__)
        samples |= self._stats()
        if OPEN_METRICS in call.request.headers.get("Accept", ""):
            body = render_open_metrics(samples, self._exemplars())
            return web.Response(body=body, headers={"Content-Type": OPEN_METRICS_TYPE})
        return web.Response(body=render(samples), headers={"Content-Type": CONTENT_TYPE})


def _describe(name: str, stream: StreamConfig, access: TableAccess) -> dict[str, Any]:
    tables = [f"{name}.{table}" for table in ("events", "dead_letters", "late", *sorted(stream.windows))]
    return {
        "name": name,
        "time": stream.time,
        "id": stream.id,
        "key": stream.key,
        "max_out_of_orderness": format_duration(stream.max_out_of_orderness),
        "clock_slack": format_duration(stream.clock_slack),
        "allowed_lateness": format_duration(stream.allowed_lateness),
        "filter": stream.filter,
        "windows": {
            window: {
                **{kind: format_duration(size) for kind, size in config if isinstance(size, int)},
                "group_by": config.group_by,
                "aggregate": dict(config.aggregate),
            }
            for window, config in sorted(stream.windows.items())
            if access.may_read(f"{name}.{window}")
        },
        "tables": [table for table in tables if access.may_read(table)],
    }


def visible(status: Mapping[str, Any], access: TableAccess) -> dict[str, Any]:
    """A status without what it says of streams and tables that `access` does not open."""
    found = {name: value for name, value in status.items() if name != "slo"}  # it counts events of all streams
    found["partitions"] = [row for row in status.get("partitions", ()) if access.may_see(row["stream"])]
    commits = status.get("last_commit_us", {})
    found["last_commit_us"] = {table: at for table, at in commits.items() if access.may_read(table)}
    found["counters"] = _seen(status.get("counters", {}), access)
    found["workers"] = {name: _seen(samples, access) for name, samples in status.get("workers", {}).items()}
    events = status["edge"]["events"]
    named = {kind: {n: count for n, count in events[kind].items() if _is_seen(n, access)} for kind in events}
    found["edge"] = {**status["edge"], "events": named}
    return found


def _seen(samples: Mapping[str, float], access: TableAccess) -> dict[str, float]:
    """Samples that name no stream, table or job, or one that may be seen."""
    found = {}
    for key, value in samples.items():
        _, labels = parse_sample(key)
        named = [labels[label] for label in ("stream", "table") if label in labels]
        if "job_name" not in labels and all(_is_seen(name, access) for name in named):
            found[key] = value
    return found


def _is_seen(name: str, access: TableAccess) -> bool:
    return access.may_see(name.partition(".")[0])


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
