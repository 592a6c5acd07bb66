"""Puts a run's result into its table in one commit: write, audit, publish. Called by `jobs.run.attempt`.

Promise: readers see the table as it was or with the whole result in it, never a result whose checks failed. Killed at
any instruction and run again, the table is the same; of two runs at once the second plans anew on what the first made.
"""

from __future__ import annotations

import itertools
import logging
import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import pyarrow as pa

from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.errors import ChecksFailed, CommitFailed, ConfigError, FilesLost
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.replace import Change
from eagleray.cluster.lake.table_layout import parse_layout
from eagleray.cluster.windowing.definition import field_type
from eagleray.jobs.engines.incremental import Position
from eagleray.jobs.engines.table_types import conformed
from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.jobs.publish.checks import broken
from eagleray.jobs.publish.history import VALID_FROM, VALID_TO
from eagleray.jobs.publish.modes import RUN, RUN_NUMBER, Plan, Result, next_number, numbered, plan
from eagleray.jobs.publish.partitions import Owner
from eagleray.jobs.publish.positions import Overtaken, moved
from eagleray.jobs.publish.result_columns import check_own, named_as_in_table, with_known_key
from eagleray.jobs.publish.result_types import settled
from eagleray.jobs.publish.run_mark import RUN_ID, Published, RunMark, published

logger = logging.getLogger(__name__)

__all__ = ["Published", "RunMark", "publish"]

_INSTANT = pa.timestamp("us", "UTC")
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
    fit the table, CommitFailed and CommitUnknown where others kept coming first or the catalog did not answer,
    FilesLost where the result waited so long that its files may be gone: it must be computed again.
    """
    if done := published(lake, job.output, run.run_id):
        return done
    # 1. write the rows
    result = _write(lake, job, period, reader, run)
    if result is None:
        return Published(0, 0, 0, None)  # no rows, no table, and nobody knows what it would look like
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            # 2. plan, audit, publish
            done = _commit(lake, result, run, positions, clock or SystemClock())
            _tidy(lake, job.output)
            return done
        except CommitFailed as error:
            if done := published(lake, job.output, run.run_id):
                return done
            if attempt == ATTEMPTS_MAX or isinstance(error, (Overtaken, FilesLost)):
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


def _write(lake: Lake, job: Job, period: Period, reader: pa.RecordBatchReader, run: RunMark) -> Result | None:
    # The table is made when the first rows are there: a job that fails before leaves none behind.
    batches = iter(reader)
    first = next((batch for batch in batches if batch.num_rows), None)
    there = None if lake.find(job.output) is None else lake.pin(job.output).schema
    named = named_as_in_table(there, reader.schema)
    job = with_known_key(job, named.names) if named.names else job
    schema = settled(job, named, there, rows=first is not None)
    if there is None and (not schema.names or (first is None and len(schema) < len(named))):
        return None  # no rows, and a column of which nobody knows the type yet
    if numbered(job):
        check_own(job, schema.names, (RUN, RUN_NUMBER))
    rows = _typed(_renamed(chain([first] if first is not None else [], batches), named.names), schema)
    number = None
    if job.mode == "history":
        check_own(job, schema.names, (VALID_FROM, VALID_TO))
        schema = schema.append(pa.field(VALID_FROM, _INSTANT)).append(pa.field(VALID_TO, _INSTANT))
        rows = _marked(rows, schema, pa.scalar(period.start, _INSTANT), pa.scalar(None, _INSTANT))
    if numbered(job):
        schema = schema.append(pa.field(RUN, pa.string())).append(pa.field(RUN_NUMBER, pa.int64()))
    if job.mode == "overwrite_partitions" and schema.names:
        _check_partitions(job, period, schema)
    retyping = None
    if job.mode == "full" and there is not None and (retyping := lake.retyping(job.output, schema)):
        # All rows are replaced, so columns may have other types: first what is new beside them, then these.
        fitting = [there.field(f.name) if f.name in retyping.changed else f for f in schema]
        lake.ensure_output(job.output, pa.schema(fitting), job.partition_by, job.sort_by, where=job.source.place)
        retyping = lake.retyping(job.output, schema)
    else:
        lake.ensure_output(job.output, schema, job.partition_by, job.sort_by, where=job.source.place)
    if numbered(job):
        number = next_number(lake.pin(job.output))
        rows = _marked(rows, schema, period.label if job.mode == "append" else run.run_id, number)
    with lake.stream(job.output, retyping=retyping) as out:
        out.write_all(rows)
        files = out.finish()
    return Result(job, period, files, out.rows, number, retyping)


def make_output(lake: Lake, job: Job, schema: pa.Schema) -> None:
    """Make the output of a job that reads it itself, without rows; raises ConfigError for columns that do not fit."""
    for name, kind in _own_columns(job):
        schema = schema.append(pa.field(name, kind))
    lake.ensure_output(job.output, schema, job.partition_by, job.sort_by, where=job.source.place)


def _own_columns(job: Job) -> list[tuple[str, pa.DataType]]:
    """The columns that rows get from the mode of their job."""
    if job.mode == "history":
        return [(VALID_FROM, _INSTANT), (VALID_TO, _INSTANT)]
    return [(RUN, pa.string()), (RUN_NUMBER, pa.int64())] if numbered(job) else []


def _typed(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows with the types of `schema`, without the columns that nobody knows the type of."""
    known = set(schema.names)
    for batch in batches:
        yield conformed(batch.select([name for name in batch.schema.names if name in known]), schema)


def _check_partitions(job: Job, period: Period, schema: pa.Schema) -> None:
    """Raise ConfigError where a run would replace rows of other periods: those that share a partition with it."""
    place = job.source.place
    where = f"{place}: partition_by"
    fields = parse_layout(place, schema, job.partition_by, ()).partition_by
    owner = Owner(fields, {field.name: field_type(schema, field.path) for field in fields}, period)
    if shared := owner.reaching_beyond():
        stretch = f"{period.start:%Y-%m-%d %H:%M} to {period.end:%Y-%m-%d %H:%M} UTC"
        problem = (
            f"the period {stretch} is no whole number of partitions by {shared}, so it would replace rows of others"
        )
        raise ConfigError(where, f"{problem}; expected partitions within a period, or mode merge")


def _renamed(batches: Iterable[pa.RecordBatch], names: list[str]) -> Iterator[pa.RecordBatch]:
    return (pa.RecordBatch.from_arrays(batch.columns, names=names) for batch in batches)


def _marked(batches: Iterator[pa.RecordBatch], schema: pa.Schema, *values: Any) -> Iterator[pa.RecordBatch]:
    """The rows with the last columns of `schema`, which have these values."""
    for batch in batches:
        own = [pa.repeat(value, batch.num_rows) for value in values]
        yield pa.RecordBatch.from_arrays([*batch.columns, *own], schema=schema)


def _commit(lake: Lake, result: Result, run: RunMark, positions: Mapping[str, Position], clock: Clock) -> Published:
    job = result.job
    if job.checks and not lake.history(job.output):
        lake.replace(job.output, Change(exclusive=True))  # a branch needs something to start from
    pinned = lake.pin(job.output)
    if job.output in job.inputs and not _unchanged(lake, job.output, run.inputs.get(job.output), pinned.snapshot_id):
        raise Overtaken(f"another run of {job.name} changed its output, which this one has read")
    progress = moved(job, pinned.properties, run, positions)
    if job.mode == "incremental" and not progress and not result.files:
        return Published(0, 0, 0, pinned.snapshot_id)  # nothing arrived
    planned = plan(lake, pinned, result)
    result = planned.result
    properties = planned.properties | progress
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
        retyping=result.retyping,
    )
    snapshot = lake.replace(job.output, change)
    if change.branch:
        _audit(lake, planned, change.branch, clock)
        lake.forward(job.output, change.branch, properties)
    return Published(result.rows, result.bytes, len(result.files), snapshot)


def _audit(lake: Lake, planned: Plan, branch: str, clock: Clock) -> None:
    """Run the checks on what is staged; raises ChecksFailed, and keeps it as REJECTED. Where one cannot run it goes."""
    job = planned.result.job
    try:
        failures = broken(lake, job, branch, clock.now_us())
    except Exception:
        lake.drop_branch(job.output, branch)  # nobody can look at it by name, nor should
        raise
    if failures:
        lake.keep_branch(job.output, branch, REJECTED, REJECTED_AGE_MS)
        raise ChecksFailed(job.name, job.output, failures)


def _unchanged(lake: Lake, table: str, read: int | None, now: int | None) -> bool:
    """Whether the rows at two snapshots are the same: nothing came between, or compactions alone."""
    if read == now:
        return True
    known = dict(lake.history(table))
    between = itertools.takewhile(lambda snapshot: snapshot != read, known)
    return (read in known) and not any(RUN_ID in known[snapshot] for snapshot in between)


def _audit_branch(run: RunMark) -> str:
    return "audit_" + re.sub(r"\W", "_", run.run_id)
