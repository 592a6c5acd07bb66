"""What the edge needs of the rest of the platform, as one protocol; the composition implements it over Ray.

Answers and errors of a `Backend` are the only things that the edge knows of other stages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from eagleray.cluster.access import TableAccess
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


@dataclass(frozen=True, slots=True)
class Body:
    """An answer of `size` bytes that is fetched as its reader comes along: how it begins, and where the rest is.

    `more` gives a piece from a byte on, never empty before the end; it may raise QueryFailed, Unavailable.
    `drop` says that nobody wants the rest.
    """

    size: int
    first: bytes
    more: Callable[[int], Awaitable[bytes]] | None = None
    drop: Callable[[], object] | None = None


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

    async def windows(
        self, stream: str, window: str, from_us: int | None, to_us: int | None, cursor: list[Any] | None, limit: int
    ) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """At most `limit` rows with window_start in [from, to) that come after `cursor`, each with `final`.

        Beside them the cursor of the next page; None: there is none. Raises BadCursor.
        """
        ...

    async def sql(self, query: str, arrow: bool, access: TableAccess) -> Body:
        """An Arrow IPC stream, or `{"columns": [{"name","type"}], "rows": [[...]]}`, of tables that `access` opens.

        Raises QueryRejected, QueryForbidden, QueryFailed.
        """
        ...

    async def event(self, stream: str, event: str, access: TableAccess) -> Body:
        """What became of the event with this id, as JSON (`sql.trace`); raises QueryFailed, QueryForbidden."""
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
