"""Projects with jobs for tests: files in a directory, and runs of one job without publishing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from textwrap import dedent
from typing import Any

import pyarrow as pa

from eagleray.cluster.config import Config
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.jobs.engines.execute import execute
from eagleray.jobs.engines.incremental import Position
from eagleray.jobs.model import Job, Source
from eagleray.jobs.period import Period, daily

DAY = daily(date(2015, 9, 12))
STREAM = {"schema": "s.json", "time": "time", "windows": {"per_user": {"tumble": "1m", "aggregate": {"n": "count()"}}}}


def make_project(directory: Path, files: Mapping[str, str], **settings: Any) -> Config:
    """A project with a stream `s` and these files in its jobs folder."""
    for name, text in files.items():
        file = directory / "jobs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text), newline="")
    raw = {"file": directory / "eagleray.yaml", "data_dir": directory / "data", "streams": {"s": STREAM}, **settings}
    return Config.model_validate(raw)


def sql_file(statement: str, **header: Any) -> str:
    """A SQL file; the header's values are written as they are."""
    lines = "\n".join(f"{key}: {value}" for key, value in {"output": "reports.a", **header}.items())
    return f"/* eagleray\n{lines}\n*/\n{statement}\n"


def sql_job(statement: str, *inputs: str, line: int = 1, file: Path = Path("jobs/a.sql"), **settings: Any) -> Job:
    """A job that was never in a file."""
    source = Source(file, line, sql=statement)
    return Job("a", "reports.a", settings.pop("mode", "full"), source, inputs or ("s.events",), **settings)


def function_job(function: Callable[..., Any], *inputs: str, **settings: Any) -> Job:
    """A job of a function of a test."""
    source = Source(Path(function.__code__.co_filename), function.__code__.co_firstlineno, function=function)
    return Job(
        function.__name__, "reports.a", settings.pop("mode", "full"), source, inputs or ("s.events",), **settings
    )


def produce(
    config: Config,
    job: Job,
    temp: Path,
    period: Period = DAY,
    since: Mapping[str, Position] | None = None,
) -> pa.Table:
    """All rows that the job makes of the lake as it is now."""
    with execute(config, job, period, open_snapshots(config).pin(job.inputs), temp, since) as produced:
        return produced.reader.read_all()
