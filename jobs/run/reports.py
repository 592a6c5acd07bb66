"""What the history says: runs, their nodes, attempts and checks, for `job status`, for resuming, and for late data."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from eagleray.jobs.run.history_schema import attempts, checks, nodes, runs

Row = dict[str, Any]


def newest_runs(engine: Engine, limit: int) -> list[Row]:
    """The latest runs, newest first, each with `counts`: its nodes by state."""
    with engine.connect() as connection:
        found = _rows(connection.execute(sa.select(runs).order_by(runs.c.started_us.desc(), runs.c.id).limit(limit)))
        query = sa.select(nodes.c.run, nodes.c.state, sa.func.count()).group_by(nodes.c.run, nodes.c.state)
        counts: dict[str, dict[str, int]] = {row["id"]: {} for row in found}
        for run, state, count in connection.execute(query.where(nodes.c.run.in_(list(counts)))):
            counts[run][state] = count
    return [{**row, "counts": counts[row["id"]]} for row in found]


def find_run(engine: Engine, name: str | None) -> Row | None:
    """The run whose id begins with `name`, or the newest one."""
    query = sa.select(runs).order_by(runs.c.started_us.desc(), runs.c.id).limit(1)
    if name:
        query = query.where(runs.c.id.startswith(name, autoescape=True))
    with engine.connect() as connection:
        found = _rows(connection.execute(query))
    return found[0] if found else None


def last_run(engine: Engine, what: str, date: str) -> Row | None:
    """The newest run of this selection for this date."""
    query = sa.select(runs).where(runs.c.what == what, runs.c.date == date)
    with engine.connect() as connection:
        found = _rows(connection.execute(query.order_by(runs.c.started_us.desc(), runs.c.id.desc()).limit(1)))
    return found[0] if found else None


def nodes_of(engine: Engine, run: str) -> list[Row]:
    """The nodes of a run in order."""
    with engine.connect() as connection:
        return _rows(connection.execute(sa.select(nodes).where(nodes.c.run == run).order_by(nodes.c.number)))


def attempts_of(engine: Engine, run: str) -> list[Row]:
    """Every attempt of a run, in order."""
    query = sa.select(attempts).where(attempts.c.run == run).order_by(attempts.c.number, attempts.c.attempt)
    with engine.connect() as connection:
        return _rows(connection.execute(query))


def checks_of(engine: Engine, run: str) -> list[Row]:
    """The checks that failed in a run, with samples of bad rows."""
    with engine.connect() as connection:
        return _rows(connection.execute(sa.select(checks).where(checks.c.run == run).order_by(checks.c.number)))


def newest_of_job(engine: Engine, job: str, limit: int) -> list[Row]:
    """The latest nodes of a job, newest first."""
    query = sa.select(nodes).where(nodes.c.job == job).order_by(nodes.c.run.desc(), nodes.c.number.desc()).limit(limit)
    with engine.connect() as connection:
        return _rows(connection.execute(query))


def latest_successes(engine: Engine, jobs: Collection[str]) -> dict[tuple[str, str], Row]:
    """By job and period, the newest node that succeeded."""
    query = sa.select(nodes).where(nodes.c.state == "succeeded", nodes.c.job.in_(sorted(jobs)))
    query = query.order_by(nodes.c.ended_us, nodes.c.run)
    with engine.connect() as connection:
        return {(row["job"], row["period"]): row for row in _rows(connection.execute(query))}


def latest_states(engine: Engine, jobs: Iterable[str]) -> dict[str, Row]:
    """By job, its newest node."""
    newest = (
        sa.select(nodes.c.job, sa.func.max(nodes.c.run).label("run"))
        .where(nodes.c.job.in_(sorted(jobs)))
        .group_by(nodes.c.job)
        .subquery()
    )
    query = sa.select(nodes).join(newest, sa.and_(nodes.c.job == newest.c.job, nodes.c.run == newest.c.run))
    with engine.connect() as connection:
        return {row["job"]: row for row in _rows(connection.execute(query.order_by(nodes.c.number)))}


def latest_of(engine: Engine, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], Row]:
    """By job and period, its newest node, whatever its state."""
    wanted = sa.or_(sa.false(), *(sa.and_(nodes.c.job == job, nodes.c.period == period) for job, period in pairs))
    with engine.connect() as connection:
        found = _rows(connection.execute(sa.select(nodes).where(wanted).order_by(nodes.c.run, nodes.c.number)))
    return {(row["job"], row["period"]): row for row in found}


def _rows(found: sa.CursorResult[Any]) -> list[Row]:
    return [dict(row) for row in found.mappings()]
