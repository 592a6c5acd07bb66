"""A worker in a Ray actor: makes it in the actor's process, names it, and answers for it while it works.

The worker's class is given by name and imported where it works, so an actor loads its own stage and no other, and the
controller none (tests/unit/test_imports_of_stages.py). A worker that cannot be made does not end its actor: the actor
answers with the failure, so that whoever waits for it hears why, at once.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import ray

from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.telemetry.logging import configure_file

logger = logging.getLogger(__name__)


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
        _give_way(kind.niceness)
        self.worker: Any = None
        self.failure: EaglerayError | None = None
        try:
            self.worker = getattr(import_module(kind.module), kind.place.partition(":")[2])(*kind.args)
        except EaglerayError as error:
            self.failure = error
        except Exception as error:
            logger.exception("%s cannot start", name)
            log = kind.logs / f"{name}.log"
            self.failure = WorkerFailed(f"{name} cannot start: {type(error).__name__}: {error}; see {log}")
        # What is there now stays, and rows hold no cycles: young garbage is looked at every 50,000
        # objects instead of every 700. It took a seventh of a validator's time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)

    def _method(self, name: str) -> Any:
        if self.failure:
            raise self.failure
        return getattr(self.worker, name)

    def _facts(self) -> dict[str, Any]:
        return {**process_facts(), "failure": self.failure}


class ThreadedHost(_Host):
    """Calls run in threads. `process` has one of its own, so it is answered while the worker is busy."""

    def call(self, method: str, *args: Any) -> Any:
        """Call the worker; its exceptions come through."""
        return self._method(method)(*args)

    @ray.method(concurrency_group="health")
    def process(self) -> dict[str, Any]:
        """Process id and resident memory (bytes), and what the worker could not be made for, if so."""
        return self._facts()


class AsyncHost(_Host):
    """Calls are coroutines on one event loop, `process` on another."""

    async def call(self, method: str, *args: Any) -> Any:
        """Call the worker; its exceptions come through."""
        return await self._method(method)(*args)

    @ray.method(concurrency_group="health")
    async def process(self) -> dict[str, Any]:
        """As `ThreadedHost.process`."""
        return self._facts()


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
