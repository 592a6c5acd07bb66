"""Micro-batches: gathers requests of one stream into one call to validation. Called by ingest, calls the backend.

An idle stream answers at once: a batch leaves at the end of the event loop's turn if none is under way. Otherwise
requests gather until that one returns, batch_delay_ms passes or batch_bytes_max is reached. A batch that fails or times
out fails every request in it; no request is ever answered as stored unless its batch was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from actors.edge.backend import Unavailable
from actors.edge.meters import Meters
from cluster.config import EdgeConfig
from cluster.events.verdict import Answer, Submission

Submit = Callable[[list[Submission], float], Awaitable[list[Answer]]]


class Batcher:
    """The requests of one stream, on one event loop. Its memory is bounded by the leases of the requests in it."""

    def __init__(self, submit: Submit, config: EdgeConfig, meters: Meters) -> None:
        """`submit` is the backend's; every call of it is bounded by ack_timeout_s."""
        self._submit = submit
        self._delay_s = config.batch_delay_ms / 1000
        self._bytes_max = config.batch_bytes_max
        self._timeout_s = config.ack_timeout_s
        self._meters = meters
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Submission, asyncio.Future[Answer]]] = []
        self._bytes = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None

    def put(self, submission: Submission) -> asyncio.Future[Answer]:
        """The answer to come; it fails with what the backend raised, or TimeoutError."""
        size = len(submission.body)
        if self._waiting and self._bytes + size > self._bytes_max:
            self._send()
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting.append((submission, future))
        self._bytes += size
        if self._bytes >= self._bytes_max:
            self._send()
        elif self._timer is None:
            # With nothing under way, wait only for requests that this turn of the loop still reads.
            self._timer = self._later() if self._under_way else self._loop.call_soon(self._send)
        return future

    def _later(self) -> asyncio.Handle:
        return self._loop.call_later(self._delay_s, self._send)

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        batch, self._waiting, self._bytes = self._waiting, [], 0
        task = self._loop.create_task(self._deliver(batch))
        self._under_way.add(task)
        task.add_done_callback(self._returned)

    def _returned(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not self._under_way:
            self._send()

    async def _deliver(self, batch: list[tuple[Submission, asyncio.Future[Answer]]]) -> None:
        began = time.perf_counter()
        submissions = [submission for submission, _ in batch]
        self._meters.batch_requests.record(len(batch))
        self._meters.batch_bytes.record(sum(len(submission.body) for submission in submissions))
        try:
            async with asyncio.timeout(self._timeout_s):
                answers = await self._submit(submissions, self._timeout_s)
            if len(answers) != len(batch):
                raise Unavailable(f"{len(answers)} answers to {len(batch)} requests")
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        self._meters.ack.record(int((time.perf_counter() - began) * 1e6))
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():  # whoever asked may be gone
                future.set_result(answer)
