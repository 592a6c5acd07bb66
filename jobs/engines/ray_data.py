"""Tables as Ray Datasets: each task of the cluster opens a share of the planned files, through the same reader as SQL.

So a Dataset has the rows that SQL has: schema evolution, renamed columns, pruning, incremental inputs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from eagleray.cluster.lake.scan import ScanPlan
from eagleray.jobs.engines.duckdb import limits_of, read
from eagleray.jobs.engines.table_types import shaped
from eagleray.sql.engine import Deadline, Limits, bounded
from eagleray.sql.guard import Approved, shared_guard
from eagleray.sql.session import attached, planned
from eagleray.sql.tables import Declared

READ_BYTES_MAX = 64 << 20  # of files in one read task
TASK_MEMORY_BYTES = 1 << 30  # of one read task; it streams
TASK_TIMEOUT_S = 3_600.0


def select(text: str, tables: Mapping[str, Declared], whole: Callable[[], pa.RecordBatchReader]) -> ray.data.Dataset:
    """The rows of `text` as a Dataset; `whole` reads a statement on several tables, which cannot be split."""
    statement = shared_guard().approve(text)
    names = [".".join(reference.names).lower() for reference in statement.tables]
    if len(names) != 1:
        return ray.data.from_arrow(whole().read_all())
    dataset: ray.data.Dataset = ray.data.read_datasource(_Lake(statement, tables[names[0]]))
    return dataset


class _Lake(Datasource):
    """A statement that goes row by row over one table, so that it can be run on every share of the files alone."""

    def __init__(self, statement: Approved, table: Declared) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._text = statement.text
        self._table = table
        with tempfile.TemporaryDirectory(prefix="eagleray-") as temp:
            limits = limits_of(TASK_MEMORY_BYTES, 1, temp, "memory")
            deadline = Deadline(TASK_TIMEOUT_S)
            ((_, self._plan),) = planned([statement], [table], limits, deadline)
            with attached([(table, self._plan.empty())], limits, temp, deadline) as connection:
                self._schema = shaped(read(connection.sql(statement.text))).schema

    def get_name(self) -> str:
        return self._table.pinned.name

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
        size = min(READ_BYTES_MAX, -(-self._plan.bytes // max(1, parallelism)))
        return [self._task(part) for part in self._plan.split(size)]

    def _task(self, part: ScanPlan) -> ReadTask:
        text, table = self._text, self._table
        metadata = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=part.files)
        return ReadTask(lambda: _read(text, table, part), metadata, schema=self._schema)


def _read(text: str, table: Declared, part: ScanPlan) -> Iterator[pa.Table]:
    """The rows of one share, in the worker that Ray chose; at least one block, for the schema."""
    deadline = Deadline(TASK_TIMEOUT_S)
    with tempfile.TemporaryDirectory(prefix="eagleray-") as temp:
        limits: Limits = limits_of(TASK_MEMORY_BYTES, 1, temp, "memory")
        with attached([(table, part)], limits, temp, deadline) as connection, bounded(connection, limits, deadline):
            reader = shaped(read(connection.sql(text)))
            yield reader.schema.empty_table()
            for batch in reader:
                yield pa.Table.from_batches([batch])
