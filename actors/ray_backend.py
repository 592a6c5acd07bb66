"""What the edge calls, carried over Ray: events to a validate worker, questions to committer, SQL worker, controller.

A call that failed or timed out may have taken effect: it is answered with 503, and a client's retry is told apart by
the event's id or the request's Idempotency-Key. A worker that failed is left alone until the controller names it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from eagleray.actors.edge.backend_protocol import Body, Unavailable, WorkerLost
from eagleray.actors.messages import EdgeNews
from eagleray.actors.peer import Peer, PeerLeft, PeerLost
from eagleray.cluster.access import TableAccess
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ClockAhead
from eagleray.cluster.events.verdict import Answer, Submission, pack, unpack_answers
from eagleray.cluster.log.ingest_clock import IngestClock
from eagleray.cluster.telemetry import tracing

WARM_TIMEOUT_S = 5.0
FAR_BYTES = 1 << 20  # in flight at the nearest validator beyond those of another node: then the other is asked
START_WAIT_S = 20.0  # for a part that is not there yet, soon after `ready`


class RayBackend:
    """The edge's view of the platform; `attend` keeps it up to date."""

    def __init__(self, config: Config, controller: Peer) -> None:
        """Knows nobody but the controller until `attend`."""
        self.config = config
        self.controller = controller
        self.validators: dict[Peer, str] = {}
        self._near: frozenset[str] = frozenset()
        self.in_flight: dict[Peer, int] = {}
        self.committer: Peer | None = None
        self.sql_workers: list[Peer] = []
        self._problems: Mapping[str, str] = {}
        self._attended_at = time.monotonic()
        self._news = asyncio.Event()  # set and renewed by each `attend`
        self._called: dict[Peer, str] = {}
        self._lost: set[tuple[Peer, str]] = set()
        self._times = IngestClock(SystemClock(), config.anchor)

    def attend(self, news: EdgeNews) -> None:
        """Take the controller's news: live validate workers with the names of their lives, committer, SQL."""
        # A worker comes back under the same name with another life; until then it stays off the list.
        self.validators = {peer: life for peer, life in news.validators if (peer, life) not in self._lost}
        self._near = news.near
        self._lost &= set(news.validators)
        self.committer, self.sql_workers = news.committer, list(news.sql)
        self._problems, self._attended_at = news.problems, time.monotonic()
        self._news.set()
        self._news = asyncio.Event()

    async def warm(self) -> None:
        """Make the first call to each worker that is new, so that no request waits for what that takes."""
        new = {peer: life for peer, life in self.validators.items() if self._called.get(peer) != life}
        self._called |= new
        calls = (peer.call("serve", pack([]), timeout_s=WARM_TIMEOUT_S) for peer in new)
        await asyncio.gather(*calls, return_exceptions=True)  # the controller hears of the lost by itself

    async def submit(self, submissions: list[Submission], timeout_s: float) -> list[Answer]:
        """Validate and store; one answer per submission, in order. Raises Unavailable, LogUnavailable, TimeoutError."""
        while self.validators:
            peer = min(self.validators, key=self._queue)
            try:
                return await self._submit_to(peer, submissions, timeout_s)
            except PeerLeft:  # it leaves, and has not looked at them
                continue
        raise Unavailable("no validate worker answers")

    def _queue(self, peer: Peer) -> int:
        """Bytes that a batch would wait for there, and what the way to another node is worth."""
        far = FAR_BYTES if self._near and peer.name not in self._near else 0
        return self.in_flight.get(peer, 0) + far

    async def _submit_to(self, peer: Peer, submissions: list[Submission], timeout_s: float) -> list[Answer]:
        life = self.validators[peer]
        size = sum(len(submission.body) for submission in submissions)
        self.in_flight[peer] = self.in_flight.get(peer, 0) + size
        try:
            return unpack_answers(await peer.call("serve", pack(submissions), timeout_s=timeout_s))
        except PeerLost as error:
            self._lost.add((peer, life))
            if self.validators.get(peer) == life:
                del self.validators[peer]
            if isinstance(error, PeerLeft):
                raise
            raise WorkerLost(f"{peer.name} (life {life})") from error
        finally:
            self.in_flight[peer] -= size

    def workers(self) -> int:
        """Validate workers that answer; 1 while there is none, so that a request finds that out."""
        return len(self.validators) or 1

    async def windows(
        self, stream: str, window: str, from_us: int | None, to_us: int | None, cursor: list[Any] | None, limit: int
    ) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """A page of open and final rows of a window, and the cursor behind it where there are more."""
        committer = await self._there(lambda: self.committer, "committer")
        found: tuple[list[dict[str, Any]], list[Any] | None] = await self._ask(
            committer, "windows", stream, window, from_us, to_us, cursor, limit
        )
        return found

    async def sql(self, query: str, arrow: bool, access: TableAccess) -> Body:
        """Run a query on tables of the lake that `access` opens.

        Raises QueryRejected, QueryForbidden, QueryFailed, Unavailable.
        """
        return await self._asked(query, "arrow" if arrow else "json", access)

    async def event(self, stream: str, event: str, access: TableAccess) -> Body:
        """What became of an event; raises QueryForbidden, QueryFailed, Unavailable."""
        return await self._asked(f"{stream} {event}", "trace", access)

    async def _asked(self, text: str, form: str, access: TableAccess) -> Body:
        timeout_s = self.config.edge.query_timeout_s
        worker = await self._there(lambda: next(iter(self.sql_workers), None), "SQL worker")
        carried = (trace,) if (trace := tracing.current()) else ()
        size, first, answer = await self._ask(
            worker, "query", text, timeout_s, form, access, *carried, timeout_s=timeout_s + 5
        )
        if answer is None:
            return Body(size, first)

        async def more(at: int) -> bytes:
            piece: bytes = await self._ask(worker, "more", answer, at)
            return piece

        return Body(size, first, more, lambda: worker.ref("drop", answer))

    async def status(self) -> dict[str, Any]:
        """What runs, as the controller sees it."""
        found: dict[str, Any] = await self._ask(self.controller, "status")
        return found

    async def scale(self, pool: str, size: int) -> int:
        """Resize a pool. Raises EaglerayError outside its limits."""
        sized: int = await self._ask(self.controller, "scale", pool, size)
        return sized

    async def ready(self) -> dict[str, str]:
        """What keeps events from being taken, by part; empty: ready."""
        problems = dict(self._problems)
        if not self.validators:
            problems["validate"] = "no worker answers"
        silent_s = time.monotonic() - self._attended_at
        if silent_s > self.config.pools.stalled_after_s:
            problems["controller"] = f"no word for {silent_s:.0f} s"
        try:
            self._times.now_us()
        except ClockAhead as error:
            problems["clock"] = str(error)
        return problems

    async def _there(self, find: Callable[[], Peer | None], what: str) -> Peer:
        """The part that `find` finds, once the controller has named it; raises Unavailable after START_WAIT_S."""
        try:
            async with asyncio.timeout(START_WAIT_S):
                while (peer := find()) is None:
                    await self._news.wait()
                return peer
        except TimeoutError:
            raise Unavailable(f"the {what} is starting") from None

    async def _ask(self, peer: Peer, method: str, *args: Any, timeout_s: float = 30.0) -> Any:
        try:
            return await peer.call(method, *args, timeout_s=timeout_s)
        except (TimeoutError, PeerLost) as error:
            raise Unavailable(f"{peer.name} does not answer") from error
