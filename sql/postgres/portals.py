"""Statements and portals of a session: what was parsed, what was bound, what is being read. Used by `session`.

A portal is a statement with its parameters. It has a SQL process from the moment that it runs until its last row, its
end or an error: so many can be open at once as there are processes (`sql.postgres.queries_max`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from eagleray.cluster.telemetry import tracing
from eagleray.sql.postgres.requests import Close, Described, Fetch, Open, Opened, Query
from eagleray.sql.postgres.runner import Runner, SqlError
from eagleray.sql.postgres.types import Column, Value

Sink = Callable[[bytes], None]
"""Takes messages with rows."""


class Owner(Protocol):
    """The session, as portals need it."""

    def runner(self) -> Runner:
        """A process; raises SqlError."""
        ...

    def query(self, text: str, oids: Sequence[int]) -> Query:
        """A question in the session's name."""
        ...

    def traced(self, name: str, sql: str) -> tracing.Spans:
        """The span of a statement, where it is sampled."""
        ...

    def pinned(self, answer: Opened) -> None:
        """A query has told which snapshots the transaction reads."""
        ...

    @property
    def timeout_s(self) -> float:
        """What a statement may take."""
        ...


@dataclass
class Statement:
    """What Parse brought. `oids` are types of parameters that the client named; 0: none."""

    text: str
    oids: tuple[int, ...] = ()
    described: Described | None = None


@dataclass
class Portal:
    """A statement with its parameters, and how far it was read."""

    text: str
    values: tuple[Value, ...] = ()
    formats: tuple[bool, ...] = ()
    expected: tuple[int, ...] | None = None  # oids of the columns as they were described
    columns: tuple[Column, ...] | None = None
    complete: bool = False
    _runner: Runner | None = field(default=None, repr=False)
    _spans: tracing.Spans = field(default=tracing.NONE, repr=False)  # from the moment that it runs to its end
    _rows: int = 0

    def open(self, owner: Owner) -> tuple[Column, ...]:
        """Run it, unless it runs; its columns. Raises SqlError."""
        if self.columns is None:
            self._spans = owner.traced("sql", self.text)
            try:
                opened = self._opened(owner)
            except BaseException as error:
                self._ended(error)
                raise
            self.columns = opened.columns
            owner.pinned(opened)
        return self.columns

    def _opened(self, owner: Owner) -> Opened:
        with tracing.begin("wait for a child", self._spans.contexts):
            runner = owner.runner()
        try:
            query = owner.query(self.text, ())
            with tracing.begin("query", self._spans.contexts):
                opened: Opened = runner.ask(Open(query, self.values, self.expected), query.timeout_s)
        except BaseException:
            runner.release()
            raise
        self._runner = runner
        return opened

    def _ended(self, error: BaseException | None = None) -> None:
        spans, self._spans = self._spans, tracing.NONE
        spans.note(rows=self._rows)
        spans.end(error)

    def fetch(self, owner: Owner, rows_max: int, formats: tuple[bool, ...], take: Sink) -> int:
        """Hand on the next rows, at most `rows_max` (0: all); how many there were. Raises SqlError."""
        self.open(owner)
        if self._runner is None:
            return 0
        try:
            with tracing.begin("rows", self._spans.contexts) as spans:
                rows, self.complete = self._runner.fetch(Fetch(rows_max, formats, owner.timeout_s), take)
                spans.note(rows=rows)
        except BaseException as error:
            self._ended(error)
            self.close()
            raise
        self._rows += rows
        if self.complete:
            self.close()
        return rows

    @property
    def holds(self) -> bool:
        """Whether it has a process."""
        return self._runner is not None

    def close(self) -> None:
        """Give up what was not read."""
        if (runner := self._runner) is not None:
            self._runner = None
            if not self.complete:
                _close(runner)
            runner.release()
            self._ended()


def _close(runner: Runner) -> None:
    if not runner.busy:
        try:
            runner.ask(Close(), 0.0)
        except SqlError:
            pass
