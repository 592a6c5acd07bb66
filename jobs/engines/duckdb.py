"""SQL by DuckDB, in this process: bounded memory, spills to disk, rows streamed. The default engine."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing

import duckdb
import pyarrow as pa

from eagleray.jobs.engines.table_types import fitted, table_schema
from eagleray.jobs.engines.task import Work
from eagleray.jobs.project.parameters import substitute
from eagleray.jobs.project.sql_jobs import padded
from eagleray.sql.engine import Deadline, Limits, bounded, identifier, renderable
from eagleray.sql.guard import shared_guard
from eagleray.sql.session import opened
from eagleray.sql.tables import Declared

PYTHON_BYTES = 384 << 20  # of a run's memory: Python, Arrow, Iceberg's metadata, batches on their way to the table
_LEAST = 0.25  # of a run's memory is DuckDB's, however small it is
_DISK_SHARE = 0.9  # of what is free where it spills
BATCH_ROWS = 65_536
_WIDE = ("HUGEINT", "UHUGEINT", "UBIGINT")  # what sums make; tables have no integers beyond 64 bits


def run_sql(work: Work) -> pa.RecordBatchReader:
    """Start the job's statement."""
    text = substitute(padded(work.job.source), work.period, work.job.variables).text
    return open_for(work, [text]).stream_of(text)


def open_for(work: Work, texts: Sequence[str], share: int = 1) -> DuckDb:
    """A DuckDB for statements of a job, one of `share` that are open at once, until the work is released."""
    limits = limits_of(work.job.limits.memory_bytes // share, work.job.limits.cpus, str(work.temp), "memory")
    timeout_s = work.job.limits.timeout_us / 1_000_000
    return DuckDb.open(work.tables.values(), texts, limits, str(work.temp), timeout_s, work.release)


def limits_of(memory_bytes: int, cpus: float, temp: str, setting: str) -> Limits:
    """The limits of a DuckDB in a process that may use `memory_bytes`; `setting` is what gives it more."""
    return Limits(
        memory_bytes_max=max(memory_bytes - PYTHON_BYTES, round(memory_bytes * _LEAST)),
        temp_bytes_max=round(shutil.disk_usage(temp).free * _DISK_SHARE),
        threads=max(1, math.ceil(cpus)),
        setting=setting,
    )


class DuckDb:
    """A locked DuckDB that holds what statements can need of pinned tables."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, limits: Limits, deadline: Deadline) -> None:
        """Use `open`."""
        self._connection = connection
        self._limits = limits
        self._deadline = deadline

    @classmethod
    def open(
        cls,
        tables: Iterable[Declared],
        texts: Sequence[str],
        limits: Limits,
        temp: str,
        timeout_s: float,
        release: ExitStack,
    ) -> DuckDb:
        """Prepare to run `texts` and no other statement; closed with `release`.

        Raises QueryRejected for a statement that is not allowed or not valid, QueryFailed for what cannot be read.
        """
        deadline = Deadline(timeout_s)
        statements = [shared_guard().approve(text) for text in texts]
        connection = release.enter_context(opened(statements, list(tables), limits, temp, deadline))
        return cls(connection, limits, deadline)

    def relation(self, text: str) -> duckdb.DuckDBPyRelation:
        """The rows of a statement. Nothing is run yet."""
        with bounded(self._connection, self._limits, self._deadline):
            relation = self._connection.sql(text)
            renderable(relation)
            return relation

    def stream_of(self, text: str) -> pa.RecordBatchReader:
        """Run a statement; as `stream`."""
        return self.stream(self.relation(text))

    def stream(self, relation: duckdb.DuckDBPyRelation) -> pa.RecordBatchReader:
        """Run it, one at a time; what goes wrong comes up, as QueryFailed, where batches are read."""
        with bounded(self._connection, self._limits, self._deadline):
            reader = read(relation)
        return pa.RecordBatchReader.from_batches(reader.schema, self._batches(reader))

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        with bounded(self._connection, self._limits, self._deadline):
            yield from reader


def declared_schema(columns: Sequence[tuple[str, str]]) -> pa.Schema:
    """The columns of `columns: {name: SQL type}` as a table has them."""
    chosen = ", ".join(f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in columns)
    with closing(duckdb.connect()) as connection:
        return table_schema(read(connection.sql(f"SELECT {chosen} LIMIT 0")).schema)


def read(relation: duckdb.DuckDBPyRelation) -> pa.RecordBatchReader:
    """The rows of a relation, with BIGINT for wider integers; a value that does not fit is a QueryRejected."""
    reader = relation.to_arrow_reader(BATCH_ROWS)
    kinds = map(str, relation.types)
    fields = (
        field.with_type(pa.int64()) if kind in _WIDE else field
        for field, kind in zip(reader.schema, kinds, strict=True)
    )
    return fitted(reader, pa.schema(fields))
