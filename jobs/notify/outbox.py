"""Messages about runs that are to be delivered: rows of the jobs' history, so that none is lost with its process.

Written by the runner and the scheduler, delivered by `courier`, shown by `eagleray job status`. A row names a run and
says nothing itself: what a message says is read from the history when it goes out.

    waiting ──▶ sent      delivered
       │  ▲
       │  └──── tried     not before due_us; the pause doubles
       └──────▶ failed    after ATTEMPTS_MAX, or where another try cannot help

Promise: a message is there once, whoever writes it; it is delivered at least once, and carries a key by which its
reader can tell a repetition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from eagleray.cluster.backoff import backoff_s
from eagleray.cluster.sections import JobsConfig
from eagleray.jobs.model import Job
from eagleray.jobs.run.history_schema import insert, messages, nodes
from eagleray.jobs.run.run_state import Progress

ATTEMPTS_MAX = 8  # some ten minutes in all
FIRST_PAUSE_S, PAUSE_MAX_S = 2.0, 300.0
TAKEN_US = 60_000_000  # a message that is being delivered is nobody else's for so long
ERROR_MAX = 400
LINEAGE = "openlineage"
"""The target of OpenLineage events: `start`, `complete`, `fail`."""


@dataclass(frozen=True)
class Message:
    """What is to be delivered to a target."""

    target: str
    event: str
    job: str
    period: str
    run: str  # empty: of no run
    number: int  # of the node in its run
    created_us: int
    attempts: int = 0
    state: str = "waiting"
    error: str = ""
    inputs: tuple[str, ...] = ()  # tables that the job reads

    @property
    def key(self) -> str:
        """Names it among all messages, the same for every try."""
        return "/".join((self.target, self.event, self.job, self.period, self.run))


class Outbox:
    """The messages of one history."""

    def __init__(self, engine: Engine, config: JobsConfig) -> None:
        """`config` says who is told of what."""
        self._engine = engine
        self._config = config

    @property
    def used(self) -> bool:
        """Whether anybody is to be told of anything."""
        return bool(self._config.notify) or self._config.lineage is not None

    def targets(self, event: str, job: Job) -> list[str]:
        """Who is told of `event` of this job."""
        found = []
        for one in self._config.notify:
            meant = (
                one.name in job.notify if job.notify is not None else any(fnmatchcase(job.name, p) for p in one.jobs)
            )
            if meant and event in one.on:
                found.append(one.name)
        return found

    def started(self, run: str, rows: Iterable[Progress], now_us: int) -> None:
        """The first attempts of these nodes begin."""
        if self._config.lineage is not None:
            self._write([_of(LINEAGE, "start", run, row, now_us) for row in rows if row.attempt <= 1], now_us)

    def ended(self, run: str, rows: Iterable[Progress], now_us: int) -> None:
        """These nodes have ended for good; those that were skipped or interrupted are not told of."""
        if not self.used:
            return
        found: list[Message] = []
        for row in rows:
            if row.state not in ("succeeded", "failed"):
                continue
            events: list[str] = [row.state]
            if row.state == "succeeded" and self._failed_before(row.node.job.name, run):
                events.append("recovered")
            found += [_of(t, event, run, row, now_us) for event in events for t in self.targets(event, row.node.job)]
            if self._config.lineage is not None:
                found.append(_of(LINEAGE, "complete" if row.state == "succeeded" else "fail", run, row, now_us))
        self._write(found, now_us)

    def late(self, job: Job, period: str, now_us: int) -> bool:
        """The period was not done in time; whether this is new. It is noted even where nobody is told."""
        noted = [Message("", "late", job.name, period, "", 0, now_us, state="sent")]
        if not self._write(noted, now_us):
            return False
        self._write([Message(t, "late", job.name, period, "", 0, now_us) for t in self.targets("late", job)], now_us)
        return True

    def take(self, now_us: int, most: int = 20) -> list[Message]:
        """Messages that are due, for the caller to deliver now: nobody else gets them meanwhile."""
        taken = []
        with self._engine.begin() as connection:
            due = sa.select(messages).where(messages.c.state == "waiting", messages.c.due_us <= now_us)
            for row in connection.execute(due.order_by(messages.c.due_us).limit(most)).all():
                change = sa.update(messages).where(*_this(row), messages.c.due_us == row.due_us)
                change = change.values(due_us=now_us + TAKEN_US, attempts=row.attempts + 1)
                if connection.execute(change.returning(messages.c.job)).scalar() is not None:
                    taken.append(_message(row, attempts=row.attempts + 1))
        return taken

    def sent(self, message: Message) -> None:
        """It was delivered."""
        self._set(message, state="sent", error="")

    def failed(self, message: Message, error: str, now_us: int, again: bool = True) -> None:
        """It was not delivered; it is tried later, unless that cannot help or was done often enough."""
        over = not again or message.attempts >= ATTEMPTS_MAX
        pause_s = backoff_s(FIRST_PAUSE_S, message.attempts, most_s=PAUSE_MAX_S)
        values = {"state": "failed"} if over else {"due_us": now_us + int(pause_s * 1e6)}
        self._set(message, error=error[:ERROR_MAX], **values)

    def facts(self, message: Message) -> dict[str, Any]:
        """The row of the node that a message is about; empty where there is none, or no longer."""
        query = sa.select(nodes).where(nodes.c.run == message.run, nodes.c.number == message.number)
        with self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return dict(row) if row is not None else {}

    def _failed_before(self, job: str, run: str) -> bool:
        query = sa.select(nodes.c.state).where(nodes.c.job == job, nodes.c.run < run)
        query = query.where(nodes.c.state.in_(("succeeded", "failed"))).order_by(nodes.c.run.desc()).limit(1)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar() == "failed"

    def _write(self, wanted: Sequence[Message], now_us: int) -> int:
        """Add what is not there; returns how many were."""
        added = 0
        if not wanted:
            return added
        with self._engine.begin() as connection:
            for one in wanted:
                values = {
                    "target": one.target, "event": one.event, "job": one.job, "period": one.period, "run": one.run,
                    "number": one.number, "created_us": now_us, "due_us": now_us, "attempts": 0, "state": one.state,
                    "error": "", "inputs": list(one.inputs),
                }  # fmt: skip
                change: Any = insert(connection, messages).values(**values).on_conflict_do_nothing()
                added += connection.execute(change.returning(messages.c.job)).scalar() is not None
        return added

    def _set(self, message: Message, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.update(messages).where(*_this(message)).values(**values))


def undelivered(engine: Engine, run: str | None = None, limit: int = 20) -> list[Message]:
    """Messages that were not delivered, given up or to be tried again after an error; newest first."""
    query = sa.select(messages).where(messages.c.state != "sent", messages.c.error != "")
    if run is not None:
        query = query.where(messages.c.run == run)
    with engine.connect() as connection:
        found = connection.execute(query.order_by(messages.c.created_us.desc()).limit(limit)).all()
    return [_message(row, row.attempts) for row in found]


def late_periods(engine: Engine, job: str, limit: int = 5) -> list[Message]:
    """The periods of a job that were late, newest first."""
    query = sa.select(messages).where(messages.c.target == "", messages.c.event == "late", messages.c.job == job)
    with engine.connect() as connection:
        found = connection.execute(query.order_by(messages.c.created_us.desc()).limit(limit)).all()
    return [_message(row, row.attempts) for row in found]


def _of(target: str, event: str, run: str, row: Progress, now_us: int) -> Message:
    job = row.node.job
    return Message(target, event, job.name, row.node.period.label, run, row.number, now_us, inputs=job.inputs)


def _message(row: Any, attempts: int) -> Message:
    return Message(
        row.target, row.event, row.job, row.period, row.run, row.number, row.created_us, attempts, row.state, row.error,
        tuple(row.inputs or ()),
    )  # fmt: skip


def _this(one: Any) -> list[Any]:
    return [messages.c[name] == getattr(one, name) for name in ("target", "event", "job", "period", "run")]
