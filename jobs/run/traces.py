"""What runs of jobs leave behind beside their tables: history, samples of bad rows, messages, logs.

Used by `jobs.builtin.retention` (by age) and `jobs.builtin.forget` (what holds a person's value). What later runs go by
stays, however old: the last success of each period of a job, the last run of each job, and the newest claim.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from eagleray.cluster.config import Config
from eagleray.jobs.run.history import History
from eagleray.jobs.run.history_schema import attempts, checks, claims, messages, nodes, runs
from eagleray.jobs.schedule.claims import OPEN, SEEN

FORGOTTEN = "[forgotten]"
TOKEN_MIN = 4  # characters: a shorter value is found in too much that is not meant


@dataclass(frozen=True)
class Traces:
    """What `forget_in_traces` changed, by what it is, and what it could not reach."""

    changed: dict[str, int]
    left: tuple[str, ...]


def drop_history(history: History, before_us: int) -> int:
    """Delete runs that ended before, but for what later runs go by; returns how many are gone."""
    with history.engine.begin() as connection:
        old = sa.select(runs.c.id).where(runs.c.state != "running", runs.c.ended_us < before_us)
        for table in (attempts, checks):
            connection.execute(sa.delete(table).where(table.c.run.in_(old)))
        connection.execute(sa.delete(nodes).where(nodes.c.run.in_(old), ~_needed()))
        told = (messages.c.created_us < before_us, messages.c.state != "waiting")
        connection.execute(sa.delete(messages).where(*told))
        empty = ~sa.exists().where(nodes.c.run == runs.c.id)
        gone = connection.execute(sa.delete(runs).where(runs.c.id.in_(old), empty)).rowcount
        for job, tick_us in _newest_ticks(connection).items():
            mine = (claims.c.job == job, claims.c.tick_us < min(tick_us, before_us))
            connection.execute(sa.delete(claims).where(*mine, claims.c.state.not_in((OPEN, SEEN))))
    return int(gone)


def _needed() -> Any:
    """Nodes that later runs look at: the newest success of a period, and the newest of a job."""
    other = nodes.alias()
    success = sa.select(sa.func.max(other.c.run)).where(
        other.c.job == nodes.c.job, other.c.period == nodes.c.period, other.c.state == "succeeded"
    )
    last = sa.select(sa.func.max(other.c.run)).where(other.c.job == nodes.c.job)
    return sa.or_(nodes.c.run == success.scalar_subquery(), nodes.c.run == last.scalar_subquery())


def _newest_ticks(connection: Connection) -> dict[str, int]:
    query = sa.select(claims.c.job, sa.func.max(claims.c.tick_us)).group_by(claims.c.job)
    return {job: int(tick_us) for job, tick_us in connection.execute(query)}


def drop_samples(history: History, before_us: int) -> int:
    """Delete the rows that broke checks, and messages of failures, of runs that ended before; returns how many."""
    with history.engine.begin() as connection:
        old = sa.select(runs.c.id).where(runs.c.state != "running", runs.c.ended_us < before_us)
        held = sa.update(checks).where(checks.c.run.in_(old), checks.c.sample.is_not(None))
        samples = connection.execute(held.values(sample=sa.null())).rowcount
        said = sa.update(attempts).where(attempts.c.run.in_(old), attempts.c.message.is_not(None))
        return int(samples) + int(connection.execute(said.values(message=None)).rowcount)


def drop_logs(config: Config, before_us: int) -> int:
    """Delete logs of runs that were written to before for the last time; returns how many."""
    gone = 0
    for place in (config.jobs_dir / "logs").glob("*"):
        newest = max((file.stat().st_mtime for file in (place, *place.rglob("*"))), default=0.0)
        if newest * 1e6 < before_us and place.name != "timetable":
            shutil.rmtree(place) if place.is_dir() else place.unlink()
            gone += 1
    return gone


def forget_in_traces(config: Config, value: str) -> Traces:
    """Take a person's `value` out of samples, messages and logs."""
    history = History.open(config)
    try:
        with history.engine.begin() as connection:
            changed = {"samples of checks": _forget_samples(connection, value)}
            if len(value) < TOKEN_MIN:
                left = f"messages and logs of job runs, where {value!r} is too short to be told from other text"
                return Traces(changed, (left,))
            changed["messages of failures"] = _forget_messages(connection, value)
    finally:
        history.close()
    changed["logs of job runs"] = sum(_forget_in_file(file, value) for file in _logs(config))
    return Traces(changed, ())


def _forget_samples(connection: Connection, value: str) -> int:
    gone = 0
    for row in connection.execute(sa.select(checks).where(checks.c.sample.is_not(None))).all():
        kept = [bad for bad in row.sample or [] if not _holds(bad, value)]
        if len(kept) < len(row.sample or []):
            gone += len(row.sample) - len(kept)
            this = (checks.c.run == row.run, checks.c.number == row.number, checks.c.name == row.name)
            connection.execute(sa.update(checks).where(*this).values(sample=kept))
    return gone


def _holds(found: Any, value: str) -> bool:
    if isinstance(found, dict):
        return any(_holds(one, value) for one in found.values())
    if isinstance(found, list):
        return any(_holds(one, value) for one in found)
    text = str(found)
    return text == value or (len(value) >= TOKEN_MIN and _token(value).search(text) is not None)


def _forget_messages(connection: Connection, value: str) -> int:
    gone = 0
    node = ("run", "number")
    for table, column, keys in ((attempts, "message", (*node, "attempt")), (nodes, "reason", node)):
        for row in connection.execute(sa.select(table).where(table.c[column].contains(value, autoescape=True))).all():
            text = _token(value).sub(FORGOTTEN, getattr(row, column))
            if text != getattr(row, column):
                this = (table.c[key] == getattr(row, key) for key in keys)
                connection.execute(sa.update(table).where(*this).values({column: text}))
                gone += 1
    return gone


def _logs(config: Config) -> Iterator[Path]:
    return (file for file in (config.jobs_dir / "logs").rglob("*") if file.is_file())


def _forget_in_file(file: Path, value: str) -> bool:
    content = file.read_text(encoding="utf-8", errors="surrogateescape")
    text = _token(value).sub(FORGOTTEN, content)
    if text == content:
        return False
    making = file.with_name(f"{file.name}.making")
    making.write_text(text, encoding="utf-8", errors="surrogateescape")
    os.replace(making, file)
    return True


def _token(value: str) -> re.Pattern[str]:
    """The value as a whole word, also in JSON's spelling."""
    return re.compile(rf"(?<!\w){re.escape(value)}(?!\w)")
