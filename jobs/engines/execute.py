"""Runs a job's statement or function on its pinned inputs; the result comes as a stream of record batches.

Called by `jobs.run.attempt`, which publishes what comes. Promise: whatever goes wrong, before the first row or between
two, is a JobFailed that names job, engine, file, line and the snapshots that were read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from eagleray.cluster.config import Config
from eagleray.cluster.lake.scan import Pinned
from eagleray.jobs.engines.duckdb import run_sql
from eagleray.jobs.engines.incremental import Position, arrived, grows, positions
from eagleray.jobs.engines.job_failed import named
from eagleray.jobs.engines.own_days import check_days
from eagleray.jobs.engines.table_types import shaped
from eagleray.jobs.engines.task import Engine, Work
from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.sql.tables import Declared


@dataclass(frozen=True)
class Produced:
    """A result while it is read. Leave its `with` block, and what the engine holds is released."""

    reader: pa.RecordBatchReader
    _release: ExitStack = field(default_factory=ExitStack, repr=False)

    def __enter__(self) -> Produced:
        """Release the engine at the end of a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        self._release.close()


def execute(
    config: Config,
    job: Job,
    period: Period,
    inputs: Mapping[str, Pinned],
    temp: Path,
    since: Mapping[str, Position] | None = None,
) -> Produced:
    """Start `job` for `period` on `inputs`, spilling into `temp`; its columns have types that a table can hold.

    `since`: what an incremental job has read, by input; None where it has read nothing yet. Raises JobFailed.
    """
    release = ExitStack()
    work = Work(config, job, period, {name: Declared(pinned) for name, pinned in inputs.items()}, temp, release)
    try:
        with named(work):
            if job.mode == "incremental":
                work = work.only(_arrived(inputs, since or {}))
            check_days(work)
            reader = shaped(_engine(job)(work))
    except BaseException:
        release.close()
        raise
    return Produced(pa.RecordBatchReader.from_batches(reader.schema, _rows(reader, work)), release)


def _engine(job: Job) -> Engine:
    """Imported only when it is used: Daft and Ray Data take longer to load than many a job to run."""
    if job.source.function is not None:
        from eagleray.jobs.engines.function_call import run_function

        return run_function
    if job.engine == "daft":
        from eagleray.jobs.engines.daft import run_daft_sql

        return run_daft_sql
    return run_sql


def _arrived(inputs: Mapping[str, Pinned], since: Mapping[str, Position]) -> dict[str, Declared]:
    positions(inputs)
    return {
        name: Declared(pinned, arrived(pinned, since.get(name))) if grows(pinned) else Declared(pinned)
        for name, pinned in inputs.items()
    }


def _rows(reader: pa.RecordBatchReader, work: Work) -> Iterator[pa.RecordBatch]:
    with named(work):
        yield from reader
