"""A pool: named Ray actors of one kind. Makes them, watches them, resizes. Knows no stage (`host` makes the workers).

Ray restarts a killed actor in place, with an empty memory; the pool notices by its process id, and whoever uses the
worker finds out at the next call. Calls that mutate are never retried by Ray (`max_task_retries=0`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import ray

from eagleray.actors.host import Kind, host_class
from eagleray.actors.peer import PeerLost, RayPeer
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.ray_session import NAMESPACE

logger = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT_S = 2.0
REMAKE_S = 5.0  # between tries to make a worker that could not be made


@dataclass
class Member:
    """One worker as last seen. `pid` is 0 until it first answered."""

    peer: RayPeer
    pid: int = 0
    alive: bool = False
    restarts: int = 0
    rss_bytes: int = 0
    failure: EaglerayError | None = None  # why it could not be made; None once it works
    remake_at: float = 0.0  # by time.monotonic; where there is a failure


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
        """Ask every worker who it is, at the same time; try again to make those that could not be made."""
        await asyncio.gather(*(_beat(member) for member in self.members.values()))

    def alive(self) -> list[Member]:
        """The workers that answered the last heartbeat."""
        return [member for member in self.members.values() if member.alive]

    @property
    def complete(self) -> bool:
        """All that should be there are, and answered."""
        return len(self.alive()) == self.size

    def failures(self) -> list[EaglerayError]:
        """Why workers could not be made."""
        return [member.failure for member in self.members.values() if member.failure]

    async def ask(self, method: str, *args: Any, timeout_s: float = HEARTBEAT_TIMEOUT_S) -> dict[str, Any]:
        """Call every live worker at once; answers by name, without those that failed or were too slow."""
        members = self.alive()
        calls = (member.peer.call(method, *args, timeout_s=timeout_s) for member in members)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        named = zip((member.peer.name for member in members), answers, strict=True)
        return {name: answer for name, answer in named if not isinstance(answer, BaseException)}


async def _beat(member: Member) -> None:
    try:
        found = await member.peer.process(timeout_s=HEARTBEAT_TIMEOUT_S)
    except (PeerLost, TimeoutError) as error:
        if member.alive:
            logger.warning("%s does not answer: %s", member.peer.name, error)
        member.alive = False
        return
    if member.pid not in (0, found["pid"]):
        member.restarts += 1
        member.failure = None
    member.pid, member.rss_bytes = found["pid"], found["rss_bytes"]
    member.alive = found["failure"] is None
    if not member.alive:
        _remake(member, found["failure"])


def _remake(member: Member, failure: EaglerayError) -> None:
    """Note why the worker could not be made, and have Ray start its process again when it is time."""
    now = time.monotonic()
    if member.failure is None:
        logger.error("%s cannot start: %s", member.peer.name, failure)
        member.failure, member.remake_at = failure, now + REMAKE_S
    elif now >= member.remake_at:
        ray.kill(member.peer.handle, no_restart=False)
        member.remake_at = now + REMAKE_S


def _make(name: str, kind: Kind) -> Any:
    remote: Any = ray.remote  # its stubs know fewer options than it takes
    actor = remote(concurrency_groups={"health": 1})(host_class(kind))
    return actor.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,  # a restarted controller finds the workers it had
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=kind.concurrency,
        num_cpus=0,
    ).remote(name, kind)
