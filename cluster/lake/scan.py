"""From a table at one snapshot to the files a query has to read: partition and statistics pruning by Iceberg's plan.

`cluster.lake.pin` makes `Pinned` tables, `sql` plans and reads them. Promise: a plan holds every row for which the
predicate may be true, whatever happens to the table meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import (
    AlwaysTrue,
)
from pyiceberg.expressions.visitors import ResidualEvaluator, UnpartitionedResidualEvaluator
from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
from pyiceberg.manifest import DataFile, FileFormat
from pyiceberg.schema import Schema, sanitize_column_names
from pyiceberg.table import DataScan, FileScanTask, ManifestGroupPlanner, Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.types import (
    IcebergType,
    PrimitiveType,
)

from eagleray.cluster.clock import iso
from eagleray.cluster.lake import predicate as p
from eagleray.cluster.lake.damage import manifests_of
from eagleray.cluster.lake.expressions import expression, values_range
from eagleray.cluster.lake.file_schema import narrow
from eagleray.cluster.lake.progress import decode
from eagleray.cluster.lake.range_file import FileStream, RangeFile, open_file


@dataclass(frozen=True)
class Column:
    """A top-level column as it is now. `field` and its children carry Iceberg's ids as `PARQUET:field_id`."""

    id: int
    field: pa.Field

    @property
    def name(self) -> str:
        """The column's present name; a file may have another."""
        return str(self.field.name)

    @property
    def type(self) -> pa.DataType:
        """The column's Arrow type."""
        return self.field.type


Layout = Literal["alike", "flat", "nested"]
"""How files differ: not at all, for the table has had one schema, whose names can be told apart without regard to case;
in top-level columns, which are found by field id; or in what is inside structs too."""


@dataclass(frozen=True)
class ScanPlan:
    """What to read. `rows` and `bytes` are sums over `files`; `files` are paths or URIs, in a stable order."""

    files: tuple[str, ...]
    rows: int
    bytes: int
    plain: bool  # Parquet files without deletes: any Parquet reader may read them, by field id
    layout: Layout
    _table: Table = field(repr=False, compare=False)
    _schema: Schema = field(repr=False, compare=False)
    _tasks: tuple[FileScanTask, ...] = field(repr=False, compare=False)

    def split(self, bytes_max: int) -> tuple[ScanPlan, ...]:
        """The same files in order in several plans, each of one file or at most `bytes_max`; one plan without files."""
        parts: list[list[FileScanTask]] = [[]]
        size = 0
        for task in self._tasks:
            size += task.file.file_size_in_bytes
            if parts[-1] and size > bytes_max:
                parts.append([])
                size = task.file.file_size_in_bytes
            parts[-1].append(task)
        return tuple(self._of(part) for part in parts)

    def empty(self) -> ScanPlan:
        """A plan of the same table without files."""
        return self._of(())

    def _of(self, tasks: Sequence[FileScanTask]) -> ScanPlan:
        return replace(
            self,
            files=tuple(_path(task.file.file_path) for task in tasks),
            rows=sum(task.file.record_count for task in tasks),
            bytes=sum(task.file.file_size_in_bytes for task in tasks),
            _tasks=tuple(tasks),
        )

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The planned rows with these columns, through Iceberg's own reader: any FileIO, deletes, schema evolution."""
        schema = self._schema.select(*columns)
        scan = ArrowScan(self._table.metadata, self._table.io, schema, AlwaysTrue())
        yield from scan.to_record_batches(self._tasks)

    @property
    def remote(self) -> bool:
        """Whether files are elsewhere than on this machine's disk."""
        return any("://" in file for file in self.files)

    def open(self, file: str) -> RangeFile:
        """One of `files`, wherever it is, to be read in ranges; raises OSError."""
        return open_file(self._table.io, file, self._sizes[file])

    def has(self, file: str) -> bool:
        """Whether it is one of `files`."""
        return file in self._sizes

    def size(self, file: str) -> int:
        """Bytes of one of `files`."""
        return self._sizes[file]

    def stream(self, file: str) -> BinaryIO:
        """The same as a seekable binary stream, for libraries that read such."""
        return open(file, "rb") if "://" not in file else cast(BinaryIO, FileStream(self.open(file)))

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {path: task.file.file_size_in_bytes for path, task in zip(self.files, self._tasks, strict=True)}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the table's columns."""
        return tuple(column.name for column in self._schema.fields)

    @property
    def data_files(self) -> tuple[DataFile, ...]:
        """The planned files with their partitions and statistics, in the order of `files`."""
        return tuple(task.file for task in self._tasks)

    def in_order_of(self, column: str) -> list[tuple[int, ScanPlan]]:
        """A plan for each file with the least value of a whole-number or timestamp column in it, ascending."""
        field = self._schema.find_field(column)
        assert isinstance(field.field_type, PrimitiveType)
        least: list[tuple[int, FileScanTask]] = []
        for task in self._tasks:
            bound = (task.file.lower_bounds or {}).get(field.field_id)
            least.append((-(2**63) if bound is None else int(from_bytes(field.field_type, bound)), task))
        return [(bound, self._of([task])) for bound, task in sorted(least, key=lambda each: each[0])]

    def singly(self) -> dict[str, ScanPlan]:
        """A plan for each file, by `DataFile.file_path`."""
        return {task.file.file_path: _plan(self._table, self._schema, self.layout, [task]) for task in self._tasks}

    def only(self, chosen: Callable[[DataFile], bool]) -> ScanPlan:
        """The part of the plan in the files that are `chosen`."""
        return _plan(self._table, self._schema, self.layout, (task for task in self._tasks if chosen(task.file)))


def _plan(table: Table, schema: Schema, layout: Layout, tasks: Iterable[FileScanTask]) -> ScanPlan:
    tasks = tuple(sorted(tasks, key=lambda task: task.file.file_path))
    files = tuple(_path(task.file.file_path) for task in tasks)
    return ScanPlan(
        files=files,
        rows=sum(task.file.record_count for task in tasks),
        bytes=sum(task.file.file_size_in_bytes for task in tasks),
        plain=all(not task.delete_files and task.file.file_format == FileFormat.PARQUET for task in tasks),
        layout=layout,
        _table=table,
        _schema=schema,
        _tasks=tasks,
    )


class Pinned:
    """A table at the snapshot it had when it was pinned."""

    def __init__(self, name: str, table: Table, snapshot: Snapshot | None = None) -> None:
        """`name` is `stream.table`; `table` is never refreshed. `snapshot`: an earlier one than its present."""
        self.name = name
        self._table = table
        self._snapshot = snapshot or table.current_snapshot()
        self._earlier = snapshot is not None

    @property
    def snapshot_id(self) -> int | None:
        """The pinned snapshot; None where nothing was ever committed."""
        return self._snapshot.snapshot_id if self._snapshot else None

    @property
    def identity(self) -> str:
        """Identifies the table: a renamed table keeps it, and one that was dropped and made anew has another."""
        return str(self._table.metadata.table_uuid)

    @cached_property
    def progress(self) -> dict[str, int]:
        """How far a stream's table is (`cluster.lake.progress`); empty for other tables."""
        if self._earlier and self._snapshot and self._snapshot.summary:
            return decode(self._snapshot.summary.additional_properties)
        return decode(self._table.properties)

    def at(self, snapshot: int | str | datetime) -> Pinned:
        """The table at a snapshot (id, or name of a branch or tag), or as it was at an instant; raises ValueError."""
        kept = self._table.metadata.snapshots
        if isinstance(snapshot, str):
            refs = self._table.metadata.refs
            found = self._table.snapshot_by_name(snapshot) if snapshot in refs else None
        elif isinstance(snapshot, int):
            found = self._table.snapshot_by_id(snapshot)
        else:
            found = self._table.snapshot_as_of_timestamp(round(snapshot.timestamp() * 1000))
        if found is None:
            times = [iso(1000 * one.timestamp_ms) for one in kept]
            there = f"{len(kept)} snapshots are kept, from {min(times)} to {max(times)}" if kept else "it has none"
            raise ValueError(f"{self.name} has no snapshot {snapshot}; {there}")
        return Pinned(self.name, self._table, found)

    def commits(self) -> list[tuple[int, int, dict[str, int]]]:
        """The snapshots that are kept, oldest first: id, when it was committed (µs), and its progress."""
        return [
            (one.snapshot_id, 1000 * one.timestamp_ms, decode(one.summary.additional_properties if one.summary else {}))
            for one in sorted(self._table.metadata.snapshots, key=lambda one: one.sequence_number or 0)
        ]

    def called(self, name: str) -> str | None:
        """What the top-level column is called now that once was `name`; None where the table has it no longer."""
        now = {column.field_id: column.name for column in self._schema.fields}
        if name in now.values():
            return name
        before = sorted(self._table.metadata.schemas, key=lambda schema: schema.schema_id, reverse=True)
        ids = (column.field_id for schema in before for column in schema.fields if column.name == name)
        return next((now[number] for number in ids if number in now), None)

    def before_all(self) -> Pinned:
        """The table as it was before the first commit: with its columns, without rows."""
        return _Empty(self.name, self._table)

    def upper_bound(self, column: str) -> int | None:
        """The greatest value of a whole-number or timestamp column, by the files' statistics; None without rows."""
        field = self._table.schema().find_field(column)
        files = (task.file for task in self._scan(p.EVERYTHING).plan_files())
        bounds = [(file.upper_bounds or {}).get(field.field_id) for file in files]
        assert isinstance(field.field_type, PrimitiveType)
        return max((int(from_bytes(field.field_type, bound)) for bound in bounds if bound is not None), default=None)

    def older(self, column: str, before_us: int) -> tuple[DataFile, ...]:
        """The files all of whose rows have a timestamp before `before_us` in `column`, by their statistics."""
        field = self._schema.find_field(column)
        assert isinstance(field.field_type, PrimitiveType)
        files = [task.file for task in self._scan(p.EVERYTHING).plan_files()]
        bounds = [(file, (file.upper_bounds or {}).get(field.field_id)) for file in files]
        nulls = {file.file_path for file in files if (file.null_value_counts or {}).get(field.field_id, 1)}
        return tuple(
            file
            for file, bound in bounds
            if bound is not None
            and file.file_path not in nulls
            and int(from_bytes(field.field_type, bound)) < before_us
        )

    def may_be_null(self, column: str) -> bool:
        """Whether some row may have no value for a top-level column, by the files' statistics."""
        number = self._schema.find_field(column).field_id
        files = (task.file for task in self._scan(p.EVERYTHING).plan_files())
        return any(file.null_value_counts is None or file.null_value_counts.get(number, 1) for file in files)

    def iceberg(self) -> Table:
        """The pyiceberg table, for engines that read Iceberg themselves: at `snapshot_id`, without refreshing it."""
        return self._table

    def s3_access(self) -> Any:
        """For engines that read Iceberg themselves: an `s3_store.S3Access`; None where the files are elsewhere."""
        store = getattr(self._table.io, "store", None)
        return store.access() if store is not None else None

    @cached_property
    def _schema(self) -> Schema:
        if self._earlier and self._snapshot and self._snapshot.schema_id is not None:
            return self._table.schemas()[self._snapshot.schema_id]
        return self._table.schema()

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The table's columns in order."""
        schema = self._schema
        arrow = schema_to_pyarrow(schema, include_field_ids=True)
        return tuple(Column(column.field_id, field) for column, field in zip(schema.fields, arrow, strict=True))

    @property
    def schema(self) -> pa.Schema:
        """The columns as rows of the table are written: without ids, with 32-bit offsets."""
        return pa.schema([narrow(column.field) for column in self.columns]).remove_metadata()

    def plan(self, predicate: p.Predicate = p.EVERYTHING) -> ScanPlan:
        """The files that may hold rows for which `predicate` is true; raises OSError where manifests cannot be read."""
        with manifests_of(self.name, self._table, self._snapshot):
            return self._planned(self._scan(predicate).plan_files())

    def named(self, name: str) -> Pinned:
        """The same under another name."""
        return Pinned(name, self._table, self._snapshot if self._earlier else None)

    @property
    def properties(self) -> Mapping[str, str]:
        """The table's properties when it was pinned."""
        return self._table.properties

    @property
    def spec_id(self) -> int:
        """The partition spec that new files have."""
        return self._table.spec().spec_id

    @property
    def partitions(self) -> tuple[str, ...]:
        """The names of that spec's fields, in the order of a partition's values."""
        return tuple(field.name for field in self._table.spec().fields)

    def like(self, files: Sequence[DataFile], columns: Iterable[str]) -> p.Predicate:
        """What every row has in common with rows of `files`, by their statistics: the ranges of these columns."""
        fields = [self._schema.find_field(column) for column in columns]
        ranges = [values_range(field.name, field.field_type, field.field_id, files) for field in fields]
        return p.All(tuple(each for each in ranges if each is not None))

    def over(self, files: Iterable[DataFile]) -> ScanPlan:
        """A plan of data files that were written for this table, whether or not they are committed."""
        return self._planned(FileScanTask(file) for file in files)

    def _planned(self, tasks: Iterable[FileScanTask]) -> ScanPlan:
        return _plan(self._table, self._schema, self._layout, tasks)

    def _scan(self, predicate: p.Predicate) -> DataScan:
        scan = self._table.scan(expression(predicate), snapshot_id=self.snapshot_id if self._earlier else None)
        scan._manifest_planner = _Planner(scan.table_metadata, scan.io, scan.row_filter)
        return scan

    @cached_property
    def _layout(self) -> Layout:
        columns = _columns(self._schema)
        written = sanitize_column_names(self._schema)
        distinct = len({column.name.casefold() for column in written.fields}) == len(columns)
        if distinct and all(_columns(schema) == columns for schema in self._table.metadata.schemas):
            return "alike"
        schemas = [*self._table.metadata.schemas, written]
        nested = _nested(self._schema)
        return "flat" if all(_nested(schema) == nested for schema in schemas) else "nested"


class _Empty(Pinned):
    """A table before its first commit, whatever was committed meanwhile."""

    def plan(self, predicate: p.Predicate = p.EVERYTHING) -> ScanPlan:
        return self._planned(())


class _Planner(ManifestGroupPlanner):
    """Plans without residual filters, for DuckDB filters rows itself.

    They cost most of the planning, and pyiceberg 0.12 fails on them where a partition value is null (`None < 'x'`).
    """

    def _build_residual_evaluator(self, spec_id: int) -> Callable[[DataFile], ResidualEvaluator]:
        everything = UnpartitionedResidualEvaluator(self.table_metadata.schema(), AlwaysTrue())
        return lambda _: everything


def _columns(schema: Schema) -> list[tuple[int, str, IcebergType]]:
    return [(column.field_id, column.name, column.field_type) for column in schema.fields]


def _nested(schema: Schema) -> dict[int, IcebergType]:
    return {column.field_id: column.field_type for column in schema.fields if not column.field_type.is_primitive}


def _path(location: str) -> str:
    return location.removeprefix("file://") if location.startswith("file:///") else location
