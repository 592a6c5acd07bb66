"""What the edge calls, carried over Ray: events to a validate worker, questions to committer, SQL worker, controller.

A call that failed or timed out may have taken effect: it is answered with 503, and a client's retry is told apart by
the event's id or the request's Idempotency-Key. A worker that failed is left alone until the controller names it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from eagleray.actors.edge.backend_protocol import Unavailable, WorkerLost
from eagleray.actors.peer import Peer, PeerLost
from eagleray.cluster.config import Config
from eagleray.cluster.events.verdict import Answer, Submission, pack, unpack_answers

WARM_TIMEOUT_S = 5.0
START_WAIT_S = 20.0  # for a part that is not there yet, soon after `ready`


class RayBackend:
    """The edge's view of the platform; `attend` keeps it up to date."""

    def __init__(self, config: Config, controller: Peer) -> None:
        """Knows nobody but the controller until `attend`."""
        self.config = config
        self.controller = controller
        self.validators: dict[Peer, int] = {}
        self.in_flight: dict[Peer, int] = {}
        self.committer: Peer | None = None
        self.sql_workers: list[Peer] = []
        self._news = asyncio.Event()  # set and renewed by each `attend`
        self._called: dict[Peer, int] = {}
        self._lost: set[tuple[Peer, int]] = set()

    def attend(self, validators: Sequence[tuple[Peer, int]], committer: Peer | None, sql: Sequence[Peer]) -> None:
        """Take the controller's news: live validate workers with their process ids, committer, SQL workers."""
        # A worker comes back under the same name with another process id; until then it stays off the list.
        self.validators = {peer: pid for peer, pid in validators if (peer, pid) not in self._lost}
        self._lost &= set(validators)
        self.committer, self.sql_workers = committer, list(sql)
        self._news.set()
        self._news = asyncio.Event()

    async def warm(self) -> None:
        """Make the first call to each worker that is new, so that no request waits for what that takes."""
        new = {peer: pid for peer, pid in self.validators.items() if self._called.get(peer) != pid}
        self._called |= new
        calls = (peer.call("serve", pack([]), timeout_s=WARM_TIMEOUT_S) for peer in new)
        await asyncio.gather(*calls, return_exceptions=True)  # the controller hears of the lost by itself

    async def submit(self, submissions: list[Submission], timeout_s: float) -> list[Answer]:
        """Validate and store; one answer per submission, in order. Raises Unavailable, LogUnavailable, TimeoutError."""
        if not self.validators:
            raise Unavailable("no validate worker answers")
        peer = min(self.validators, key=lambda candidate: self.in_flight.get(candidate, 0))
        pid = self.validators[peer]
        size = sum(len(submission.body) for submission in submissions)
        self.in_flight[peer] = self.in_flight.get(peer, 0) + size
        try:
            return unpack_answers(await peer.call("serve", pack(submissions), timeout_s=timeout_s))
        except PeerLost as error:
            self._lost.add((peer, pid))
            if self.validators.get(peer) == pid:
                del self.validators[peer]
            raise WorkerLost(f"{peer.name} (process {pid})") from error
        finally:
            self.in_flight[peer] -= size

    def workers(self) -> int:
        """Validate workers that answer; 1 while there is none, so that a request finds that out."""
        return len(self.validators) or 1

    async def windows(self, stream: str, window: str, from_us: int | None, to_us: int | None) -> list[dict[str, Any]]:
        """Open and final rows of a window."""
        rows: list[dict[str, Any]] = await self._ask(
            await self._there(lambda: self.committer, "committer"), "windows", stream, window, from_us, to_us
        )
        return rows

    async def sql(self, query: str, arrow: bool) -> dict[str, Any] | bytes:
        """Run a query on the lake. Raises QueryRejected, QueryFailed, Unavailable."""
        timeout_s = self.config.edge.query_timeout_s
        worker = await self._there(lambda: next(iter(self.sql_workers), None), "SQL worker")
        form = "arrow" if arrow else "json"
        answer: dict[str, Any] | bytes = await self._ask(
            worker, "query", query, timeout_s, form, timeout_s=timeout_s + 5
        )
        return answer

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
        return {} if self.validators else {"validate": "no worker answers"}

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
