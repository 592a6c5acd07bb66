"""Jobs and results for tests of publishing: a lake in a directory, results as Arrow tables."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.model import Check, Job, Mode, Source
from eagleray.jobs.period import Period, daily
from eagleray.jobs.publish.publish import publish
from eagleray.jobs.publish.run_mark import Published, RunMark
from tests.lake_tables import make_config

OUTPUT = "reports.daily"
DAY = daily(date(2015, 9, 12))
NEXT_DAY = daily(date(2015, 9, 13))


def open_lake(directory: Path, **lake: Any) -> Lake:
    """A lake without tables."""
    return Lake.open(make_config(directory, **lake))


def make_job(mode: Mode, **settings: Any) -> Job:
    """A job of that mode, with OUTPUT."""
    return Job("daily", OUTPUT, mode, Source(Path("jobs/daily.sql"), 1, "SELECT 1"), **settings)


def check(kind: Any, name: str = "check", **options: Any) -> Check:
    """A check by its options."""
    return Check(kind, options, name)


def rows(*each: tuple[Any, ...], names: tuple[str, ...] = ("day", "k", "v")) -> pa.Table:
    """Rows with a date, a key and a value."""
    kinds = {"day": pa.date32(), "k": pa.string(), "v": pa.int64()}
    schema = pa.schema([(name, kinds[name]) for name in names])
    return pa.Table.from_pylist([dict(zip(names, one, strict=True)) for one in each], schema=schema)


def run(
    lake: Lake,
    job: Job,
    result: pa.Table,
    run_id: str = "r1",
    period: Period = DAY,
    positions: dict[str, Any] | None = None,
    since: dict[str, Any] | None = None,
) -> Published:
    """Publish `result`."""
    mark = RunMark(run_id, job.name, period.label, 1, {"s.events": 7}, since)
    return publish(lake, job, period, result.to_reader(1000), mark, positions or {})


def content(lake: Lake, columns: tuple[str, ...] = ("day", "k", "v"), at: str | None = None) -> list[tuple[Any, ...]]:
    """The rows of OUTPUT, sorted."""
    pinned = lake.pin(OUTPUT, at)
    plan = pinned.plan()
    names = [column.name for column in pinned.columns]
    found = [row for batch in plan.batches(names) for row in batch.to_pylist()] if plan.files else []
    return sorted((tuple(row[name] for name in columns) for row in found), key=repr)
