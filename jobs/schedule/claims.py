"""Who runs a period of a scheduled job: the one that could insert its claim. In the history, so it survives everything.

Promise: of any number of schedulers one gets a claim; a claim whose scheduler died before the run was over is taken
over by one that lives, and the period runs again; a claim that came to an end is never made again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from eagleray.jobs.run.history import SILENT_US
from eagleray.jobs.run.history_schema import claims, insert, nodes, runs
from eagleray.jobs.run.process_identity import surely_dead

OPEN = "claimed"
SEEN = "seen"


@dataclass(frozen=True)
class Claim:
    """A period of a job, and the tick that starts it (microseconds since the epoch)."""

    job: str
    period: str
    tick_us: int


def take(engine: Engine, owner: str, wanted: Iterable[Claim], now_us: int) -> list[Claim]:
    """Claim what nobody has claimed; returns what `owner` has to run now."""
    return _inserted(engine, owner, OPEN, wanted, now_us)


def see(engine: Engine, owner: str, jobs: Iterable[str], tick_us: int, now_us: int) -> None:
    """Remember that jobs were first seen: their schedules count from `tick_us` on."""
    _inserted(engine, owner, SEEN, [Claim(job, "", tick_us) for job in jobs], now_us)


def _inserted(engine: Engine, owner: str, state: str, wanted: Iterable[Claim], now_us: int) -> list[Claim]:
    taken = []
    with engine.begin() as connection:
        for one in sorted(wanted, key=lambda one: (one.tick_us, one.job, one.period)):
            values = {"job": one.job, "period": one.period, "tick_us": one.tick_us, "claimed_us": now_us}
            change: Any = insert(connection, claims).values(**values, owner=owner, state=state).on_conflict_do_nothing()
            if connection.execute(change.returning(claims.c.job)).scalar() is not None:
                taken.append(one)
    return taken


def adopt(engine: Engine, owner: str, now_us: int) -> list[Claim]:
    """Take over the open claims of schedulers that are gone, each once; those whose node had ended are closed."""
    adopted = []
    with engine.begin() as connection:
        for row in connection.execute(sa.select(claims).where(claims.c.state == OPEN, claims.c.owner != owner)).all():
            if not _abandoned(connection, row, now_us):
                continue
            this = (claims.c.job == row.job, claims.c.period == row.period, claims.c.owner == row.owner)
            change = sa.update(claims).where(*this, claims.c.state == OPEN)
            if state := _ended_as(connection, row):
                connection.execute(change.values(state=state))
                continue
            mine = change.values(owner=owner, run=None, claimed_us=now_us).returning(claims.c.job)
            if connection.execute(mine).scalar() is not None:
                adopted.append(Claim(row.job, row.period, row.tick_us))
    return adopted


def begun(engine: Engine, owner: str, taken: Collection[Claim], run: str) -> None:
    """`run` works on the claims."""
    _set(engine, owner, taken, run=run)


def renew(engine: Engine, owner: str, claim: Claim, now_us: int) -> None:
    """What has no run in the history goes on: it is not abandoned."""
    _set(engine, owner, [claim], claimed_us=now_us)


def ended(engine: Engine, owner: str, states: Iterable[tuple[Claim, str]]) -> None:
    """The claims have come to their end, with the state of their node."""
    for claim, state in states:
        _set(engine, owner, [claim], state=state)


def newest(engine: Engine) -> dict[str, int]:
    """By job, the tick (microseconds) of its latest claim."""
    query = sa.select(claims.c.job, sa.func.max(claims.c.tick_us)).group_by(claims.c.job)
    with engine.connect() as connection:
        return {job: int(tick_us) for job, tick_us in connection.execute(query)}


def open_jobs(engine: Engine) -> set[str]:
    """The jobs that have a claim which has not come to its end, whoever holds it."""
    with engine.connect() as connection:
        return set(connection.execute(sa.select(claims.c.job).where(claims.c.state == OPEN)).scalars())


def open_claims(engine: Engine) -> list[Claim]:
    """The claims that have not come to their end, whoever holds them."""
    query = sa.select(claims.c.job, claims.c.period, claims.c.tick_us).where(claims.c.state == OPEN)
    with engine.connect() as connection:
        return [Claim(*row) for row in connection.execute(query)]


def oldest_open(engine: Engine) -> dict[str, int]:
    """By job, the oldest tick (microseconds) whose claim has not come to its end."""
    query = sa.select(claims.c.job, sa.func.min(claims.c.tick_us)).where(claims.c.state == OPEN)
    with engine.connect() as connection:
        return {job: int(tick_us) for job, tick_us in connection.execute(query.group_by(claims.c.job))}


def _set(engine: Engine, owner: str, taken: Collection[Claim], **values: str | int) -> None:
    with engine.begin() as connection:
        for claim in taken:
            this = (claims.c.job == claim.job, claims.c.period == claim.period, claims.c.owner == owner)
            connection.execute(sa.update(claims).where(*this).values(**values))


def _abandoned(connection: Connection, row: Any, now_us: int) -> bool:
    """Whether the claim's scheduler is gone: on this machine for certain, on another by its silence."""
    if surely_dead(row.owner):
        return True
    if row.run is None:
        return bool(row.claimed_us < now_us - SILENT_US)
    return connection.execute(sa.select(runs.c.state).where(runs.c.id == row.run)).scalar() == "interrupted"


def _ended_as(connection: Connection, row: Any) -> str | None:
    """How the claim's node ended before its scheduler did; None if it did not."""
    this = (nodes.c.run == row.run, nodes.c.job == row.job, nodes.c.period == row.period)
    state = connection.execute(sa.select(nodes.c.state).where(*this)).scalar()
    return state if state in ("succeeded", "failed", "skipped") else None
