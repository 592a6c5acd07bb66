"""Keeps an event that ends the process judging it from taking others along. Stands between batcher and backend.

A model of the user's may abort, run out of memory or call C that breaks: the worker dies, and the batch with it. Once
two workers died on a stream within LOST_S, the batch is judged again in a process of its own (`probe`), which stores
nothing. If that one dies too, the events to blame are found (`blame`) and go to the dead letters as `crash`; all
others are stored, and for WARY_S each batch of the stream is probed before a worker sees it.

Nothing is stored twice by that: a worker appends only after it has judged the whole call, so a call that cannot be
judged was not stored. A batch that the probe judges well may have been: its requests get 503 and are told apart when
they come again, by id or Idempotency-Key, as after any lost worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from eagleray.actors.edge.backend_protocol import Unavailable, WorkerLost
from eagleray.actors.edge.quarantine.blame import Found, apply
from eagleray.actors.edge.quarantine.probe import UNFINISHED
from eagleray.cluster.child_process import Child
from eagleray.cluster.config import Config
from eagleray.cluster.events.verdict import Answer, Submission

logger = logging.getLogger(__name__)

LOST_MAX = 2  # workers lost on a stream within LOST_S: the next batch that was lost is looked into
LOST_S = 60.0
WARY_S = 60.0  # so that events of the same kind cost no more workers; a stream's batches take twice the work meanwhile
PROBE_SHARE = 0.5  # of the time that a batch has: what is left is for storing it

Submit = Callable[[list[Submission], float], Awaitable[list[Answer]]]


class Unfinished(Unavailable):
    """The events end a process, and the time was up before it was known which."""


class Searcher(Protocol):
    """Finds what ends a process."""

    async def search(self, submissions: list[Submission], timeout_s: float) -> Found | None:
        """The events to blame, None if judging does no harm. Raises Unfinished, Unavailable if not known in time."""
        ...

    def close(self) -> None:
        """End the process; the next search starts another."""
        ...


class Isolate:
    """A backend's `submit` that survives events which end workers; for one event loop."""

    def __init__(self, submit: Submit, searcher: Searcher, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`submit` is the backend's. While nothing is lost, a call costs a look into an empty dict."""
        self._submit = submit
        self._searcher = searcher
        self._monotonic = monotonic
        self._lost: dict[str, dict[str, float]] = {}  # by stream: workers, and when they were lost
        self._searching = 0
        self._wary: dict[str, float] = {}  # by stream: until when its batches are probed first

    async def submit(self, submissions: list[Submission], timeout_s: float) -> list[Answer]:
        """As Backend.submit, for submissions of one stream."""
        stream = submissions[0].stream
        if self._wary and self._is_wary(stream):
            return await self._store(submissions, await self._search(submissions, timeout_s), timeout_s)
        try:
            return await self._submit(submissions, timeout_s)
        except WorkerLost as lost:
            if not self._is_suspect(stream, lost.worker):
                raise
            found = await self._search(submissions, timeout_s)
            if found is None:
                raise  # it may have been stored
        return await self._store(submissions, found, timeout_s)

    async def _search(self, submissions: list[Submission], timeout_s: float) -> Found | None:
        stream = submissions[0].stream
        self._searching += 1
        try:
            found = await self._searcher.search(submissions, timeout_s * PROBE_SHARE)
        except Unfinished:  # when the requests come again, they cost no worker
            self._wary[stream] = self._monotonic() + WARY_S
            raise
        finally:
            self._searching -= 1
        if found is None:
            self._rest()
            return None
        self._wary[stream] = self._monotonic() + WARY_S
        count = sum(map(len, found.condemned))
        logger.error("events that end the process judging them", extra={"stream": stream, "events": count})
        return found

    def _rest(self) -> None:
        """End the probe when nobody needs it."""
        if not self._wary and not self._searching:
            self._searcher.close()

    async def _store(self, submissions: list[Submission], found: Found | None, timeout_s: float) -> list[Answer]:
        if found is None:
            return await self._submit(submissions, timeout_s)
        spared = apply(submissions, found.condemned)
        if found.together:
            return await self._submit(spared, timeout_s)
        return [answer for one in spared for answer in await self._submit([one], timeout_s)]

    def _is_wary(self, stream: str) -> bool:
        until = self._wary.get(stream)
        if until is not None and self._monotonic() >= until:
            del self._wary[stream]
            self._rest()
        return stream in self._wary

    def _is_suspect(self, stream: str, worker: str) -> bool:
        now = self._monotonic()
        recent = {name: at for name, at in self._lost.get(stream, {}).items() if now - at < LOST_S}
        self._lost[stream] = {**recent, worker: now}
        return len(self._lost[stream]) >= LOST_MAX

    def close(self) -> None:
        """End the probe."""
        self._searcher.close()


class Probe:
    """The process that searches, started at the first search; one search at a time."""

    def __init__(self, config: Config) -> None:
        """Nothing is started yet."""
        self._config = config
        self._process: Child | None = None
        self._thread = ThreadPoolExecutor(1, "probe")  # a search whose requests are given up still ends in its turn

    async def search(self, submissions: list[Submission], timeout_s: float) -> Found | None:
        """The events to blame, None if judging does no harm. Raises Unfinished, Unavailable if not known in time."""
        answer = await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, submissions, timeout_s)
        if answer is None or isinstance(answer, Found):
            return answer
        kind = Unfinished if answer == UNFINISHED else Unavailable
        raise kind(f"a worker was lost with this request, and the cause is not known yet: {answer}")

    def _ask(self, submissions: list[Submission], timeout_s: float) -> Found | str | None:
        try:
            process = self._process or self._start()
            process.send((submissions, timeout_s))
            answer: Found | str | None = process.receive()
        except (OSError, EOFError):  # it died, or was closed meanwhile
            self.close()
            return "the probe was lost"
        return answer

    def _start(self) -> Child:
        self._process = Child("eagleray.actors.edge.quarantine.probe")
        self._process.send(self._config)
        return self._process

    def close(self) -> None:
        """End the process; the next search starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.end()
