"""Runs a plan: starts what may start, waits for what ends, writes the history, until every node has ended.

Two short transactions and one wait per turn; nothing is polled. Promise: a node that fails does not stop what does not
depend on it, a node past its time-out is ended, and two runs never write one table at once.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from eagleray.cluster.quantities import format_duration
from eagleray.cluster.telemetry import tracing
from eagleray.jobs.run.history import Ended, History
from eagleray.jobs.run.leases import LEASE_US
from eagleray.jobs.run.outcome import Ending, Failure
from eagleray.jobs.run.plan import Plan
from eagleray.jobs.run.run_state import FINAL, Board, Progress
from eagleray.jobs.run.workers import Task, Workers

ALIVE_EVERY_S = LEASE_US / 6e6
HELD_PAUSE_S = 1.0  # before asking again for a table that another run writes


class Teller(Protocol):
    """Hears what becomes of nodes. Raises nothing, and returns at once."""

    def started(self, run: str, rows: Sequence[Progress]) -> None:
        """Attempts of these nodes begin."""

    def ended(self, run: str, rows: Sequence[Progress]) -> None:
        """These nodes have ended for good."""


class Interrupted(BaseException):
    """The run is to stop: raised by a signal handler."""


@dataclass
class Result:
    """How a run ended."""

    run: str
    board: Board

    @property
    def failed(self) -> bool:
        """Whether any node has no result that should have one."""
        return any(row.state in ("failed", "interrupted") for row in self.board.rows.values())


class Runner:
    """Runs one plan. `watch` is told whenever the board has changed."""

    def __init__(
        self,
        history: History,
        workers: Workers,
        logs: Path,
        watch: Callable[[str, Board], None] = lambda run, board: None,
        parallel: int | None = None,
        teller: Teller | None = None,
    ) -> None:
        """`logs` gets a directory per run; `parallel` limits nodes at once below the workers' capacity.

        `teller` hears of nodes that begin and end, after the history has it; it raises nothing.
        """
        self._history = history
        self._workers = workers
        self._logs = logs
        self._watch = watch
        self._parallel = parallel
        self._teller = teller
        self._deadlines: dict[str, float] = {}
        self._alive_s = time.monotonic()
        self.run_id = ""

    def run(self, plan: Plan, kind: str = "run", resumes: str | None = None) -> Result:
        """Run `plan` to its end; an interruption ends what runs, is written down, and raised again."""
        with tracing.run("job run", os.environ, kind=kind) as spans:
            result = self._run(plan, kind, resumes)
            spans.note(run=result.run, failed=result.failed)
        return result

    def _run(self, plan: Plan, kind: str, resumes: str | None) -> Result:
        capacity = self._workers.capacity
        if self._parallel:
            capacity = type(capacity)(min(self._parallel, capacity.nodes), capacity.cpus, capacity.memory_bytes)
        board = Board(plan.nodes, capacity, plan.done, plan.blocked)
        self._refuse_giants(board)
        run = self.run_id = self._history.begin(plan, kind, list(board.rows.values()), resumes)
        try:
            self._tell_ended(run, board.rows.values())
            self._watch(run, board)
            while not board.finished:
                self._turn(run, board)
                self._watch(run, board)
        except BaseException:
            self._interrupt(run, board)
            raise
        result = Result(run, board)
        self._history.finish(run, "failed" if result.failed else "succeeded", [])
        return result

    def _turn(self, run: str, board: Board) -> None:
        # 1. start what may start and whose table is free
        self._start(run, board, board.startable(time.monotonic()))
        # 2. wait for an end, a time-out, a retry, or the time to say that we live
        ended = [*self._workers.wait(self._timeout_s(board)), *self._overdue(board)]
        # 3. write down what happened
        self._end(run, board, ended)
        self._alive(run, board)

    def _start(self, run: str, board: Board, rows: Sequence[Progress]) -> None:
        if not rows:
            return
        refused = self._history.start(run, rows)
        begun: list[Progress] = []
        for row in rows:
            key, job = row.node.key, row.node.job
            if holder := refused.get(job.output):
                until_s = time.monotonic() + HELD_PAUSE_S * random.uniform(0.75, 1.25)
                board.hold(key, f"{job.output} is being written by run {holder}", until_s)
                continue
            board.start(key)
            self._deadlines[key] = time.monotonic() + job.limits.timeout_us / 1e6
            node_id = f"{run}.{row.number}"
            log = self._logs / run / log_name(key)
            self._workers.start(Task(key, job, row.node.period, node_id, row.attempt, log, tracing.current()))
            begun.append(row)
        if self._teller is not None:
            self._teller.started(run, begun)
        self._watch(run, board)

    def _timeout_s(self, board: Board) -> float:
        now_s = time.monotonic()
        due_s = board.next_due_s(now_s)
        times = [self._alive_s + ALIVE_EVERY_S, *self._deadlines.values(), *([] if due_s is None else [due_s])]
        return max(0.0, min(times) - now_s)

    def _overdue(self, board: Board) -> list[tuple[str, Ending]]:
        now_s = time.monotonic()
        found: list[tuple[str, Ending]] = []
        for key in [key for key, deadline in self._deadlines.items() if deadline <= now_s]:
            if key not in board.running:
                continue
            self._workers.stop(key)
            limit = format_duration(board.running[key].job.limits.timeout_us)
            message = f"stopped after its time limit of {limit}: make the job faster, or raise `timeout`"
            found.append((key, Failure("timeout", message, retry=True)))
        return found

    def _end(self, run: str, board: Board, ended: Sequence[tuple[str, Ending]]) -> None:
        if not ended:
            return
        written, skipped = [], []
        for key, ending in ended:
            if key in board.running:  # not both ended and overdue
                del self._deadlines[key]
                skipped += board.end(key, ending, time.monotonic())
                written.append(Ended(board.rows[key], ending))
        busy = {node.job.output for node in board.running.values()}
        free = {one.row.node.job.output for one in written} - busy
        self._history.end(run, written, skipped, free)
        self._tell_ended(run, [one.row for one in written])

    def _tell_ended(self, run: str, rows: Iterable[Progress]) -> None:
        if self._teller is not None:
            self._teller.ended(run, [row for row in rows if row.state in FINAL])

    def _alive(self, run: str, board: Board) -> None:
        if time.monotonic() < self._alive_s + ALIVE_EVERY_S:
            return
        self._alive_s = time.monotonic()
        lost = self._history.alive(run, {node.job.output for node in board.running.values()})
        ended: list[tuple[str, Ending]] = []
        for key, node in list(board.running.items()):
            if node.job.output in lost:
                self._workers.stop(key)
                message = f"the lease of {node.job.output} was lost: this process did not answer for too long"
                ended.append((key, Failure("killed", message, retry=True)))
        self._end(run, board, ended)

    def _refuse_giants(self, board: Board) -> None:
        """Nodes that want more than any worker can have would wait for ever."""
        most = self._workers.largest()
        for key, row in list(board.rows.items()):
            limits = row.node.job.limits
            if row.state != "waiting":
                continue
            if limits.memory_bytes > most.memory_bytes:
                wanted, has = (f"{size / 2**20:,.0f} MiB" for size in (limits.memory_bytes, most.memory_bytes))
                problem = f"memory: {wanted}, and no machine has more than {has} for a job"
            elif limits.cpus > most.cpus:
                problem = f"cpus: {limits.cpus:g}, and no machine has more than {most.cpus:g}"
            else:
                continue
            board.refuse(key, Failure("wrong", f"it reserves {problem}; lower it, or use larger machines"))

    def _interrupt(self, run: str, board: Board) -> None:
        for key in list(board.running):
            self._workers.stop(key)
        before = {key for key, row in board.rows.items() if row.state in FINAL}
        board.interrupt()
        self._history.finish(run, "interrupted", [row for key, row in board.rows.items() if key not in before])
        self._watch(run, board)


def log_name(key: str) -> str:
    """The file name of a node's log."""
    return f"{key.replace(':', '-')}.log"
