"""Puts a run's result into its table in one commit: write, audit, publish. Called by `jobs.run.attempt`.

Promise: readers see the table as it was or with the whole result in it, never a result whose checks failed. Killed at
any instruction and run again, the table is the same; of two runs at once the second plans anew on what the first made.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Iterator, Mapping
from itertools import chain

import pyarrow as pa

from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.errors import ChecksFailed, CommitFailed, ConfigError
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.replace import Change
from eagleray.jobs.engines.incremental import Position
from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.jobs.publish.checks import broken
from eagleray.jobs.publish.modes import RUN, RUN_NUMBER, Plan, Result, next_number, numbered, plan
from eagleray.jobs.publish.run_mark import Published, RunMark, published

logger = logging.getLogger(__name__)

__all__ = ["Published", "RunMark", "incremental_positions", "publish"]

REJECTED = "rejected"
"""The branch at which the latest rejected result of a table can be read: `table@rejected`."""

REJECTED_AGE_MS = 7 * 86_400_000  # then expiry drops it
ATTEMPTS_MAX = 8  # plans for one result; each other run of the job that comes first costs one
BACKOFF_S = 0.1
TIDY_EVERY = 20  # snapshots above lake.snapshots_kept


def publish(
    lake: Lake,
    job: Job,
    period: Period,
    reader: pa.RecordBatchReader,
    run: RunMark,
    positions: Mapping[str, Position],
    clock: Clock | None = None,
) -> Published:
    """Publish what `reader` gives as the result of `job` for `period`; the same `run_id` again finds it published.

    Raises ChecksFailed (the result is at `rejected`, readers see nothing of it), ConfigError for columns that do not
    fit the table, CommitFailed and CommitUnknown where others kept coming first or the catalog did not answer.
    """
    if done := published(lake, job.output, run.run_id):
        return done
    # 1. write the rows
    result = _write(lake, job, period, reader, run)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            # 2. plan, audit, publish
            done = _commit(lake, result, run, positions, clock or SystemClock())
            _tidy(lake, job.output)
            return done
        except CommitFailed as error:
            if done := published(lake, job.output, run.run_id):
                return done
            if attempt == ATTEMPTS_MAX or isinstance(error, Overtaken):
                raise
            time.sleep(BACKOFF_S * attempt * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def _tidy(lake: Lake, output: str) -> None:
    """Expire now and then, for nobody else does it for tables of jobs; what is not reached now is the next time."""
    if lake.snapshot_count(output) > lake.config.lake.snapshots_kept + TIDY_EVERY:
        try:
            lake.expire(output)
        except Exception as error:  # the result is published, whatever becomes of this
            logger.warning("expiry of %s: %s", output, error)


def incremental_positions(lake: Lake, job: Job) -> Mapping[str, Position] | None:
    """How far `job` has read its inputs, as its output says; None where it has not run yet."""
    text = lake.properties(job.output).get(_positions_key(job))
    return json.loads(text) if text is not None else None


def _write(lake: Lake, job: Job, period: Period, reader: pa.RecordBatchReader, run: RunMark) -> Result:
    # The table is made when the first rows are there: a job that fails before leaves none behind.
    batches = iter(reader)
    first = next(batches, None)
    schema: pa.Schema = reader.schema
    if taken := sorted({RUN, RUN_NUMBER} & set(schema.names)) if numbered(job) else []:
        raise ConfigError(
            f"job {job.name}", f"a result of mode {job.mode} cannot have a column {taken[0]!r} of its own"
        )
    rows: Iterator[pa.RecordBatch] = chain([first] if first is not None else [], batches)
    number = None
    if numbered(job):
        schema = schema.append(pa.field(RUN, pa.string())).append(pa.field(RUN_NUMBER, pa.int64()))
    lake.ensure_output(job.output, schema, job.partition_by, job.sort_by)
    if numbered(job):
        number = next_number(lake.pin(job.output))
        rows = _marked(rows, schema, period.label if job.mode == "append" else run.run_id, number)
    with lake.stream(job.output) as out:
        out.write_all(rows)
        files = out.finish()
    return Result(job, period, files, out.rows, number)


def _marked(batches: Iterator[pa.RecordBatch], schema: pa.Schema, run: str, number: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        own = [pa.repeat(run, batch.num_rows), pa.repeat(number, batch.num_rows)]
        yield pa.RecordBatch.from_arrays([*batch.columns, *own], schema=schema)


def _commit(lake: Lake, result: Result, run: RunMark, positions: Mapping[str, Position], clock: Clock) -> Published:
    job = result.job
    if job.checks and not lake.history(job.output):
        lake.replace(job.output, Change(exclusive=True))  # a branch needs something to start from
    pinned = lake.pin(job.output)
    moved = _moved(job, pinned.properties.get(_positions_key(job)), run, positions)
    if job.mode == "incremental" and not moved and not result.files:
        return Published(0, 0, 0, pinned.snapshot_id)  # nothing arrived
    planned = plan(lake, pinned, result)
    result = planned.result
    properties = planned.properties | moved
    if not (job.checks or planned.removed or planned.added or properties):
        return Published(0, 0, 0, pinned.snapshot_id)  # nothing came of nothing
    change = Change(
        planned.removed,
        planned.added,
        run.summary(result.rows, result.bytes, len(result.files)),
        {} if job.checks else properties,
        branch=_audit_branch(run) if job.checks else None,
        base=pinned.snapshot_id,
        exclusive=True,
    )
    snapshot = lake.replace(job.output, change)
    if change.branch:
        _audit(lake, planned, change.branch, clock)
        lake.forward(job.output, change.branch, properties)
    return Published(result.rows, result.bytes, len(result.files), snapshot)


def _audit(lake: Lake, planned: Plan, branch: str, clock: Clock) -> None:
    """Run the checks on what is staged; raises ChecksFailed, and keeps it as REJECTED."""
    job = planned.result.job
    if failures := broken(lake, job, branch, clock.now_us()):
        lake.keep_branch(job.output, branch, REJECTED, REJECTED_AGE_MS)
        raise ChecksFailed(job.name, job.output, failures)


def _moved(job: Job, text: str | None, run: RunMark, positions: Mapping[str, Position]) -> dict[str, str]:
    """The property that says how far an incremental job is, if it changes; raises CommitFailed if it did meanwhile."""
    if job.mode != "incremental":
        return {}
    now = json.loads(text) if text is not None else None
    if now != (None if run.since is None else {name: dict(at) for name, at in run.since.items()}):
        raise Overtaken(f"another run of {job.name} published since this one began: what it read was read twice")
    wanted = {**(now or {}), **{name: dict(at) for name, at in positions.items()}}
    return {} if wanted == now else {_positions_key(job): json.dumps(wanted, sort_keys=True)}


class Overtaken(CommitFailed):
    """Another run of an incremental job has published what this one read: run again, from where it ended."""


def _positions_key(job: Job) -> str:
    return f"eagleray.positions.{job.name}"


def _audit_branch(run: RunMark) -> str:
    return "audit_" + re.sub(r"\W", "_", run.run_id)
