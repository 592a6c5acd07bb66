"""The state of a graph run: what may start, what waits, what is given up. Pure: no clock, no processes, no history.

The runner tells it what happened and asks what to do. Times are seconds of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from eagleray.cluster.backoff import backoff_s
from eagleray.jobs.model import Job
from eagleray.jobs.run.outcome import Ending, Failure, Outcome
from eagleray.jobs.run.plan import Node

State = Literal["waiting", "running", "succeeded", "failed", "skipped", "interrupted"]
SPREAD = 0.25  # of the pause before a retry, up and down: many that failed at once do not come again at once
FINAL = frozenset({"succeeded", "failed", "skipped", "interrupted"})


@dataclass(frozen=True)
class Capacity:
    """What may run at once: nodes, cores, memory."""

    nodes: int
    cpus: float
    memory_bytes: int


@dataclass
class Progress:
    """Where a node stands. `reason` says why it failed, was skipped, or waits."""

    node: Node
    number: int
    state: State = "waiting"
    attempt: int = 0  # of the latest attempt, from 1
    reason: str = ""
    due_s: float = 0.0  # not to be started before
    outcome: Outcome | None = None
    failure: Failure | None = None
    blocked_by: set[str] = field(default_factory=set)


TASK_CPUS = 1.0
"""Of one task, which a job on Daft or Ray Data needs besides what its own process takes."""


def asked_cpus(job: Job, capacity: Capacity) -> float:
    """The cores that a job and its tasks ask for at least; no more than there are, where it would be alone."""
    if job.engine == "duckdb":
        return job.limits.cpus
    return max(job.limits.cpus, min(job.limits.cpus + TASK_CPUS, capacity.cpus))


class Board:
    """Every node of a run and where it stands."""

    def __init__(
        self,
        nodes: Sequence[Node],
        capacity: Capacity,
        done: Mapping[str, str],
        blocked: Mapping[str, str] = {},
    ) -> None:
        """`nodes` in an order that runs; `done` by an earlier run: as if succeeded; `blocked`: as if failed."""
        self.capacity = capacity
        self.rows = {node.key: Progress(node, number) for number, node in enumerate(nodes)}
        self._feeds: dict[str, list[str]] = {key: [] for key in self.rows}
        self._ready: dict[str, None] = {}
        self._running: dict[str, Node] = {}
        self._open = len(self.rows)
        for key, row in self.rows.items():
            row.blocked_by = set(row.node.needs)
            for need in row.node.needs:
                self._feeds[need].append(key)
        for key in self.rows.keys() & done.keys():
            self.rows[key].reason = f"done by run {done[key]}"
            self._end(key, "skipped")
        for key, row in self.rows.items():
            row.blocked_by -= done.keys()
            if not row.blocked_by and row.state == "waiting":
                self._ready[key] = None
        for key in self.rows.keys() & blocked.keys():
            self._ready.pop(key, None)
            self._give_up(key, "skipped")
            self.rows[key].reason = blocked[key]

    @property
    def finished(self) -> bool:
        """Whether every node has ended."""
        return not self._open

    @property
    def running(self) -> Mapping[str, Node]:
        """The nodes that run now."""
        return self._running

    def startable(self, now_s: float) -> list[Progress]:
        """The nodes that may start now, in order, as many as the capacity takes.

        A job on Daft or Ray Data counts with a task of its own, or several would hold every core and wait for tasks.
        Periods of one table run side by side where each replaces partitions of its own; else one would only find that
        the other came first, and have to run again.
        """
        cpus = self.capacity.cpus - sum(asked_cpus(node.job, self.capacity) for node in self._running.values())
        memory = self.capacity.memory_bytes - sum(node.job.limits.memory_bytes for node in self._running.values())
        places = self.capacity.nodes - len(self._running)
        written = {node.job.output for node in self._running.values()}
        found = []
        for key in self._ready:
            if places <= 0:
                break
            row = self.rows[key]
            job, limits = row.node.job, row.node.job.limits
            asked = asked_cpus(job, self.capacity)
            free = job.mode == "overwrite_partitions" or job.output not in written
            if free and row.due_s <= now_s and asked <= cpus and limits.memory_bytes <= memory:
                found.append(row)
                written.add(job.output)
                places, cpus, memory = places - 1, cpus - asked, memory - limits.memory_bytes
        return found

    def next_due_s(self, now_s: float) -> float | None:
        """When the next node that waits for its time may start; None if none does."""
        return min((due for key in self._ready if (due := self.rows[key].due_s) > now_s), default=None)

    def start(self, key: str) -> None:
        """The node's next attempt begins."""
        row = self.rows[key]
        del self._ready[key]
        row.state, row.reason, row.attempt = "running", "", row.attempt + 1
        self._running[key] = row.node

    def hold(self, key: str, reason: str, until_s: float) -> None:
        """The node may not start before `until_s`, because of something outside this run."""
        row = self.rows[key]
        row.reason, row.due_s = reason, until_s

    def end(self, key: str, ending: Ending, now_s: float) -> list[Progress]:
        """The attempt has ended: success, a try later, or given up; returns the nodes that are skipped with it."""
        row = self.rows[key]
        del self._running[key]
        if isinstance(ending, Outcome):
            row.outcome, row.failure = ending, None
            self._end(key, "succeeded")
            self._unblock(key)
            return []
        row.failure, row.reason = ending, ending.message
        if ending.retry and row.attempt <= row.node.job.limits.retries:
            row.state = "waiting"
            row.due_s = now_s + backoff_s(row.node.job.limits.backoff_us / 1e6, row.attempt, SPREAD)
            self._ready[key] = None
            return []
        return self._give_up(key)

    def refuse(self, key: str, failure: Failure) -> None:
        """The node can never start."""
        row = self.rows[key]
        row.failure, row.reason = failure, failure.message
        self._ready.pop(key, None)
        self._give_up(key)

    def interrupt(self) -> None:
        """The run is stopped: what has not ended does so now."""
        self._ready.clear()
        self._running.clear()
        for key, row in self.rows.items():
            if row.state not in FINAL:
                self._end(key, "interrupted")

    def counts(self) -> dict[str, int]:
        """Nodes by state."""
        found: dict[str, int] = {}
        for row in self.rows.values():
            found[row.state] = found.get(row.state, 0) + 1
        return found

    def _end(self, key: str, state: State) -> None:
        self.rows[key].state = state
        self._open -= 1

    def _unblock(self, key: str) -> None:
        for after in self._feeds[key]:
            row = self.rows[after]
            row.blocked_by.discard(key)
            if not row.blocked_by and row.state == "waiting":
                self._ready[after] = None

    def _give_up(self, key: str, state: State = "failed") -> list[Progress]:
        """End a node without a result, and all that cannot run without it; returns those."""
        if self.rows[key].state in FINAL:
            return []
        self._end(key, state)
        culprit = self.rows[key].node.job.name
        skipped = []
        stack = list(self._feeds[key])
        while stack:
            after = stack.pop()
            row = self.rows[after]
            if row.state == "waiting":
                row.reason = f"upstream {culprit} failed"
                self._end(after, "skipped")
                stack.extend(self._feeds[after])
                skipped.append(row)
        return skipped
