"""From a table at one snapshot to the files a query has to read: partition and statistics pruning by Iceberg's plan.

`cluster.lake.pin` makes `Pinned` tables, `jobs.sql` plans and reads them. Promise: a plan holds every row for which the
predicate may be true, whatever happens to the table meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    IsNull,
    LessThan,
    LessThanOrEqual,
    NotEqualTo,
    NotNull,
    Or,
    Reference,
)
from pyiceberg.expressions.visitors import ResidualEvaluator, UnpartitionedResidualEvaluator
from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema, sanitize_column_names
from pyiceberg.table import FileScanTask, ManifestGroupPlanner, Table
from pyiceberg.types import IcebergType

from cluster.lake import predicate as p

_COMPARE: Mapping[str, Callable[..., BooleanExpression]] = {
    "=": EqualTo,
    "!=": NotEqualTo,
    "<": LessThan,
    "<=": LessThanOrEqual,
    ">": GreaterThan,
    ">=": GreaterThanOrEqual,
}
_NULL: Mapping[bool, Callable[..., BooleanExpression]] = {False: IsNull, True: NotNull}
_IN: Callable[..., BooleanExpression] = In


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


@dataclass(frozen=True)
class ScanPlan:
    """What to read. `rows` and `bytes` are sums over `files`; `files` are paths or URIs, in a stable order."""

    files: tuple[str, ...]
    rows: int
    bytes: int
    local: bool  # Parquet files on a local disk, without deletes: any Parquet reader may read them, by field id
    flat: bool  # field ids of top-level columns suffice: the files have what is inside structs under the same names
    _table: Table = field(repr=False, compare=False)
    _tasks: tuple[FileScanTask, ...] = field(repr=False, compare=False)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The planned rows with these columns, through Iceberg's own reader: any FileIO, deletes, schema evolution."""
        schema = self._table.schema().select(*columns)
        scan = ArrowScan(self._table.metadata, self._table.io, schema, AlwaysTrue())
        yield from scan.to_record_batches(self._tasks)


class Pinned:
    """A table at the snapshot it had when it was pinned."""

    def __init__(self, name: str, table: Table) -> None:
        """`name` is `stream.table`; `table` is never refreshed."""
        self.name = name
        self._table = table

    @property
    def snapshot_id(self) -> int | None:
        """The pinned snapshot; None where nothing was ever committed."""
        snapshot = self._table.current_snapshot()
        return snapshot.snapshot_id if snapshot else None

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The table's columns in order."""
        schema = self._table.schema()
        arrow = schema_to_pyarrow(schema, include_field_ids=True)
        return tuple(Column(column.field_id, field) for column, field in zip(schema.fields, arrow, strict=True))

    def plan(self, predicate: p.Predicate = p.EVERYTHING) -> ScanPlan:
        """The files that may hold rows for which `predicate` is true; raises OSError where manifests cannot be read."""
        scan = self._table.scan(_expression(predicate))
        scan._manifest_planner = _Planner(scan.table_metadata, scan.io, scan.row_filter)
        tasks = sorted(scan.plan_files(), key=lambda task: task.file.file_path)
        files = tuple(_path(task.file.file_path) for task in tasks)
        return ScanPlan(
            files=files,
            rows=sum(task.file.record_count for task in tasks),
            bytes=sum(task.file.file_size_in_bytes for task in tasks),
            local=all("://" not in file for file in files) and not any(task.delete_files for task in tasks),
            flat=self._flat,
            _table=self._table,
            _tasks=tuple(tasks),
        )

    @cached_property
    def _flat(self) -> bool:
        """Whether nested columns have always been as they are now, and have names that files can have."""
        now = _nested(self._table.schema())
        schemas = [*self._table.metadata.schemas, sanitize_column_names(self._table.schema())]
        return all(_nested(schema) == now for schema in schemas)


class _Planner(ManifestGroupPlanner):
    """Plans without residual filters, for DuckDB filters rows itself.

    They cost most of the planning, and pyiceberg 0.12 fails on them where a partition value is null (`None < 'x'`).
    """

    def _build_residual_evaluator(self, spec_id: int) -> Callable[[DataFile], ResidualEvaluator]:
        everything = UnpartitionedResidualEvaluator(self.table_metadata.schema(), AlwaysTrue())
        return lambda _: everything


def _nested(schema: Schema) -> dict[int, IcebergType]:
    return {column.field_id: column.field_type for column in schema.fields if not column.field_type.is_primitive}


def _path(location: str) -> str:
    return location.removeprefix("file://") if location.startswith("file:///") else location


def _expression(predicate: p.Predicate) -> BooleanExpression:
    match predicate:
        case p.Compare(column, op, value):
            return _COMPARE[op](Reference(column), value)
        case p.IsNull(column, negated):
            return _NULL[negated](Reference(column))
        case p.In(column, values):
            return _IN(Reference(column), values)
        case p.All(parts):
            return _joined(And, parts)
        case p.Any(parts):
            return _joined(Or, parts)


def _joined(how: type[And] | type[Or], parts: tuple[p.Predicate, ...]) -> BooleanExpression:
    expressions = [_expression(part) for part in parts]
    return how(*expressions) if len(expressions) > 1 else expressions[0] if expressions else AlwaysTrue()
