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

from cluster.config import Config
from cluster.lake.scan import Pinned
from jobs.engines.duckdb import run_sql
from jobs.engines.failure import named
from jobs.engines.incremental import Position, arrived, grows, positions
from jobs.engines.shape import shaped
from jobs.engines.work import Engine, Work
from jobs.model import Job
from jobs.period import Period
from jobs.sql.tables import Declared


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
            reader = shaped(_engine(job)(work))
    except BaseException:
        release.close()
        raise
    return Produced(pa.RecordBatchReader.from_batches(reader.schema, _rows(reader, work)), release)


def _engine(job: Job) -> Engine:
    """Imported only when it is used: Daft and Ray Data take longer to load than many a job to run."""
    if job.source.function is not None:
        from jobs.engines.functions import run_function

        return run_function
    if job.engine == "daft":
        from jobs.engines.daft import run_daft_sql

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
