"""Jobs that are paused: their schedules start nothing until they are resumed. In the history, for all schedulers.

Runs by hand (`eagleray job run`) are not held back; what runs when a job is paused goes on to its end.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from eagleray.jobs.run.history import History
from eagleray.jobs.run.history_schema import paused as rows


def pause(history: History, jobs: Iterable[str]) -> None:
    """Start these jobs no more by their schedules."""
    now_us = history.clock.now_us()
    with history.engine.begin() as connection:
        there = set(connection.execute(sa.select(rows.c.job)).scalars())
        for job in sorted(set(jobs) - there):
            connection.execute(sa.insert(rows).values(job=job, since_us=now_us, owner=history.owner))


def resume(history: History, jobs: Iterable[str]) -> None:
    """Start these jobs again: each missed period where the job catches up, else the latest."""
    with history.engine.begin() as connection:
        connection.execute(sa.delete(rows).where(rows.c.job.in_(sorted(jobs))))


def paused(engine: Engine) -> dict[str, int]:
    """The jobs that are paused, and since when (microseconds)."""
    with engine.connect() as connection:
        return {job: int(since_us) for job, since_us in connection.execute(sa.select(rows.c.job, rows.c.since_us))}
