"""The lake: Iceberg tables with exactly-once progress. `cluster.lake` alone imports pyiceberg.

Used by the writer and window workers (write), the committer (commit, expire), SQL and jobs (load).

Promise: what `commit` returned True for is in the table once, whatever died or was retried on the way.
"""

from __future__ import annotations

import copy
import itertools
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, GreaterThanOrEqual, LessThan
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from eagleray.cluster.clock import Clock, SystemClock, iso
from eagleray.cluster.config import Config
from eagleray.cluster.events.stream import Stream
from eagleray.cluster.lake.catalog import metadata_location, open_catalog
from eagleray.cluster.lake.commit import commit
from eagleray.cluster.lake.expire import Expired, Expiry, Retention
from eagleray.cluster.lake.job_tables import ensure_output
from eagleray.cluster.lake.parquet_files import FileWriter
from eagleray.cluster.lake.parquet_stream import SORT_BYTES, FileStream
from eagleray.cluster.lake.progress import decode
from eagleray.cluster.lake.replace import Change, drop, forward, keep, main_line, replace
from eagleray.cluster.lake.scan import Pinned
from eagleray.cluster.lake.schema_evolution import ensure_table
from eagleray.cluster.lake.stream_tables import table_specs


class Lake:
    """All tables. Threads may share one; a pickled one is opened anew by the process that receives it."""

    def __init__(self, config: Config, catalog: Catalog, clock: Clock | None = None) -> None:
        """Use `Lake.open`."""
        self.config = config
        self._catalog = catalog
        self._tables: dict[str, Table] = {}  # as last read; replaced as wholes
        self._writers: dict[str, FileWriter] = {}
        self._writer = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._expiry = Expiry(clock or SystemClock())

    @classmethod
    def open(cls, config: Config, clock: Clock | None = None) -> Lake:
        """Open the catalog; raises ConfigError where `lake.catalog` is wrong."""
        return cls(config, open_catalog(config), clock)

    def __reduce__(self) -> tuple[Any, ...]:
        return Lake.open, (self.config,)

    def ensure(self, streams: Mapping[str, Stream]) -> None:
        """Create what is missing and bring tables up to `streams`; raises ConfigError where columns cannot change so.

        For the start of the platform, before workers run: a worker goes by the columns and partitions it found first.
        """
        for stream in streams.values():
            for spec in table_specs(stream):
                ensure_table(self._catalog, str(self.config.file), spec)
        self._writers.clear()

    def ensure_output(
        self, name: str, schema: pa.Schema, partition_by: Sequence[str] = (), sort_by: Sequence[str] = ()
    ) -> None:
        """Create the table `name` of a job, or add columns, so that rows of `schema` fit; raises ConfigError."""
        file, layout = str(self.config.file), (tuple(partition_by), tuple(sort_by))
        ensure_output(self._catalog, self.find, file, name, schema, *layout)

    def tables(self) -> list[str]:
        """Names of all tables, `stream.table`, sorted."""
        namespaces = self._catalog.list_namespaces()
        return sorted(".".join(name) for namespace in namespaces for name in self._catalog.list_tables(namespace))

    def load(self, table: str) -> Table:
        """The table as it is now, the caller's own copy. Metadata that did not change is not read again."""
        namespace, _, name = table.partition(".")
        location = metadata_location(self._catalog, namespace, name)
        known = self._tables.get(table)
        if known is None or location is None or known.metadata_location != location:
            known = self._tables[table] = self._catalog.load_table(table)
        return copy.copy(known)  # a commit changes the object it was made with

    def find(self, table: str) -> Table | None:
        """The table as `load` has it; None where there is none."""
        try:
            return self.load(table)
        except NoSuchTableError:
            return None

    def pin(self, table: str, snapshot: int | str | None = None) -> Pinned:
        """The table for reading, now or at a snapshot or branch; raises ValueError where there is no such snapshot."""
        pinned = Pinned(table, self.load(table))
        return pinned if snapshot is None else pinned.at(snapshot)

    def write(self, table: str, rows: pa.Table) -> list[DataFile]:
        """Parquet files of `rows` for `table`: zstd, sorted, one or more per partition, durable, not yet committed.

        Columns go by name; absent optional ones are null. Raises ValueError for columns that do not fit, OSError where
        the warehouse cannot be written. The files pickle, for the process that commits.
        """
        writer = self._writers.get(table)
        if writer is None:
            writer = self._writers[table] = self._new_writer(table)
        return writer.write(rows)

    def _new_writer(self, table: str) -> FileWriter:
        return FileWriter(self.load(table), self.config.lake.file_bytes_max, self._writer, self._numbers)

    def stream(self, table: str, sort_bytes: int = SORT_BYTES, partition: Record | None = None) -> FileStream:
        """A writer of any number of rows into files for `table` as it is now, not yet committed.

        `partition`: all rows are of this one, so that nobody has to look.
        """
        return FileStream(self._new_writer(table), sort_bytes, partition)

    def commit(self, table: str, files: Sequence[DataFile], begins: Mapping[str, int], ends: Mapping[str, int]) -> bool:
        """Append `files` and move the table's progress from `begins` to `ends` in one snapshot, exactly once.

        True: in the table, now or since before. Raises CommitFailed where the table stands elsewhere, CommitUnknown
        where the outcome could not be read back, ValueError where progress does not move.
        """
        return commit(lambda: self.load(table), files, begins, ends)

    def replace(self, table: str, change: Change) -> int:
        """Swap files of `table` for others in one snapshot, exactly once beside any appends; returns its id.

        Raises CommitFailed where a file that goes is there no longer, or the table moved on: plan again.
        """
        return replace(lambda: self.load(table), change)

    def forward(self, table: str, branch: str, properties: Mapping[str, str]) -> int:
        """Make main what was staged on `branch`, and set `properties`; raises CommitFailed where main moved on."""
        return forward(lambda: self.load(table), branch, properties)

    def keep_branch(self, table: str, branch: str, name: str, age_ms: int) -> int:
        """Let what was staged on `branch` stay readable as `name` for `age_ms`."""
        return keep(lambda: self.load(table), branch, name, age_ms)

    def history(self, table: str) -> list[tuple[int, Mapping[str, str]]]:
        """The snapshots that main came through, newest first: id and summary."""
        line = main_line(self.load(table).metadata)
        return [(s.snapshot_id, s.summary.additional_properties if s.summary else {}) for s in line]

    def snapshot_count(self, table: str) -> int:
        """How many snapshots the table keeps, of branches too."""
        return len(self.load(table).metadata.snapshots)

    def branches(self, table: str) -> list[str]:
        """Names of branches and tags besides main, sorted."""
        return sorted(set(self.load(table).metadata.refs) - {"main"})

    def properties(self, table: str) -> Mapping[str, str]:
        """The table's properties, fresh from the catalog; empty where there is no such table."""
        found = self.find(table)
        return found.properties if found is not None else {}

    def drop_branch(self, table: str, branch: str) -> None:
        """Forget what was staged on `branch`."""
        drop(lambda: self.load(table), branch)

    def progress(self, table: str) -> dict[str, int]:
        """How far the table is, fresh from the catalog; absent keys were never committed."""
        return decode(self.load(table).properties)

    def expire(self, table: str, retention: Retention | None = None) -> Expired:
        """Forget old snapshots, and delete the metadata and the data files that only they used.

        By default all but `lake.snapshots_kept` go; what replaced files stays for `lake.replaced_files_kept`.
        """
        lake = self.config.lake
        return self._expiry.expire(
            self.load(table), retention or Retention(lake.snapshots_kept, 0, lake.replaced_files_kept)
        )

    def expirable(self, table: str, retention: Retention) -> bool:
        """Whether `expire` would find something."""
        return self._expiry.due(self.load(table), retention)

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of `table`, or some of its top-level columns, in memory: for tests and small tables."""
        return self.load(table).scan(selected_fields=tuple(columns or ("*",))).to_arrow()

    def window_rows(self, table: str, from_us: int | None, to_us: int | None) -> list[dict[str, Any]]:
        """Rows of a window's table that start in [from_us, to_us), by start; times as ISO 8601 with `Z`, dates too."""
        limits: BooleanExpression = AlwaysTrue()
        if from_us is not None:
            limits = And(limits, GreaterThanOrEqual(term="window_start", value=_instant(from_us)))
        if to_us is not None:
            limits = And(limits, LessThan(term="window_start", value=_instant(to_us)))
        rows = self.load(table).scan(row_filter=limits).to_arrow().sort_by("window_start")
        return [dict(zip(rows.column_names, row, strict=True)) for row in zip(*map(_plain, rows.columns), strict=True)]


def _instant(time_us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)


def _plain(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_date(column.type):
        return [None if day is None else day.isoformat() for day in column.to_pylist()]
    if not pa.types.is_timestamp(column.type):
        return list(column.to_pylist())
    return [None if at is None else iso(at) for at in column.cast(pa.int64()).to_pylist()]
