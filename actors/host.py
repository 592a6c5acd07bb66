"""A worker in a Ray actor: makes it in the actor's process, names it, and answers for it while it works.

The worker's class is given by name and imported where it works, so an actor loads its own stage and no other, and the
controller none (tests/unit/test_imports_of_stages.py). A worker that cannot be made does not end its actor: the actor
answers with the failure, so that whoever waits for it hears why, at once.

The host times every call; a worker with loops of its own has a `pulse` (`cluster.pulse.Pulse`) that times them. What is
overdue is in the answer to a heartbeat, and so is what the worker's `problems()` says, if it has that.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import ray

from eagleray.actors.peer import PeerLeft
from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.pulse import Pulse, most_overdue
from eagleray.cluster.ray_session import as_here
from eagleray.cluster.telemetry import tracing
from eagleray.cluster.telemetry.logging import configure_file

logger = logging.getLogger(__name__)

TICK_S = 1.0  # of an asynchronous worker's event loop, which must not be blocked
_LEAVING_LOOK_S = 0.02


@dataclass(frozen=True)
class Kind:
    """How the workers of a pool are made: the class at `place` (`module:Class`) with `args`.

    Each takes up to `concurrency` calls at once and logs to a file of its own in `logs`, by name.
    """

    pool: str
    place: str
    args: tuple[Any, ...]
    logs: Path
    concurrency: int = 8
    niceness: int = 0  # of its threads: those that nobody waits for give way to those that ack
    asynchronous: bool = False  # its methods are coroutines, which share one thread
    call_s: float = 30.0  # what a call may take before it is overdue
    last: str = ""  # the method called before the worker is ended, if any
    cpus: float = 0.0  # asked of Ray for each, where the cluster is not our own
    memory: int = 0  # bytes, likewise
    per_node: bool = False  # in a cluster: the pool's size is that of each node that is for it
    version: str = ""  # in a cluster: of configuration, project files and package; another one is replaced
    alone: bool = False  # there are never two: one that shall go elsewhere ends before the other begins

    @property
    def module(self) -> str:
        """Where the class is."""
        return self.place.partition(":")[0]


class WorkerFailed(EaglerayError):
    """A worker could not be made; the message names it and says why."""


class _Host:
    """What threaded and asynchronous hosts share."""

    def __init__(self, name: str, kind: Kind) -> None:
        configure_file(kind.logs, name)
        tracing.start(name)
        _give_way(kind.niceness)
        self.kind = kind
        self.worker: Any = None
        self.failure: EaglerayError | None = None
        # Not the process id: in containers, the process that follows on another node may well have the same.
        self.life = secrets.token_hex(8)
        try:
            args = [as_here(arg) if isinstance(arg, Config) else arg for arg in kind.args]
            self.worker = getattr(import_module(kind.module), kind.place.partition(":")[2])(*args)
        except EaglerayError as error:
            self.failure = error
        except Exception as error:
            logger.exception("%s cannot start", name)
            log = kind.logs / f"{name}.log"
            self.failure = WorkerFailed(f"{name} cannot start: {type(error).__name__}: {error}; see {log}")
        if self.failure is None:
            logger.info("worker started", extra={"worker": name, "pid": os.getpid()})
        # What is there now stays, and rows hold no cycles: young garbage is looked at every 50,000
        # objects instead of every 700. It took a seventh of a validator's time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self._calls = Pulse()
        self._leaving = False

    def _begin(self, method: str) -> int:
        """A call has begun; `_calls` ends it. Raises what the worker could not be made for, PeerLeft."""
        if self.failure:
            raise self.failure
        piece = self._calls.begin(method, self.kind.call_s)
        if self._leaving:  # looked at after the call was noted, so `leave` waits for it, or it is refused
            self._calls.end(piece)
            raise PeerLeft(method)
        return piece

    def _facts(self) -> dict[str, Any]:
        pulse = getattr(self.worker, "pulse", None)
        return {
            **process_facts(),
            "life": self.life,
            "version": self.kind.version,
            "node": ray.get_runtime_context().get_node_id(),
            "failure": self.failure,
            "overdue": most_overdue(self._calls, *([pulse] if pulse else [])),
            "problems": self._problems(),
        }

    def _problems(self) -> dict[str, str]:
        try:
            found: dict[str, str] = getattr(self.worker, "problems", dict)()
        except Exception as error:  # a heartbeat must not fail for it
            logger.exception("problems cannot be told")
            return {self.kind.pool: f"{type(error).__name__}: {error}"}
        return found


class ThreadedHost(_Host):
    """Calls run in threads. `process` has one of its own, so it is answered while the worker is busy."""

    def call(self, method: str, *args: Any) -> Any:
        """Call the worker; its exceptions come through."""
        piece = self._begin(method)
        try:
            with self._calls.in_memory(method):
                return getattr(self.worker, method)(*args)
        finally:
            self._calls.end(piece)

    @ray.method(concurrency_group="health")
    def process(self) -> dict[str, Any]:
        """Process id, resident memory (bytes); what the worker failed with at its start, what is overdue, what ails."""
        return self._facts()

    @ray.method(concurrency_group="health")
    def leave(self, timeout_s: float) -> bool:
        """Take no more calls and let those under way end, then make the worker's last call; False: not in time."""
        self._leaving = True
        deadline = time.monotonic() + timeout_s
        while self._calls.busy and time.monotonic() < deadline:
            time.sleep(_LEAVING_LOOK_S)
        ended = not self._calls.busy
        if ended and self.kind.last:
            getattr(self.worker, self.kind.last)()
        return ended


class AsyncHost(_Host):
    """Calls are coroutines on one event loop, `process` on another."""

    _ticking: asyncio.Task[None] | None = None

    async def call(self, method: str, *args: Any) -> Any:
        """Call the worker; its exceptions come through."""
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick())
        piece = self._begin(method)
        try:
            with self._calls.in_memory(method):
                return await getattr(self.worker, method)(*args)
        finally:
            self._calls.end(piece)

    async def _tick(self) -> None:
        while True:
            self._calls.beat("the event loop", TICK_S)
            await asyncio.sleep(TICK_S)

    @ray.method(concurrency_group="health")
    async def process(self) -> dict[str, Any]:
        """As `ThreadedHost.process`."""
        return self._facts()

    async def leave(self, timeout_s: float) -> bool:
        """As `ThreadedHost.leave`."""
        self._leaving = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._calls.busy:
                    await asyncio.sleep(_LEAVING_LOOK_S)
                if self.kind.last:
                    await getattr(self.worker, self.kind.last)()
        except TimeoutError:
            return False
        return True


def host_class(kind: Kind) -> type:
    """The class to make an actor of: named after the pool, which is what `ps` and Ray's state show."""
    base = AsyncHost if kind.asynchronous else ThreadedHost
    return type(kind.pool, (base,), {})


def _give_way(niceness: int) -> None:
    """Lower the priority of every thread of this process; later ones inherit it."""
    for thread in os.listdir("/proc/self/task") if niceness else ():
        with suppress(OSError):  # a thread that has just ended
            os.setpriority(os.PRIO_PROCESS, int(thread), niceness)


def process_facts() -> dict[str, int]:
    """Id and resident memory (bytes) of the calling process."""
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return {"pid": os.getpid(), "rss_bytes": pages * resource.getpagesize()}
