"""Which dates got events after they were last made, and the run that makes them again.

Exact: a run notes how far into each log partition its input reached, and every event carries its partition and offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eagleray.cluster.config import Config
from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.jobs.project.load import Project
from eagleray.jobs.run import reports
from eagleray.jobs.run.history import History
from eagleray.jobs.run.plan import Plan, periods_on, plan
from eagleray.jobs.run.selection import Selection
from eagleray.jobs.schedule.ticks import period_called
from eagleray.sql.query import Sql

BUCKET_US = 900_000_000  # 15 minutes: every time zone's days begin at one
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Arrival:
    """The last event of a log partition whose time is in a quarter of an hour."""

    start_us: int
    partition: int
    offset: int


def plan_late(config: Config, project: Project, selection: Selection, history: History) -> Plan:
    """Jobs that read events, for the dates they have made without some of them, and what follows from those."""
    names = selection.jobs(project) if selection.names or selection.all else set(project.jobs)
    found: dict[str, dict[str, Period]] = {}
    readers = {name for name in names if _events(config, project.jobs[name]) and _dated(project.jobs[name])}
    successes = reports.latest_successes(history.engine, readers)
    arrivals: dict[str, list[Arrival]] = {}
    for (name, label), row in successes.items():
        job = project.jobs[name]
        for table in _events(config, job):
            if table not in arrivals:
                arrivals[table] = arrived(config, table)
            if (period := period_called(job.schedule, label, config.jobs.timezone)) and is_late(
                period, arrivals[table], row, table
            ):
                found.setdefault(name, {})[label] = period
    for name in list(found):
        for after in project.graph.downstream(name) & names:
            job = project.jobs[after]
            for period in list(found[name].values()):
                for own in periods_on(job, period.day, config.jobs.timezone):
                    found.setdefault(after, {})[own.label] = own
    periods = {name: list(by_label.values()) for name, by_label in found.items()}
    return plan(project.graph.subgraph(periods), project.jobs, periods, f"--late {selection.what}".strip(), "late")


def is_late(period: Period, arrivals: Iterable[Arrival], made: Mapping[str, Any], table: str) -> bool:
    """Whether an event of `period` came after `made`, a node of the history, had read `table`."""
    position = ((made["inputs"] or {}).get(table) or {}).get("position")
    if position is None:
        return False
    start_us, end_us = (int(at.timestamp() * 1e6) for at in (period.start, period.end))
    return any(
        start_us <= one.start_us < end_us and one.offset >= position.get(f"p{one.partition}", 0) for one in arrivals
    )


def arrived(config: Config, table: str) -> list[Arrival]:
    """By quarter of an hour of event time and log partition, the last event of a stream's table."""
    time = config.streams[table.partition(".")[0]].time
    query = (
        f"SELECT epoch_us({time}) // {BUCKET_US} * {BUCKET_US}, _partition, max(_offset) FROM {table}"
        f" WHERE {time} IS NOT NULL GROUP BY ALL"
    )
    with Sql(config) as sql:
        rows = sql.query(query, TIMEOUT_S).table
    return [Arrival(*row) for row in zip(*(column.to_pylist() for column in rows.columns), strict=True)]


def _events(config: Config, job: Job) -> list[str]:
    return [name for name in job.inputs if name in {f"{stream}.events" for stream in config.streams}]


def _dated(job: Job) -> bool:
    """A full or incremental job reads everything whenever it runs: it has no dates to make again."""
    return job.mode in ("overwrite_partitions", "append", "merge")
