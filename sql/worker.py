"""Answers SQL for others, such as the HTTP edge: every query runs in a child process that can be ended at any moment.

A plain class; the platform makes an actor of it. Promise: a query takes at most its time limit and GRACE_S, and
whatever it does to its process, the next query finds a healthy one. What a query is refused or fails for costs no
process: it is replaced only where it had to be ended, or holds on to much memory (once another is warm).
"""

from __future__ import annotations

import queue
from multiprocessing.connection import wait
from time import monotonic
from typing import Any, Literal

from eagleray.cluster.access import EVERYTHING, TableAccess
from eagleray.cluster.child_process import Child
from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError, Overloaded, QueryFailed
from eagleray.cluster.owned_directory import Directory, sweep
from eagleray.cluster.telemetry import tracing
from eagleray.sql.child import READY
from eagleray.sql.limits import GRACE_S
from eagleray.sql.spool import Answers, Rendered, Reply

Form = Literal["json", "arrow", "trace"]

QUERIES_MAX = 2  # at once; the memory of each is lake.query_memory_max
_LEAST_S = 0.05  # for a query whose child took all the time to start
_TEMP = "sql-"  # how directories of children begin

Part = tuple[int, bytes, int | None]
"""An answer: its size in bytes, how it begins, and the number by which the rest can be asked for, if there is any."""


class SqlWorker:
    """Runs queries in child processes; threads may share it."""

    def __init__(self, config: Config, *, queries_max: int = QUERIES_MAX) -> None:
        """Start the first child; the others start when they are needed."""
        self._config = config
        self._answers = Answers()
        temp = config.data_dir / "tmp"
        temp.mkdir(parents=True, exist_ok=True)
        sweep(temp, _TEMP)  # what queries had spilled whose worker was killed
        self._slots: queue.LifoQueue[SqlChild | None] = queue.LifoQueue()
        for _ in range(queries_max - 1):
            self._slots.put(None)
        self._slots.put(SqlChild(config))

    def query(
        self, text: str, timeout_s: float, form: Form = "json", access: TableAccess = EVERYTHING, trace: str = ""
    ) -> Part:
        """`form` json: `{"columns", "rows"}` as `sql.answer` has it; arrow: an IPC stream. Of tables in `access`.

        trace: `text` is a stream and the id of an event behind a blank; the answer is that of `sql.trace`.

        Raises QueryRejected, QueryForbidden, QueryFailed, and Overloaded where no child is free or started within
        `timeout_s`. `trace`: the request's context, where it is sampled.
        """
        with tracing.begin("sql", (trace,) if trace else (), form=form):
            return self._answered(text, timeout_s, form, access)

    def _answered(self, text: str, timeout_s: float, form: Form, access: TableAccess) -> Part:
        deadline = monotonic() + timeout_s
        with tracing.step("wait for a child"):
            child = self.take(timeout_s)
        spent = False
        try:
            with tracing.step("query"):
                reply = child.ask(text, timeout_s, form, access, deadline)
            spent = reply.spent
        finally:
            self.give_back(child, spent)
        if isinstance(reply.result, EaglerayError):
            raise reply.result
        return self._kept(reply.result)

    def take(self, timeout_s: float) -> SqlChild:
        """A child that nobody else has until `give_back`; raises Overloaded where none is free in time."""
        try:
            child = self._slots.get(timeout=timeout_s)
        except queue.Empty:
            raise Overloaded("the number of SQL queries at once", retry_after_s=1) from None
        try:
            return self._fit(child)
        except BaseException:
            self._slots.put(child)
            raise

    def give_back(self, child: SqlChild, spent: bool) -> None:
        """Let others have it. `spent`: it holds on to much memory, and another shall take its place."""
        fit: SqlChild | None = child
        try:
            if spent and child.successor is None:
                child.successor = SqlChild(self._config)  # it starts now; until it is warm, this one goes on
            fit = self._fit(child)
        finally:
            self._slots.put(fit)

    def _kept(self, answer: Rendered) -> Part:
        rest = None if answer.rest is None else self._answers.keep(answer.rest, answer.size)
        return answer.size, answer.first, rest

    def more(self, answer: int, at: int) -> bytes:
        """A piece of an answer, from byte `at` on; raises QueryFailed where it is kept no longer."""
        return self._answers.read(answer, at)

    def drop(self, answer: int) -> None:
        """Forget an answer of which nobody wants more."""
        self._answers.drop(answer)

    def _fit(self, child: SqlChild | None) -> SqlChild:
        """`child`, or the one that takes its place where it ended or is spent."""
        if child is None:
            return SqlChild(self._config)
        alive, successor = child.alive(), child.successor
        if alive and (successor is None or not successor.warm()):
            return child
        child.end()
        return successor if successor is not None and successor.alive() else SqlChild(self._config)

    def close(self) -> None:
        """End the children; queries that run fail."""
        self._answers.close()
        while not self._slots.empty():
            if child := self._slots.get():
                if child.successor is not None:
                    child.successor.end()
                child.end()


class SqlChild:
    """One child process and the pipes to it."""

    def __init__(self, config: Config) -> None:
        """Start it; it is ready when `started` says so."""
        self._temp = Directory(config.data_dir / "tmp", _TEMP)
        self._process = Child("eagleray.sql.child")
        self._process.send((config, self._temp.path))
        self._ready = False
        self.successor: SqlChild | None = None

    def warm(self) -> bool:
        """Whether a query would be answered without waiting for the process to start."""
        try:
            return self.started(monotonic())
        except (EOFError, TimeoutError):  # it could not start
            return False

    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process.alive()

    def ask(self, text: str, timeout_s: float, form: Form, access: TableAccess, deadline: float) -> Reply:
        """The child's answer; errors are values. Ends the child where it does not answer."""
        try:
            if not self.started(deadline):
                return Reply(Overloaded("the time for a SQL process to start", retry_after_s=1), spent=False)
            self._process.send((text, max(_LEAST_S, deadline - monotonic()), form, access))
            reply: Reply = self._process.receive(deadline + GRACE_S)
            return reply
        except TimeoutError:
            self.end()
            return Reply(QueryFailed(f"the query was stopped after its time limit of {timeout_s:g} s"), spent=True)
        except (EOFError, BrokenPipeError):
            self.end()
            detail = "the query's process ended, probably out of memory (lake.query_memory_max)"
            return Reply(QueryFailed(detail), spent=True)

    def started(self, deadline: float) -> bool:
        """Whether it takes requests, by `deadline` (monotonic); raises EOFError where it could not start."""
        if not self._ready and wait([self._process.fileno()], max(0.0, deadline - monotonic())):
            self._ready = self._process.receive(deadline + GRACE_S) == READY
        return self._ready

    def send(self, request: object) -> None:
        """Send it a request (`sql.postgres.requests`); raises BrokenPipeError where it is gone."""
        self._process.send(request)

    def receive(self, deadline: float) -> Any:
        """Its next answer; raises EOFError where it is gone, TimeoutError at `deadline` (monotonic)."""
        return self._process.receive(deadline)

    def fileno(self) -> int:
        """What can be read when it answers, or is gone."""
        return self._process.fileno()

    def end(self) -> None:
        """End its process, and remove what that has spilled."""
        self._process.end()
        self._temp.remove()  # what a query that was ended had spilled
