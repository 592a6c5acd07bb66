"""What attempts do in tests of the runner: told by the job's description, as Python; without tables.

Child processes and Ray workers import this by name.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, JobFailed
from eagleray.jobs.model import Job, Limits, Schedule, Source
from eagleray.jobs.period import Period
from eagleray.jobs.run.outcome import Outcome

SQL = Source(Path("jobs/x.sql"), 1, sql="SELECT 1")


def make_job(
    name: str, does: str = "pass", inputs: tuple[str, ...] = (), schedule: Schedule | None = None, **limits: Any
) -> Job:
    """A job whose attempt executes `does`; `limits` as jobs.model.Limits."""
    settled = Limits(**{"memory_bytes": 64 << 20, "backoff_us": 1000, **limits})
    return Job(name, f"t.{name}", "full", SQL, inputs, schedule=schedule, limits=settled, description=does)


def do(
    config: Config,
    job: Job,
    period: Period,
    run_id: str,
    attempt: int,
    log: Callable[[str], None],
    scratch: Path | None = None,
) -> Outcome:
    """Execute the job's description; then note the run in `data_dir/done`."""
    here = {
        "attempt": attempt, "config": config, "job": job, "log": log, "os": os, "Path": Path, "period": period,
        "scratch": scratch, "signal": signal, "time": time, "ConfigError": ConfigError, "fail": fail,
    }  # fmt: skip
    exec(job.description, here)
    done = config.data_dir / "done"
    done.mkdir(parents=True, exist_ok=True)
    with (done / job.name).open("a") as file:
        file.write(f"{period.label} {attempt}\n")
    return Outcome(rows=1, bytes=10, files=1, snapshot_id=7, inputs={"s.events": {"snapshot": 3}})


def fail(job: Job, message: str, retryable: bool = True) -> None:
    """Raise what an engine raises."""
    raise JobFailed(job.name, job.engine, str(job.source.file), job.source.line, message, {}, retryable=retryable)


def done(config: Config, name: str) -> list[str]:
    """The periods and attempts of `name` that were completed, as `2015-09-12 1`."""
    file = config.data_dir / "done" / name
    return file.read_text().splitlines() if file.exists() else []
