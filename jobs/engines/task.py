"""One run of a job's statement or function, as every engine gets it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from eagleray.cluster.config import Config
from eagleray.cluster.errors import JobFailed
from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.sql.tables import Declared


@dataclass(frozen=True)
class Work:
    """The job, what it is about, and the tables that it may read. `release` takes what is open while rows come."""

    config: Config
    job: Job
    period: Period
    tables: Mapping[str, Declared]  # by name; rows that an incremental job has seen are not there
    temp: Path  # for what does not fit into memory
    release: ExitStack = field(default_factory=ExitStack)

    def only(self, tables: Mapping[str, Declared]) -> Work:
        """The same work on these tables."""
        return replace(self, tables=tables)

    def failed(self, message: str, line: int | None = None, *, retryable: bool = True) -> JobFailed:
        """The error of this run; `line` is the file's, by default where statement or function begins."""
        source, snapshots = self.job.source, {name: table.pinned.snapshot_id for name, table in self.tables.items()}
        at = source.line if line is None else line
        return JobFailed(self.job.name, self.job.engine, str(source.file), at, message, snapshots, retryable=retryable)


class Engine(Protocol):
    """Starts the work; the rows come as they are read."""

    def __call__(self, work: Work) -> pa.RecordBatchReader:
        """Raises EaglerayError, or what the engine or the user's function raises."""
        ...
