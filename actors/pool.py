"""A pool: named Ray actors of one kind. Makes them, watches them, resizes. The worker classes know nothing of Ray.

Ray restarts a killed actor in place, with an empty memory; the pool notices by its process id, and whoever uses the
worker finds out at the next call. Calls that mutate are never retried by Ray (`max_task_retries=0`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from eagleray.actors.peer import PeerLost, RayPeer
from eagleray.cluster.ray_session import NAMESPACE
from eagleray.cluster.telemetry.logging import configure_file

logger = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Kind:
    """How the workers of a pool are made: `cls(*args)`, with up to `concurrency` calls at once in each.

    Each logs to a file of its own in `logs`, by name.
    """

    pool: str
    cls: type
    args: tuple[Any, ...]
    logs: Path
    concurrency: int = 8
    niceness: int = 0  # of its threads: those that nobody waits for give way to those that ack


@dataclass
class Member:
    """One worker as last seen. `pid` is 0 until it first answered."""

    peer: RayPeer
    pid: int = 0
    alive: bool = False
    restarts: int = 0
    rss_bytes: int = 0


@dataclass
class Pool:
    """The workers of one kind, `size` of them."""

    kind: Kind
    size: int
    members: dict[str, Member] = field(default_factory=dict)

    def reconcile(self) -> bool:
        """Make what is missing, stop what is too much; True if the membership changed."""
        wanted = [f"{self.kind.pool}-{index}" for index in range(self.size)]
        changed = False
        for name in wanted:
            if name not in self.members:
                self.members[name] = Member(RayPeer(name, _make(name, self.kind)))
                changed = True
        for name in [name for name in self.members if name not in wanted]:
            ray.kill(self.members.pop(name).peer.handle)
            changed = True
        return changed

    async def heartbeat(self) -> None:
        """Ask every worker who it is, at the same time."""
        await asyncio.gather(*(_beat(member) for member in self.members.values()))

    def alive(self) -> list[Member]:
        """The workers that answered the last heartbeat."""
        return [member for member in self.members.values() if member.alive]

    async def ask(self, method: str, *args: Any, timeout_s: float = HEARTBEAT_TIMEOUT_S) -> dict[str, Any]:
        """Call every live worker at once; answers by name, without those that failed or were too slow."""
        members = self.alive()
        calls = (member.peer.call(method, *args, timeout_s=timeout_s) for member in members)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        named = zip((member.peer.name for member in members), answers, strict=True)
        return {name: answer for name, answer in named if not isinstance(answer, BaseException)}


async def _beat(member: Member) -> None:
    try:
        found = await member.peer.call("process", timeout_s=HEARTBEAT_TIMEOUT_S)
    except (PeerLost, TimeoutError) as error:
        if member.alive:
            logger.warning("%s does not answer: %s", member.peer.name, error)
        member.alive = False
        return
    if member.pid not in (0, found["pid"]):
        member.restarts += 1
    member.pid, member.rss_bytes, member.alive = found["pid"], found["rss_bytes"], True


def _make(name: str, kind: Kind) -> Any:
    remote: Any = ray.remote  # its stubs know fewer options than it takes
    actor = remote(concurrency_groups={"health": 1})(_hosted(kind, name))
    return actor.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,  # a restarted controller finds the workers it had
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=kind.concurrency,
        num_cpus=0,
    ).remote(*kind.args)


def _hosted(kind: Kind, name: str) -> type:
    """The kind's class in a process of its own: with logs, tidied up after its start, and one more method: who am I.

    `process` is answered on a thread of its own even when the worker is busy.
    """
    cls, logs, niceness = kind.cls, kind.logs, kind.niceness
    construct: Any = cls.__init__  # type: ignore[misc]

    def start(self: Any, *args: Any) -> None:
        configure_file(logs, name)
        _give_way(niceness)
        construct(self, *args)
        # What is there now stays, and rows hold no cycles: young garbage is looked at every 50,000 objects instead of
        # every 700. It took a seventh of a validator's time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)

    @ray.method(concurrency_group="health")
    async def process_async(self: Any) -> dict[str, int]:
        return process_facts()

    @ray.method(concurrency_group="health")
    def process(self: Any) -> dict[str, int]:
        return process_facts()

    asynchronous = any(asyncio.iscoroutinefunction(getattr(cls, name, None)) for name in dir(cls))
    return type(cls.__name__, (cls,), {"__init__": start, "process": process_async if asynchronous else process})


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
