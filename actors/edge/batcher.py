"""Micro-batches: gathers requests of one stream into one call to validation. Called by ingest, calls the backend.

An idle stream answers at once: a batch leaves at the end of the event loop's turn if none is under way. Otherwise
requests gather until that one returns, batch_delay_ms passes or batch_bytes_max is reached, and while every worker has
its batch until one comes back or STUCK_S passes (full batches may queue, one behind each): the busier the platform, the
larger its calls, and a small call's cost is the call. A batch that fails or times out fails every request in it; no
request is ever answered as stored unless its batch was.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from eagleray.actors.edge.backend_protocol import Unavailable
from eagleray.actors.edge.meters import Meters
from eagleray.cluster.events.verdict import Answer, Submission
from eagleray.cluster.sections import EdgeConfig

STUCK_S = 0.1  # a batch that takes longer is no reason any more for others to wait: its worker may be stopped
Submit = Callable[[list[Submission], float], Awaitable[list[Answer]]]
Waiting = tuple[Submission, asyncio.Future[Answer]]


class Batcher:
    """The requests of one stream, on one event loop. Its memory is bounded by the leases of the requests in it."""

    def __init__(self, submit: Submit, workers: Callable[[], int], config: EdgeConfig, meters: Meters) -> None:
        """`submit` is the backend's; every call is bounded by ack_timeout_s. `workers` there are to share the calls."""
        self._submit = submit
        self._workers = workers
        self._delay_s = config.batch_delay_ms / 1000
        self._bytes_max = config.batch_bytes_max
        self._timeout_s = config.ack_timeout_s
        self._meters = meters
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0  # of what waits
        self._since = 0.0  # when the first of it came, in the loop's time
        self._under_way: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None

    def put(self, submission: Submission) -> asyncio.Future[Answer]:
        """The answer to come; it fails with what the backend raised, or TimeoutError."""
        size = len(submission.body)
        if self._waiting and self._bytes + size > self._bytes_max:
            self._send_full()
        future: asyncio.Future[Answer] = self._loop.create_future()
        if not self._waiting:
            self._since = self._loop.time()
        self._waiting.append((submission, future))
        self._bytes += size
        if self._bytes >= self._bytes_max:
            self._send_full()
        if self._waiting and self._timer is None:
            self._timer = self._soon()
        return future

    def _soon(self) -> asyncio.Handle:
        """When what waits leaves, should nothing else happen."""
        if not self._under_way:  # wait only for requests that this turn of the loop still reads
            return self._loop.call_soon(self._send)
        free = len(self._under_way) < self._workers()
        return self._loop.call_at(self._since + (self._delay_s if free else max(self._delay_s, STUCK_S)), self._send)

    def _send_full(self) -> None:
        if len(self._under_way) < 2 * self._workers():  # each worker finds its next batch there when it is done
            self._send()

    def _send(self) -> None:
        """One batch of what waits, at most batch_bytes_max of it, or a single larger request."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        task = self._loop.create_task(self._deliver(self._next()))
        self._under_way.add(task)
        task.add_done_callback(self._returned)
        if self._waiting:
            self._timer = self._soon()

    def _next(self) -> list[Waiting]:
        batch: list[Waiting] = []
        left = self._bytes_max
        while self._waiting and (not batch or len(self._waiting[0][0].body) <= left):
            batch.append(self._waiting.popleft())
            left -= len(batch[-1][0].body)
        self._bytes -= self._bytes_max - left
        return batch

    def _returned(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not self._under_way or self._bytes >= self._bytes_max:
            self._send()
        elif self._waiting and len(self._under_way) == self._workers() - 1:  # what waited for a worker has one now
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._soon()

    async def _deliver(self, batch: list[Waiting]) -> None:
        began = time.perf_counter()
        try:
            submissions = [submission for submission, _ in batch]
            self._meters.batch_requests.record(len(batch))
            self._meters.batch_bytes.record(sum(len(submission.body) for submission in submissions))
            async with asyncio.timeout(self._timeout_s):
                answers = await self._submit(submissions, self._timeout_s)
            if len(answers) != len(batch):
                raise Unavailable(f"{len(answers)} answers to {len(batch)} requests")
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    _fail(future, error)
            if not isinstance(error, Exception):
                raise
            return
        self._meters.ack.record(int((time.perf_counter() - began) * 1e6))
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():  # whoever asked may be gone
                future.set_result(answer)


def _fail(future: asyncio.Future[Answer], error: BaseException) -> None:
    if isinstance(error, Exception):
        future.set_exception(error)
    else:  # this task or its loop is being ended
        future.cancel()
