"""A DuckDB over chosen files of one table: what merging and replacing rows compute with. Bounded, spills to disk.

Rows come out under the lake's names of the columns, to be written into new files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from eagleray.cluster.config import Config
from eagleray.cluster.lake.scan import Pinned, ScanPlan
from eagleray.jobs.engines.duckdb import limits_of
from eagleray.jobs.model import Limits as JobLimits
from eagleray.sql.engine import BATCH_ROWS, Deadline, Limits, bounded, connect, identifier
from eagleray.sql.parquet_select import select_parquet
from eagleray.sql.remote_files import sources
from eagleray.sql.tables import Declared, readable

FILE = "_eagleray_file"
"""The column of a view that holds each row's file, named as `sql.remote_files.sources` does."""

ENGINE_SHARE = 2  # the engine that made the rows still holds its memory


class Desk:
    """One DuckDB; close it by leaving `desk`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, limits: Limits, deadline: Deadline) -> None:
        """Use `desk`."""
        self._connection = connection
        self._limits = limits
        self._deadline = deadline

    def view(self, name: str, pinned: Pinned, plan: ScanPlan) -> Declared:
        """Let SQL see the rows of `plan`, files of `pinned`, as `desk.<name>`, with FILE where `readable(plan)`."""
        declared = Declared(pinned.named(f"desk.{name}"))
        with bounded(self._connection, self._limits, self._deadline):
            if readable(plan) and plan.files:
                named = sources(self._connection, plan)
                source = select_parquet(plan, pinned.columns, declared.names, named, FILE)
                self._connection.execute("CREATE SCHEMA IF NOT EXISTS desk")
                self._connection.execute(f"CREATE VIEW {declared.sql_name} AS {source}")
            else:
                declared.attach(self._connection, plan)
        return declared

    def table(self, name: str, text: str) -> None:
        """Keep the rows of a SELECT as `desk.<name>`."""
        with bounded(self._connection, self._limits, self._deadline):
            self._connection.execute("CREATE SCHEMA IF NOT EXISTS desk")
            self._connection.execute(f"CREATE OR REPLACE TABLE desk.{identifier(name)} AS {text}")

    def batches(self, text: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of a SELECT under the lake's `names` of its columns."""
        with bounded(self._connection, self._limits, self._deadline):
            for batch in self._connection.sql(text).to_arrow_reader(BATCH_ROWS * 4):
                yield pa.RecordBatch.from_arrays(batch.columns, names=list(names))

    def rows(self, text: str) -> list[tuple[Any, ...]]:
        """The rows of a small result."""
        with bounded(self._connection, self._limits, self._deadline):
            return self._connection.execute(text).fetchall()

    def dicts(self, text: str) -> list[dict[str, Any]]:
        """The rows of a small result by column."""
        with bounded(self._connection, self._limits, self._deadline):
            found: list[dict[str, Any]] = self._connection.sql(text).to_arrow_table().to_pylist()
            return found

    def stream(self, declared: Declared, rest: str) -> Iterator[pa.RecordBatch]:
        """The rows of a view for which `rest` (what follows FROM, the view being `t`) holds, by the lake's names."""
        names = declared.names
        columns = ", ".join(f"t.{identifier(name)}" for name in names)
        with bounded(self._connection, self._limits, self._deadline):
            reader = self._connection.sql(f"SELECT {columns} FROM {declared.sql_name} AS t {rest}").to_arrow_reader(
                BATCH_ROWS * 4
            )
            lake_names = [column.name for column in declared.pinned.columns]
            for batch in reader:
                yield pa.RecordBatch.from_arrays(batch.columns, names=lake_names)


@contextmanager
def desk(config: Config, limits: JobLimits, setting: str = "memory") -> Iterator[Desk]:
    """A desk within `limits`, of which it takes a share; `setting` is what gives it more."""
    scratch = config.jobs_dir / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="publish-", dir=scratch) as temp:
        own = limits_of(limits.memory_bytes // ENGINE_SHARE, limits.cpus, temp, setting)
        connection = connect(own, temp)
        try:
            yield Desk(connection, own, Deadline(limits.timeout_us / 1_000_000))
        finally:
            connection.close()
