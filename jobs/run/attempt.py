"""One attempt at a job for a period: pin its inputs, execute, publish. Knows neither Ray nor the history.

Promise: raises, and leaves the output table as it was, or returns with the result in it; the same `run_id` again finds
what it had published. All inputs are read as of one instant, whatever happens to them meanwhile.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from eagleray.cluster.config import Config
from eagleray.cluster.errors import JobFailed
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.cluster.lake.scan import Pinned
from eagleray.cluster.telemetry import tracing
from eagleray.jobs.engines.duckdb import declared_schema
from eagleray.jobs.engines.execute import execute
from eagleray.jobs.engines.incremental import Position, position, positions
from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.jobs.publish.positions import holding, incremental_positions
from eagleray.jobs.publish.publish import make_output, publish
from eagleray.jobs.publish.run_mark import RunMark
from eagleray.jobs.run.outcome import Outcome


def perform(
    config: Config,
    job: Job,
    period: Period,
    run_id: str,
    attempt: int,
    log: Callable[[str], None],
    scratch: Path | None = None,
) -> Outcome:
    """Make `job`'s result for `period` and publish it; raises JobFailed, ChecksFailed, ConfigError.

    `log` takes lines for the run's log; `scratch` takes what engines spill, default: a directory under `jobs_dir`.
    """
    lake = _lake(config)
    if job.output in job.inputs and lake.find(job.output) is None:  # before the first run it is empty
        make_output(lake, job, declared_schema(job.columns))
    # 1. pin the inputs, all at one instant
    with tracing.step("pin the inputs"):
        pinned = _pin(config, job)
    reached = _reached(config, job, pinned)
    snapshots = {name: table.snapshot_id for name, table in pinned.items()}
    for name, snapshot in snapshots.items():
        log(f"reads {name} at snapshot {snapshot or '(none)'}")
    since = incremental_positions(lake, job) if job.mode == "incremental" else None
    unread = holding(lake, job, since, pinned) if job.mode == "incremental" else None
    tables = {name: pinned[name].identity for name in reached} if job.mode == "incremental" else {}
    mark = RunMark(run_id, job.name, period.label, attempt, snapshots, since, tables)
    if scratch is None:
        (config.jobs_dir / "tmp").mkdir(parents=True, exist_ok=True)
    temp = Path(mkdtemp(dir=scratch or config.jobs_dir / "tmp"))
    try:
        # 2. execute  3. publish, as the rows come
        with tracing.step("execute and publish", engine=job.engine, table=job.output) as spans:
            with execute(config, job, period, pinned, temp, unread) as produced:
                published = publish(lake, job, period, produced.reader, mark, reached)
            spans.note(rows=published.rows, files=published.files, snapshot=published.snapshot_id or 0)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    log(f"{job.output}: {published.rows:,} rows in {published.files} files, snapshot {published.snapshot_id}")
    inputs: dict[str, Any] = {
        name: {"snapshot": snapshot, "position": reached.get(name)} for name, snapshot in snapshots.items()
    }
    return Outcome(published.rows, published.bytes, published.files, published.snapshot_id, published.already, inputs)


_lakes: dict[tuple[str, str], Lake] = {}


def _lake(config: Config) -> Lake:
    """The lake, opened once per process: a catalog takes longer to open than an empty job to run."""
    key = (config.catalog_uri, config.warehouse)
    if key not in _lakes:
        _lakes[key] = Lake.open(config)
    return _lakes[key]


def _pin(config: Config, job: Job) -> dict[str, Pinned]:
    pinned = open_snapshots(config).pin(job.inputs)
    for name in job.inputs:
        if name not in pinned:
            message = f"table {name} does not exist yet: the job that makes it has never succeeded, or had no rows"
            place = (job.name, job.engine, str(job.source.file), job.source.line)
            raise JobFailed(*place, message, {n: table.snapshot_id for n, table in pinned.items()}, retryable=False)
    return pinned


def _reached(config: Config, job: Job, pinned: Mapping[str, Pinned]) -> dict[str, Position]:
    """How far the inputs are: of an incremental job all that grow, else streams, to know later what came late."""
    if job.mode == "incremental":
        return positions(pinned)
    streams = {f"{stream}.events" for stream in config.streams}
    return {name: position(table) for name, table in pinned.items() if name in streams}
