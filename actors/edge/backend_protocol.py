"""What the edge needs of the rest of the platform, as one protocol; the composition implements it over Ray.

Answers and errors of a `Backend` are the only things that the edge knows of other stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.events.verdict import Answer, Submission


class Unavailable(EaglerayError):
    """A worker was lost or none is there. Whether the call took effect is not known; HTTP 503, retry later."""


class WorkerLost(Unavailable):
    """The worker that had the call ended meanwhile."""

    def __init__(self, worker: str) -> None:
        """`worker` names this life of it: the next one has another name."""
        super().__init__(worker)
        self.worker = worker

    def __str__(self) -> str:
        """For the answer."""
        return f"{self.worker} was lost; the request may or may not have taken effect"


class Backend(Protocol):
    """The platform behind the edge. Besides what is named, every call may raise Unavailable or TimeoutError."""

    async def submit(self, submissions: list[Submission], timeout_s: float) -> list[Answer]:
        """Validate and store; one answer per submission, in order, once durable.

        Raises Overloaded, LogUnavailable or WorkerLost; then nothing of the batch may be acked.
        """
        ...

    def workers(self) -> int:
        """How many workers share the calls of `submit` now: more calls at once would only queue. At least 1."""
        ...

    async def windows(self, stream: str, window: str, from_us: int | None, to_us: int | None) -> list[dict[str, Any]]:
        """Rows of a window with window_start in [from, to), final and open ones, each with `final`."""
        ...

    async def sql(self, query: str, arrow: bool) -> dict[str, Any] | bytes:
        """An Arrow IPC stream, or `{"columns": [{"name","type"}], "rows": [[...]]}`. QueryRejected, QueryFailed."""
        ...

    async def status(self) -> dict[str, Any]:
        """What runs: `pools`, `processes`, `partitions`, `workers`, `counters` (see cluster.telemetry.gather)."""
        ...

    async def scale(self, pool: str, size: int) -> int:
        """Resize a pool; returns its size. Raises EaglerayError outside the pool's limits."""
        ...

    async def ready(self) -> Mapping[str, str]:
        """What keeps events from being taken, by part; empty: ready."""
        ...
