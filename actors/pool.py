"""A pool: named Ray actors of one kind. Makes them, watches them, resizes. Knows no stage (`host` makes the workers).

Ray restarts a killed actor in place, with an empty memory; the pool notices by its process id, and whoever uses the
worker finds out at the next call. Calls that mutate are never retried by Ray (`max_task_retries=0`).

A worker is healthy while it answers heartbeats and nothing that it does is overdue (`cluster.pulse`). One that is not,
for `stalled_after_s`, is ended by force, also where its process is stopped, and made again (docs/adr/0021). A worker
that is too much leaves: `reconcile` takes it off the members, and `release`, once everybody has been told, lets its
calls end before it goes.

In a cluster of several nodes (`placement`) a pool is told where its workers may be. One that shall go elsewhere is
retired: it works until another has taken its place, and leaves then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from eagleray.actors.host import Kind, WorkerFailed, host_class
from eagleray.actors.peer import PeerLost, RayPeer
from eagleray.actors.placement import Node, emptiest
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.ray_session import NAMESPACE

logger = logging.getLogger(__name__)

T = TypeVar("T")

HEARTBEAT_TIMEOUT_S = 2.0
REMAKE_S = 5.0  # between tries to make a worker that could not be made
CRASHES = 2  # in a row, of a process that starts: then it is said; Ray goes on trying
STARTING_S = 120.0  # for a process to start and make its worker; then it is ended and started again
AWAY_S = 5.0  # without an answer: what the worker owns is given to others meanwhile, in a cluster
AWAY_STARTING_S = 45.0  # the same of one that has not answered since it was made with the whole pool
CONTROL_S = 2.0  # that Ray's control server may take to answer
LEAVE_S = 35.0  # for the calls of a worker that leaves: none takes longer than messages that are given up (30 s)

_CONTROL = ThreadPoolExecutor(1, "control")  # its own: the threads of all others would be taken one after the other


@dataclass
class Member:
    """One worker as last seen. `pid` is 0, and `life` and `node` are empty, until it first answered."""

    peer: RayPeer
    pid: int = 0
    life: str = ""
    node: str = ""  # where it is, or was sent
    version: str = ""  # of what it was made from (`host.Kind`)
    retired: bool = False  # it leaves as soon as another has taken its place
    quiet_since: float | None = field(default_factory=time.monotonic)  # None: it answers
    patience_s: float = AWAY_STARTING_S  # for its first answer; then what it owns is given to others
    alive: bool = False
    restarts: int = 0
    replaced: int = 0  # of these: ended by us, for want of progress
    rss_bytes: int = 0
    failure: EaglerayError | None = None  # why it could not be made; None once it works
    remake_at: float = 0.0  # by time.monotonic; where there is a failure
    starting: bool = True  # nothing was heard since its process was started (again)
    heard_at: float = field(default_factory=time.monotonic)  # the last answer, or the begin of the start
    starts: int = 0  # how often Ray had started it again when its last start began
    missed: int = 0  # heartbeats in a row that were not answered in time
    stalls: int = 0  # answers in a row that told of work overdue for too long
    problems: Mapping[str, str] = field(default_factory=dict)  # by part of the platform


@dataclass
class Pool:
    """The workers of one kind, `size` of them; stalled ones are replaced after `stalled_after_s`."""

    kind: Kind
    size: int
    stalled_after_s: float
    members: dict[str, Member] = field(default_factory=dict)
    nodes: list[Node] | None = None  # where new workers may go; None: there is one node, and it needs no name
    _leaving: dict[str, RayPeer] = field(default_factory=dict)  # off the members, and perhaps in somebody's call
    _farewells: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def adopt(self, names: Iterable[str]) -> None:
        """Take over those of the actors `names` that are workers of this pool: a controller before this one made them.

        Raises ValueError where one has ended meanwhile.
        """
        for name in sorted(names):
            if name.startswith(f"{self.kind.pool}-") and name not in self.members:
                peer = RayPeer(name, ray.get_actor(name, NAMESPACE))
                # Those of before are no crashes of now. One that lives need not start; its node may be gone, too.
                self.members[name] = Member(peer, starts=peer.restarts(), patience_s=AWAY_S)

    def reconcile(self, load: Sequence[str] = ()) -> None:
        """Make what is missing; take what is too much off the members, to be released. `load`: nodes of all workers."""
        wanted, works = self._wanted(), any(member.life for member in self.members.values())
        for name in [name for name in self.members if name not in wanted]:
            self._leaving[name] = self.members.pop(name).peer
        for name, place in wanted.items():
            if name not in self.members and name not in self._leaving:  # its name is free when it has left
                node = place or self._emptiest(load)
                if self.nodes is not None and node is None:
                    continue  # no node may have it
                peer = RayPeer(name, _make(name, self.kind, node, bool(place)))
                self.members[name] = Member(peer, patience_s=0.0 if works else AWAY_STARTING_S)
                self.members[name].node = node.id if node else ""

    def _wanted(self) -> dict[str, Node | None]:
        """The names of those that should be there, with their nodes where that is fixed."""
        pool = self.kind.pool
        if self.nodes is None or not self.kind.per_node:
            return self._wanted_of(pool, None)
        wanted: dict[str, Node | None] = {}
        for node in self.nodes:
            wanted |= self._wanted_of(f"{pool}-{node.id[:8]}", node)
        return wanted

    def _wanted_of(self, prefix: str, node: Node | None) -> dict[str, Node | None]:
        """`size` workers of that name; those that were retired stay until the others are all there."""
        mine = {name: member for name, member in self.members.items() if name.rpartition("-")[0] == prefix}
        active = sorted((name for name, member in mine.items() if not member.retired), key=_index)[: self.size]
        free = (name for index in count() if (name := f"{prefix}-{index}") not in mine)
        wanted = [*active, *(next(free) for _ in range(self.size - len(active)))]
        if not all(name in mine and mine[name].alive for name in wanted):
            wanted += [name for name, member in mine.items() if member.retired]
        return dict.fromkeys(wanted, node)

    def _emptiest(self, load: Sequence[str]) -> Node | None:
        held = [member.node for member in self.members.values() if not member.retired]
        return emptiest(self.nodes or [], held, load)

    def retire(self, node: str) -> bool:
        """Have the workers that are on `node` replaced by others elsewhere; True where there are none."""
        here = [name for name, member in self.members.items() if member.node == node]
        for name in here if not self.kind.per_node else ():
            self._retire(name)
        return not here and not self._leaving

    def renew(self) -> None:
        """Retire one worker that was made as another version says, where all are there."""
        stale = [name for name, member in self.members.items() if member.version not in ("", self.kind.version)]
        if stale and self.complete:
            logger.info("%s is of another version; another takes its place", stale[0])
            self._retire(stale[0])

    def level(self) -> None:
        """Retire a worker of the fullest node where another has two fewer: one that came has its share then."""
        if self.kind.per_node or not self.nodes or not self.complete:
            return
        held = Counter({node.id: 0 for node in self.nodes})
        held.update(member.node for member in self.members.values() if member.node in held)
        (fullest, most), least = held.most_common(1)[0], min(held.values())
        if most - least > 1:
            name = next(name for name, member in self.members.items() if member.node == fullest)
            logger.info("%s is replaced on another node, which has fewer workers", name)
            self._retire(name)

    def _retire(self, name: str) -> None:
        if self.kind.alone:
            self._leaving[name] = self.members.pop(name).peer
        else:
            self.members[name].retired = True

    def present(self, living: Container[str] | None = None) -> list[str]:
        """Names of the workers that may own something: those that answer, or have not been silent for long.

        `living`: ids of the nodes that there are. One that is silent and was on another will not answer from there.
        """
        now = time.monotonic()
        return [
            name
            for name, member in self.members.items()
            if not _away(member, now) and (living is None or member.alive or not member.life or member.node in living)
        ]

    def release(self) -> None:
        """Let those that are off the members go; for when all who might call them have been told."""
        for name in self._leaving.keys() - self._farewells.keys():
            self._farewells[name] = asyncio.create_task(self._farewell(name))

    async def _farewell(self, name: str) -> None:
        peer = self._leaving[name]
        try:
            if not await peer.leave(LEAVE_S):
                logger.warning("%s is ended in the midst of calls: they took longer than %g s", name, LEAVE_S)
        except (PeerLost, TimeoutError) as error:
            logger.warning("%s leaves without a word: %s", name, error)
        except Exception:  # whatever its last call failed with: state is a cache
            logger.exception("%s leaves with an error", name)
        finally:
            ray.kill(peer.handle)
            del self._leaving[name], self._farewells[name]

    def end(self) -> None:
        """End all workers at once."""
        self.size = 0
        for peer in [*(member.peer for member in self.members.values()), *self._leaving.values()]:
            ray.kill(peer.handle)
        self.members.clear()

    async def heartbeat(self) -> None:
        """Ask every worker how it is, at the same time; replace the stalled, make the failed and the lost again."""
        await asyncio.gather(*(self._beat(member) for member in list(self.members.values())))

    def alive(self) -> list[Member]:
        """The workers that answered the last heartbeat."""
        return [member for member in self.members.values() if member.alive]

    @property
    def complete(self) -> bool:
        """All that should be there are, and answered; those that leave have left."""
        return len(self.alive()) == self.wanted and not self._leaving

    @property
    def wanted(self) -> int:
        """How many there should be, on all nodes."""
        return len(self.nodes) * self.size if self.nodes is not None and self.kind.per_node else self.size

    def failures(self) -> list[EaglerayError]:
        """Why workers could not be made."""
        return [member.failure for member in self.members.values() if member.failure]

    def missing(self) -> list[str]:
        """Workers that have not answered."""
        return sorted(member.peer.name for member in self.members.values() if not member.alive)

    def silent(self) -> str:
        """A sentence about the worker that has been silent longest, if it is for too long; else empty."""
        quiet = [member for member in self.members.values() if not member.alive and member.failure is None]
        failed = [member for member in self.members.values() if member.failure]
        if failed:
            return str(failed[0].failure)
        for member in sorted(quiet, key=lambda member: member.heard_at):
            silent_s = time.monotonic() - member.heard_at
            # Half the time after which it is replaced; a start may take as long as that.
            if silent_s >= self.stalled_after_s / (1 if member.starting else 2):
                return f"{member.peer.name} has not answered for {silent_s:.0f} s"
        return ""

    async def ask(self, method: str, *args: Any, timeout_s: float = HEARTBEAT_TIMEOUT_S) -> dict[str, Any]:
        """Call every live worker at once; answers by name, without those that failed or were too slow."""
        members = self.alive()
        calls = (member.peer.call(method, *args, timeout_s=timeout_s) for member in members)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        named = zip((member.peer.name for member in members), answers, strict=True)
        return {name: answer for name, answer in named if not isinstance(answer, BaseException)}

    async def _beat(self, member: Member) -> None:
        asked_at = time.monotonic()
        try:
            found = await member.peer.process(timeout_s=HEARTBEAT_TIMEOUT_S)
        except PeerLost as error:
            await self._lost(member, error, asked_at)
        except TimeoutError:
            await self._unanswered(member, f"no answer within {HEARTBEAT_TIMEOUT_S:g} s", asked_at)
        except Exception as error:  # it cannot even say how it is: for want of memory, for one
            await self._unanswered(member, f"{type(error).__name__}: {error}", asked_at)
        else:
            await self._answered(member, found)

    async def _lost(self, member: Member, error: PeerLost, asked_at: float) -> None:
        """Its process has ended: Ray starts it again, unless the actor has ended for good."""
        _silent(member, str(error), asked_at)
        if not member.starting:
            member.starting, member.heard_at = True, time.monotonic()
        await self._look_at_start(member)
        if await _told(_ended_for_good, member.peer.name, otherwise=False):
            logger.error("%s has ended for good; it is made again", member.peer.name)
            self.members.pop(member.peer.name, None)
        elif time.monotonic() - member.heard_at > STARTING_S:
            self.replace(member, f"has not started within {STARTING_S:g} s")

    async def _unanswered(self, member: Member, why: str, asked_at: float) -> None:
        _silent(member, why, asked_at)
        member.missed += 1  # beats and not time: where this process was stopped itself, nobody else was silent
        patience_s = STARTING_S if member.starting else self.stalled_after_s
        silent_s = member.missed * HEARTBEAT_TIMEOUT_S
        await self._look_at_start(member)
        if silent_s >= patience_s:
            self.replace(member, f"has not answered for {silent_s:g} s")

    async def _look_at_start(self, member: Member) -> None:
        """Note where its process ends again and again before it answers once."""
        if not member.starting:
            return
        crashes = await _told(member.peer.restarts, otherwise=member.starts) - member.starts
        if crashes >= CRASHES and member.failure is None:
            name = member.peer.name
            member.failure = WorkerFailed(
                f"{name} cannot start: its process ended {crashes} times; see {self.kind.logs / name}.log"
            )
            logger.error("%s", member.failure)

    async def _answered(self, member: Member, found: Mapping[str, Any]) -> None:
        if member.life not in ("", found["life"]):
            member.restarts += 1
            member.failure = None
        member.life, member.node, member.quiet_since = found["life"], found["node"], None
        member.version = found["version"]
        member.pid, member.rss_bytes, member.problems = found["pid"], found["rss_bytes"], found["problems"]
        if member.starting:
            member.starting, member.starts = False, await _told(member.peer.restarts, otherwise=member.starts)
        member.missed, member.heard_at = 0, time.monotonic()
        member.alive = found["failure"] is None
        if not member.alive:
            _remake(member, found["failure"])
            return
        member.failure = None
        late = found["overdue"]
        # Twice: a process that was stopped answers before its loops have gone round once.
        member.stalls = member.stalls + 1 if late and late.seconds >= self.stalled_after_s else 0
        if member.stalls > 1:
            self.replace(member, f"makes no progress: {late.what} is overdue by {late.seconds:.0f} s")

    def replace(self, member: Member, why: str) -> None:
        """End its process by force; Ray starts it again. What it still does until then is refused (docs/adr/0021)."""
        logger.error("%s %s; it is replaced", member.peer.name, why)
        ray.kill(member.peer.handle, no_restart=False)
        member.alive, member.starting, member.heard_at = False, True, time.monotonic()
        member.starts += 1  # this end is ours
        member.missed = member.stalls = 0
        member.replaced += 1


def _silent(member: Member, why: str, asked_at: float) -> None:
    if member.alive:
        logger.warning("%s does not answer: %s", member.peer.name, why)
    member.alive = False
    if member.quiet_since is None:
        member.quiet_since = asked_at


def _away(member: Member, now: float) -> bool:
    """Whether others should have what it owns for now.

    Where a whole pool starts, those that are about to answer are given the time of a start: else the first would have
    all, and hand most of it over again. One that is made later waits until it answers.
    """
    if member.quiet_since is None:
        return False
    return now - member.quiet_since > (AWAY_S if member.life else member.patience_s)


async def _told(ask: Callable[..., T], *args: Any, otherwise: T) -> T:
    """What Ray's control server says; `otherwise` while it is away.

    A thread waits for it and nothing else does: where the head is gone, each question takes a minute and more.
    """
    try:
        async with asyncio.timeout(CONTROL_S):
            return await asyncio.get_running_loop().run_in_executor(_CONTROL, partial(ask, *args))
    except Exception as error:  # of Ray's, several kinds
        logger.warning("Ray's control server does not say: %s: %s", type(error).__name__, error)
        return otherwise


def _index(name: str) -> int:
    return int(name.rpartition("-")[2])


def _ended_for_good(name: str) -> bool:
    try:
        ray.get_actor(name, NAMESPACE)
    except ValueError:
        return True
    return False


def _remake(member: Member, failure: EaglerayError) -> None:
    """Note why the worker could not be made, and have Ray start its process again when it is time."""
    now = time.monotonic()
    if member.failure is None:
        logger.error("%s cannot start: %s", member.peer.name, failure)
        member.failure, member.remake_at = failure, now + REMAKE_S
    elif now >= member.remake_at:
        ray.kill(member.peer.handle, no_restart=False)
        member.remake_at = now + REMAKE_S


def _make(name: str, kind: Kind, node: Node | None, bound: bool) -> Any:
    """The actor. `bound` to its node it ends with that; else Ray makes it again elsewhere, or where there is room."""
    remote: Any = ray.remote  # its stubs know fewer options than it takes
    actor = remote(concurrency_groups={"health": 1})(host_class(kind))
    placed: dict[str, Any] = {}
    if node is not None:
        strategy = NodeAffinitySchedulingStrategy(node.id, soft=not bound, _spill_on_unavailable=not bound)
        placed = {"scheduling_strategy": strategy, "memory": kind.memory}
    return actor.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,  # a restarted controller finds the workers it had
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=kind.concurrency,
        num_cpus=kind.cpus if node is not None else 0,
        **placed,
    ).remote(name, kind)
