"""The controller: one detached actor that keeps pools at their size and tells everyone who is there.

In the manner of Ray Serve's controller: a loop that compares what should be with what is, and repeats itself; every
message it sends states the whole truth, so a lost one or a restarted receiver is mended by the next.

It may be killed at any instruction. Ray starts it again, and it goes on by itself: it adopts the workers that live,
takes sizes and port from its predecessor (`succession`), and its messages are greater than all that came before. One
that hears of a later incarnation has been replaced, and does nothing any more (docs/adr/0021).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray._private.state import state

from eagleray.actors.autoscale import Autoscaler
from eagleray.actors.host import Kind, process_facts
from eagleray.actors.messages import EdgeNews, EdgeReport, Origin, Outdated, PartitionId, StartReport, Topology, Version
from eagleray.actors.objectives import Objectives
from eagleray.actors.peer import RayPeer
from eagleray.actors.placement import Node, find, nodes_of, places, share_out
from eagleray.actors.pool import Member, Pool
from eagleray.actors.rate_exchange import Exchange
from eagleray.actors.standstill import NOWHERE, Blamed
from eagleray.actors.succession import Legacy, Succession
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.ray_session import NAMESPACE
from eagleray.cluster.state.backends import open_state
from eagleray.cluster.state.protocol import Claim, Fenced
from eagleray.cluster.telemetry.logging import configure_file

logger = logging.getLogger(__name__)

RECONCILE_INTERVAL_S = 0.5
MISSING_LOOK_S = 0.1  # instead, while workers are missing
QUIET_LOOK_S = 2.0  # instead, where nobody has asked for anything for QUIET_AFTER_S
QUIET_AFTER_S = 10.0
LAG_RECORDS_BUSY = 2000  # a partition this far behind counts as a pool at its limit
ACKING = ("edge", "validate")  # with the log, all that an ack needs: made first, and alone
SCALABLE = ("validate", "window", "writer")
MOVING = (*SCALABLE, "committer")  # pools that an event goes through on its way into the tables
COUNTING = ("validate", "window", "writer", "edge", "scheduler")  # pools whose workers have `stats`
HISTORY = "objectives"  # a place of state
JUDGE_S, SAVE_S = 10.0, 60.0
ATTEND_S = 10.0  # for an edge to take news, and to begin to listen
TELL_S = 1.0  # of that, what everything else waits
LEVEL_AFTER_S = 30.0  # without a change of nodes: then workers are levelled out
NODES_S = 2.0  # that Ray's control server may take to say which nodes live; else they are those of before
DRAIN_STEP_S = 5.0  # of a drain: then it looks whether everybody is still there


_NO_COMMITTER: Mapping[str, Any] = {"partitions": [], "last_commit_us": {}, "counters": {}, "topology": 0}


class Controller:
    """Reconciles the pools. `kinds` says how the workers of each pool are made."""

    def __init__(self, config: Config, kinds: Mapping[str, Kind], run: str) -> None:
        """Nothing is started before `begin`. `run` names what a restarted controller goes on with: one `up`."""
        configure_file(config.logs_dir, "controller")
        self.config = config
        self._succession = Succession(config)
        self._legacy = self._succession.take_over(run)
        patience_s = config.pools.stalled_after_s
        self.pools = {name: Pool(kind, self._size(name), patience_s) for name, kind in kinds.items()}
        self.autoscaler = Autoscaler(config.pools)
        for name in self._legacy.held:
            self.autoscaler.hold(name)
        self.port = self._legacy.port or config.edge.port
        self.topology = Topology(version=(0, 0))
        self._clock = SystemClock()
        self._incarnation = self._legacy.incarnation
        self._told = 0  # messages; with the incarnation, their version
        self._established = False  # the committer has heard of no later incarnation
        self._replaced = False  # it has: another controller is in charge
        self._adopted = False
        self._turn = asyncio.Lock()  # reconciliations, one at a time
        self._acking = False  # events can be acked, since once
        self._refused: dict[str, EaglerayError] = {}  # why an edge cannot listen
        self._complete_us: dict[str, int] = {}
        self._answered: dict[str, int] = {}  # requests, by edge
        self._asked_at = time.monotonic()  # when an edge had last answered one
        self._plan: object = None  # who owns what, and which life of the committer was told
        self._committer: RayPeer | None = None  # one that has heard of the topology
        self._loop: asyncio.Task[None] | None = None
        self._judging: asyncio.Task[None] | None = None
        self._objectives = Objectives(config.slo)
        self._claim: Claim | None = None  # where their history is kept
        self._draining = False
        self._serving: frozenset[str] = frozenset()  # edges that listen
        self._telling: dict[str, asyncio.Task[EdgeReport | None]] = {}  # edges that have not answered the last news
        self._in_flight_bytes = 0  # at the fullest edge
        self._cluster = any(kind.per_node for kind in kinds.values())  # of several nodes, which others look after
        self._nodes: dict[str, Node] = {}  # those that live, in a cluster
        self._nodes_since = time.monotonic()  # these, and no others
        self._asking: asyncio.Task[Any] | None = None  # Ray, which nodes live
        self._drained = set(self._legacy.drained)  # nodes that shall have no workers
        self._spent = Exchange()
        self._blamed = Blamed()

    def _size(self, pool: str) -> int:
        if pool == "edge":
            return self.config.edge.processes
        if pool not in SCALABLE:
            return 1
        limits = Autoscaler(self.config.pools).limits(pool)
        return min(max(self._legacy.sizes.get(pool, limits.min), 1), limits.max)

    def begin(self) -> None:
        """Reconcile from now on, in a task of the running event loop; a second time it does nothing."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._forever())
            self._judging = asyncio.create_task(self._judge_forever())

    async def run(self) -> int:
        """Begin, unless it has begun; returns the edge's port once events can be acked. Raises what that failed with.

        Window and writer workers, committer, SQL and scheduler are made afterwards: nobody waits for them, since what
        is acked is in the log.
        """
        self.begin()
        while not self._acking:
            failures = [*self._refused.values()]
            failures += [failure for name in ACKING for failure in self.pools[name].failures()]
            if failures:
                raise failures[0]
            await asyncio.sleep(MISSING_LOOK_S)
        return self.port

    async def origin(self) -> Origin:
        """What it was made from."""
        found = dict(ray.get_runtime_context().runtime_env)
        return Origin(self.config, {name: pool.kind for name, pool in self.pools.items()}, self._legacy.run, found)

    async def stale(self) -> list[str]:
        """Workers that another version has made and that are still there, and those that are not there yet."""
        found = [
            name
            for pool in self.pools.values()
            for name, member in pool.members.items()
            if member.version != pool.kind.version
        ]
        return sorted({*found, *(name for pool in self.pools.values() for name in pool.missing())})

    async def start_report(self) -> StartReport:
        """How far the start is."""
        failures = [failure for pool in self.pools.values() for failure in pool.failures()]
        missing = [name for pool in self.pools.values() for name in pool.missing()]
        return StartReport(dict(self._complete_us), self._complete(), [*self._refused.values(), *failures], missing)

    def _complete(self) -> bool:
        edges = self.pools["edge"].alive()
        up = all(pool.complete for pool in self.pools.values())
        return up and all(member.peer.name in self._serving for member in edges)

    async def _forever(self) -> None:
        while not self._draining and not self._replaced:
            try:
                await self._reconcile()
                if self._complete():
                    await self._autoscale()
            except Exception:
                logger.exception("reconciliation failed; trying again")
            await asyncio.sleep(self._pause_s())

    def _pause_s(self) -> float:
        """Until the next look. Each asks every worker: 10 % of a core for a platform that nobody uses."""
        if not self._complete():
            return MISSING_LOOK_S
        quiet_s = time.monotonic() - self._asked_at
        return QUIET_LOOK_S if quiet_s > QUIET_AFTER_S and not self._in_flight_bytes else RECONCILE_INTERVAL_S

    async def _reconcile(self) -> None:
        async with self._turn:
            await self._reconcile_alone()

    async def _reconcile_alone(self) -> None:
        # 1. the right number of workers; those that ack have the machine for themselves until they do
        await self._look_at_nodes()
        if self._cluster and not self._nodes:
            return  # a successor knows no node yet: it must not take their workers for too many
        self._adopt()
        wanted = [name for name in self.pools if self._acking or self._draining or name in ACKING]
        for name in wanted:
            self.pools[name].reconcile([m.node for pool in self.pools.values() for m in pool.members.values()])
        # 2. who answers
        await asyncio.gather(*(pool.heartbeat() for pool in self.pools.values()))
        # 3. who owns what, and 4. tell committer and edges
        if self._acking or self._draining:
            await self._assign_all()
        await self._attend()
        # 5. those that nobody calls any more, and those that another version has made
        for pool in self.pools.values():
            pool.release()
            if self._cluster and self._acking:
                pool.renew()
            if time.monotonic() - self._nodes_since > LEVEL_AFTER_S:
                pool.level()
        self._acking = self._acking or bool(self._serving and self.pools["validate"].alive())
        for name in wanted:
            if self.pools[name].complete:
                self._complete_us.setdefault(name, self._clock.now_us())
        await self._remember()

    async def _look_at_nodes(self) -> None:
        """Which nodes live, and where workers may be. While Ray's control server is away, all is as it was."""
        if not self._cluster:
            return
        # One question at a time: a thread that asks a control server which is away waits for a minute and more.
        self._asking = self._asking or asyncio.create_task(asyncio.to_thread(_ray_nodes))
        if not (await asyncio.wait([self._asking], timeout=NODES_S if not self._nodes else NODES_S / 10))[0]:
            return
        asked, self._asking = self._asking, None
        if (error := asked.exception()) is not None:
            logger.warning("Ray does not say which nodes live: %s: %s", type(error).__name__, error)
            return
        table, draining = asked.result()
        before, self._nodes = self._nodes, nodes_of(table, self._drained | draining)
        if before != self._nodes:
            self._nodes_since = time.monotonic()
        self._drained &= self._nodes.keys()
        for name, pool in self.pools.items():
            pool.nodes = places(name, self._nodes.values())
        for node in self._nodes.values() if self._acking else ():
            if node.draining:
                self._clear(node.id)

    def _clear(self, node: str) -> bool:
        """Have others take over from the workers on `node`; True where none are left."""
        return all([pool.retire(node) for pool in self.pools.values()])

    def _adopt(self) -> None:
        """Take over the workers of the controller before; where it left no word, their number is the pools' size."""
        if self._adopted:
            return
        names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)
                 if actor["namespace"] == NAMESPACE]  # fmt: skip
        for name, pool in self.pools.items():
            pool.adopt(names)
            if name in SCALABLE and name not in self._legacy.sizes and pool.nodes is None:
                pool.size = min(max(pool.size, len(pool.members)), self.autoscaler.limits(name).max)
        if any(pool.members for pool in self.pools.values()):
            logger.warning("incarnation %d goes on with the workers that live", self._incarnation)
        self._adopted = True

    async def _remember(self) -> None:
        """Leave word for a successor, where there is news."""
        sizes = {name: self.pools[name].size for name in SCALABLE}
        port = self.port if self._serving else self._legacy.port
        held = tuple(name for name in SCALABLE if self.autoscaler.held(name))
        legacy = Legacy(self._legacy.run, self._incarnation, sizes, held, port, tuple(sorted(self._drained)))
        if legacy != self._legacy and not self._draining and not self._replaced:
            self._legacy = legacy
            if not await asyncio.to_thread(self._succession.leave, legacy):
                logger.error("another controller is in charge; this one does nothing any more")
                self._replaced = True

    def _next_version(self) -> Version:
        self._told += 1
        return self._incarnation, self._told

    async def _assign_all(self) -> None:
        """Tell the committer who owns what; one that hears of it for the first time, or starts anew, gets a version."""
        owners = self._assign("window"), self._assign("writer")
        committers = [member.life for member in self.pools["committer"].members.values()]
        plan = (*owners, committers)
        if plan != self._plan:
            self._plan = plan
            self.topology = Topology(self._next_version(), *owners)
        heard: dict[str, Version] = await self.pools["committer"].ask("attend", self.topology)
        self._outdated(max(heard.values(), default=self.topology.version)[0])
        # a committer that has not heard of this topology yet knows only a part of the windows
        self._committer = next((m.peer for m in self.pools["committer"].alive() if m.peer.name in heard), None)
        self._established |= any(version[0] == self._incarnation for version in heard.values())

    def _outdated(self, later: int) -> None:
        """Somebody has heard of `later`: if it is, the predecessor left no word, or this controller was replaced."""
        if later <= self._incarnation:
            return
        if self._established:
            logger.error("incarnation %d was replaced by %d; it does nothing any more", self._incarnation, later)
            self._replaced = True
            return
        self._incarnation, self._plan = later + 1, None

    async def _autoscale(self) -> None:
        committer = await self.pools["committer"].ask("status")
        for status in committer.values():
            self._move_on(status["standing"], status["partitions"])
        loads = {"validate": self._in_flight_bytes / self.config.edge.in_flight_bytes_max}
        partitions = [row for status in committer.values() for row in status["partitions"]]
        for pool in ("window", "writer"):
            lags = (row["end"] - row[pool]["position"] for row in partitions if row.get(pool))
            loads[pool] = max(lags, default=0) / LAG_RECORDS_BUSY
        cores = int(sum(node.cpus for node in self._nodes.values()) if self._cluster else _cores())
        for name, load in loads.items():
            free = cores - sum(self.pools[pool].wanted for pool in SCALABLE)
            size = self.autoscaler.size(name, self.pools[name].size, load, free)
            if size != self.pools[name].size:
                facts = {"pool": name, "before": self.pools[name].size, "after": size, "load": round(load, 2)}
                logger.info("pool scaled", extra=facts)
            self.pools[name].size = size

    def _move_on(
        self, standing: Mapping[str, Sequence[tuple[PartitionId, int]]], partitions: Sequence[Mapping[str, Any]]
    ) -> None:
        """Replace workers that go round and do not get on, once for each place."""
        self._blamed.forget(
            {(pool, (row["stream"], row["partition"])): row[pool] for row in partitions for pool in standing}
        )
        for pool, stands in standing.items():
            owners: Mapping[PartitionId, RayPeer] = getattr(self.topology, pool)
            for partition, position in stands:
                member = self.pools[pool].members.get(owners[partition].name) if partition in owners else None
                if member is None or not member.alive or not self._blamed.first(pool, partition, position):
                    continue
                where = f"at record {position}" if position != NOWHERE else "and cannot restore it"
                self.pools[pool].replace(member, f"does not get on with {partition} {where}")

    def _assign(self, pool: str) -> dict[PartitionId, RayPeer]:
        if self._cluster:
            members, streams = self.pools[pool].members, self.config.streams
            owners = share_out(streams, self.config.log.partitions, self.pools[pool].present(self._nodes))
            return {partition: members[name].peer for partition, name in owners.items()}
        peers = [member.peer for member in self.pools[pool].members.values()]
        partitions = [(s, p) for s in sorted(self.config.streams) for p in range(self.config.log.partitions)]
        return {partition: peers[index % len(peers)] for index, partition in enumerate(partitions)}

    async def _attend(self) -> None:
        if self._draining or self._replaced:
            return
        sql = [member.peer for member in self.pools["sql"].alive()] if "sql" in self.pools else []
        validators = [(member.peer, member.life) for member in self.pools["validate"].alive()]
        problems = self._problems()
        edges = self.pools["edge"].alive()
        names = [member.peer.name for member in edges]
        beside = self.pools["validate"].alive() if self._cluster else []
        serving, in_flight = set(), []
        told = edges if self.port else edges[:1]  # the first edge finds the port, the others share it
        version = self._next_version()
        for member in told:
            if member.peer.name not in self._telling:
                near = frozenset(m.peer.name for m in beside if m.node == member.node)
                spent = self._spent.waiting(member.peer.name)
                news = EdgeNews(
                    version, self.port, validators, self._committer, sql, spent, problems, self._cluster, near
                )
                self._telling[member.peer.name] = asyncio.create_task(self._tell_edge(member, news))
        # An edge that was cut off since its heartbeat must not keep the next one, and with it partitions, waiting.
        if self._telling:
            await asyncio.wait(self._telling.values(), timeout=TELL_S)
        for gone in self._telling.keys() - set(names):
            self._telling.pop(gone).cancel()
        for member in told:
            if not self._telling[member.peer.name].done():
                serving |= {member.peer.name} & self._serving
                continue
            if (report := self._telling.pop(member.peer.name).result()) is None:
                continue
            self._established = True
            self._refused.pop(member.peer.name, None)
            self.port = report.port
            self._spent.answered(member.peer.name, report.spent, names)
            serving.add(member.peer.name)
            in_flight.append(report.in_flight_bytes)
            if self._answered.get(member.peer.name) != report.answered:
                self._answered[member.peer.name], self._asked_at = report.answered, time.monotonic()
        self._serving, self._in_flight_bytes = frozenset(serving), max(in_flight, default=0)

    async def _tell_edge(self, member: Member, news: EdgeNews) -> EdgeReport | None:
        """Its answer; None where it has none that counts."""
        try:
            report: EdgeReport = await member.peer.call("attend", news, timeout_s=ATTEND_S)
        except Outdated as error:
            self._outdated(error.heard[0])
        except EaglerayError as error:  # the port is taken
            if member.peer.name not in self._refused:
                logger.error("%s cannot listen: %s", member.peer.name, error)
            self._refused[member.peer.name] = error
        except Exception as error:  # lost, too slow, or without memory: the others are told all the same
            logger.warning("%s does not answer: %s: %s", member.peer.name, type(error).__name__, error)
        else:
            return report
        return None

    def _problems(self) -> dict[str, str]:
        """Why events should not be sent now, by part: what workers say themselves, and which say nothing."""
        found: dict[str, str] = {}
        for name in MOVING:
            pool = self.pools[name]
            found |= {part: problem for member in pool.alive() for part, problem in member.problems.items()}
            if name != "validate" and (silent := pool.silent()):
                found[name] = silent
        return found

    async def _judge_forever(self) -> None:
        """Keep the history of objectives: ask every JUDGE_S, save every SAVE_S."""
        saved_at = time.monotonic()
        while not self._draining and not self._replaced:
            try:
                if self._claim is None:
                    self._claim = await asyncio.to_thread(open_state(self.config).place(HISTORY).claim)
                    self._objectives = Objectives(self.config.slo, self._claim.word)
                await self._judge()
                if time.monotonic() - saved_at >= SAVE_S:
                    await asyncio.to_thread(self._claim.publish, self._objectives.saved())
                    saved_at = time.monotonic()
            except Fenced as error:
                logger.warning("the history of objectives is kept elsewhere: %s", error)
                return
            except Exception as error:  # a full disk, say: it is kept in memory meanwhile
                logger.warning("the history of objectives waits: %s: %s", type(error).__name__, error)
            await asyncio.sleep(JUDGE_S)

    async def _judge(self) -> None:
        for pool in ("edge", "committer"):
            for process, counts in (await self.pools[pool].ask("judgements")).values():
                self._objectives.see(process, counts, self._clock.now_us())

    async def scale(self, pool: str, size: int) -> int:
        """Set a pool's size within its limits and hold it there; returns the size. Raises EaglerayError."""
        if pool not in SCALABLE:
            raise EaglerayError(f"no pool {pool!r} can be scaled; expected one of {', '.join(SCALABLE)}")
        limits = self.autoscaler.limits(pool)
        if not 1 <= size <= limits.max:
            raise EaglerayError(f"pools.{pool}.max is {limits.max}; expected a size from 1 to {limits.max}")
        logger.info("pool scaled by hand", extra={"pool": pool, "before": self.pools[pool].size, "after": size})
        self.pools[pool].size = size
        self.autoscaler.hold(pool)
        await self._reconcile()
        return size

    async def status(self) -> dict[str, Any]:
        """What runs: pools, processes, partitions, tables, counters."""
        stats, committer = await asyncio.gather(self._stats(), self.pools["committer"].ask("status"))
        found = next(iter(committer.values()), _NO_COMMITTER)
        own = Member(RayPeer("controller-0", None), alive=True, **process_facts())  # type: ignore[arg-type]
        rows = [("controller", own)] + [(p, m) for p, pool in self.pools.items() for m in pool.members.values()]
        return {
            "pools": {name: {"size": pool.wanted, "alive": len(pool.alive())} for name, pool in self.pools.items()},
            "processes": [
                {"pool": pool, "name": m.peer.name, "pid": m.pid, "alive": m.alive, "restarts": m.restarts}
                | {"replaced": m.replaced, "rss_bytes": m.rss_bytes}
                | ({"node": self._nodes[m.node].ip} if m.node in self._nodes else {})
                for pool, m in rows
            ],
            "workers": stats,
            "slo": self._objectives.report(self._clock.now_us()),
            **({"nodes": self._node_rows()} if self._cluster else {}),
            **{name: value for name, value in found.items() if name != "standing"},  # for the controller alone
        }

    def _node_rows(self) -> list[dict[str, Any]]:
        """The nodes that live, each with its edge's URL and its workers."""
        rows = []
        for node in sorted(self._nodes.values(), key=lambda node: node.ip):
            here = {n: m for pool in self.pools.values() for n, m in pool.members.items() if m.node == node.id}
            serves = any(name in self._serving for name in here)
            url = self.config.edge.url(self.port, node.ip) if serves else None
            rows.append({"node": node.ip, "id": node.id, "role": node.role, "draining": node.draining, "url": url}
                        | {"workers": sorted(name for name, m in here.items() if m.alive)})  # fmt: skip
        return rows

    async def urls(self) -> list[str]:
        """Where events can be sent: the edges that listen, one for each node of a cluster."""
        found = [row["url"] for row in self._node_rows() if row["url"]]
        return found if self._cluster else [self.config.edge.url(self.port)]

    async def drain_node(self, asked: str, back: bool = False) -> bool:
        """Have others take over what the node does, and keep it empty (`back`: no longer); True once it is empty.

        To be asked again until it is. Raises EaglerayError where `asked` names no node.
        """
        node = find(self._nodes, asked)
        if back:
            self._drained.discard(node.id)
        else:
            self._drained.add(node.id)
        await self._reconcile()
        return back or self._clear(node.id)

    async def _stats(self) -> dict[str, dict[str, float]]:
        pools = [pool for name, pool in self.pools.items() if name in COUNTING]
        answers = await asyncio.gather(*(pool.ask("stats") for pool in pools))
        return {name: stats for answer in answers for name, stats in answer.items()}

    async def drain(self, timeout_s: float) -> bool:
        """Stop taking events, commit what was acked, save state; True if all of it was done in `timeout_s`."""
        self._draining = True
        deadline = time.monotonic() + timeout_s
        async with self._turn:  # from here on no edge is told to listen
            await asyncio.gather(*self._telling.values(), return_exceptions=True)
            await self._judge()
            await self._drain_edges()
        drained = False
        while not drained and time.monotonic() < deadline:  # the committer may be starting, or be killed meanwhile
            await self._reconcile()
            step_s = max(1.0, min(DRAIN_STEP_S, deadline - time.monotonic()))
            answers = await self.pools["committer"].ask("drain", step_s, timeout_s=step_s + 5)
            drained = bool(answers) and all(answers.values())
            await asyncio.sleep(0 if drained else MISSING_LOOK_S)
        await asyncio.gather(
            self.pools["window"].ask("stop", timeout_s=10), self.pools["writer"].ask("stop", timeout_s=10)
        )
        await self._remember_objectives()
        for pool in self.pools.values():
            pool.end()
        return drained

    async def _remember_objectives(self) -> None:
        """With what the last commits and acks add."""
        if self._claim is None or self._replaced:
            return
        try:
            await self._judge()
            await asyncio.to_thread(self._claim.publish, self._objectives.saved())
        except (OSError, Fenced) as error:
            logger.warning("the history of objectives is not saved: %s", error)

    async def _drain_edges(self) -> None:
        """Have every edge answer what it has taken, and end those that do not: they can ack nothing afterwards."""
        edges = self.pools["edge"]
        answers = await edges.ask("drain", timeout_s=self.config.edge.drain_timeout_s + 5)
        for name, member in edges.members.items():
            if name not in answers:
                ray.kill(member.peer.handle, no_restart=False)


def _ray_nodes() -> tuple[list[dict[str, Any]], set[str]]:
    """Ray's table of nodes, and the ids of those that it is about to take away."""
    nodes: Any = ray.nodes
    return nodes(), set(state.get_draining_nodes())


def _cores() -> float:
    found: Any = ray.cluster_resources
    return float(found().get("CPU", 1))
