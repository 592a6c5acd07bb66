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
from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
from pyiceberg.table import FileScanTask, Table

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
    """A top-level column: its Iceberg field id, which files go by, its present name and Arrow type."""

    id: int
    name: str
    type: pa.DataType


@dataclass(frozen=True)
class ScanPlan:
    """What to read. `rows` and `bytes` are sums over `files`; `files` are paths or URIs, in a stable order."""

    files: tuple[str, ...]
    rows: int
    bytes: int
    direct: bool  # local files without deletes, nested columns as ever: any Parquet reader may map them by field id
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
        arrow = schema_to_pyarrow(schema, include_field_ids=False)
        return tuple(Column(f.field_id, f.name, a.type) for f, a in zip(schema.fields, arrow, strict=True))

    def plan(self, predicate: p.Predicate = p.EVERYTHING) -> ScanPlan:
        """The files that may hold rows for which `predicate` is true; raises OSError where manifests cannot be read."""
        tasks = sorted(self._table.scan(_expression(predicate)).plan_files(), key=lambda task: task.file.file_path)
        files = tuple(_path(task.file.file_path) for task in tasks)
        return ScanPlan(
            files=files,
            rows=sum(task.file.record_count for task in tasks),
            bytes=sum(task.file.file_size_in_bytes for task in tasks),
            direct=all("://" not in file for file in files)
            and not any(task.delete_files for task in tasks)
            and self._nested_as_ever(),
            _table=self._table,
            _tasks=tuple(tasks),
        )

    def _nested_as_ever(self) -> bool:
        """Whether every nested column has had its present shape in every schema of the table so far."""
        nested = {f.field_id: f.field_type for f in self._table.schema().fields if not f.field_type.is_primitive}
        return all(
            f.field_id not in nested or f.field_type == nested[f.field_id]
            for schema in self._table.metadata.schemas
            for f in schema.fields
        )


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
