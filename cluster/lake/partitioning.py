"""Splits rows by a table's partition spec and sorts them. Pure functions on Arrow tables and an Iceberg spec.

Times are transformed as whole columns; bucket, truncate and identity once per distinct value. (pyiceberg's own
vectorised transforms need an extra native package.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import SortDirection, SortOrder
from pyiceberg.transforms import DayTransform, HourTransform, MonthTransform, YearTransform
from pyiceberg.typedef import Record
from pyiceberg.types import IntegerType, LongType, NestedField, StructType

_DAY_US = 86_400_000_000
_HOUR_US = 3_600_000_000
_LEAST: dict[type, int] = {IntegerType: -(2**31), LongType: -(2**63)}
_UNSET = -(2**63)  # stands for null among transformed times

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """The rows of one partition; sorted as they are taken, so that no more than is asked for is copied at a time."""

    key: Record  # Iceberg's internal value for each partition field
    num_rows: int
    _table: pa.Table
    _first: int  # where the part begins, in `_ranked` or, where that is None, in `_table`
    _ranked: pa.Array | None

    @property
    def rows(self) -> pa.Table:
        """All of them, in order."""
        return self.slice(0, self.num_rows)

    def slice(self, start: int, count: int) -> pa.Table:
        """At most `count` rows from `start` on, in order."""
        first, count = self._first + start, min(count, self.num_rows - start)
        if self._ranked is None:
            return self._table.slice(first, count)
        return self._table.take(self._ranked.slice(first, count))

    def groups(self, rows_max: int, bytes_max: int) -> Iterator[pa.Table]:
        """The rows in order, in pieces of at most about so much Arrow data: one row group each."""
        bytes_a_row = max(1, self._table.nbytes // max(1, self._table.num_rows))
        count = max(1, min(rows_max, bytes_max // bytes_a_row))
        return (self.slice(start, count) for start in range(0, self.num_rows, count))


def split(rows: pa.Table, schema: Schema, spec: PartitionSpec, order: SortOrder) -> Iterator[Part]:
    """The rows of each partition in the table's sort order; nulls last. `rows` has the columns of `schema`."""
    codes, keys = _partition_codes(rows, schema, spec)
    ranked = _ranking(rows, schema, order, codes if len(keys) > 1 else None)
    if ranked is not None:
        rows = rows.combine_chunks()  # as many pieces as there were batches would be gathered one by one
    if len(keys) == 1:
        yield Part(keys[0], rows.num_rows, rows, 0, ranked)
        return
    codes = codes[ranked.to_numpy()] if ranked is not None else codes
    starts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), rows.num_rows]
    for start, end in itertools.pairwise(starts):
        yield Part(keys[codes[start]], end - start, rows, start, ranked)


def _partition_codes(rows: pa.Table, schema: Schema, spec: PartitionSpec) -> tuple[Codes, list[Record]]:
    """For each row the index of its partition, and the partitions' keys."""
    codes: Codes = np.zeros(rows.num_rows, dtype=np.int64)
    keys: list[tuple[Any, ...]] = [()]
    for field in spec.fields:
        column = source_column(rows, schema, field.source_id)
        of_field, values = _distinct(column, field, schema)
        present, codes = np.unique(codes * len(values) + of_field, return_inverse=True)
        keys = [(*keys[code // len(values)], values[code % len(values)]) for code in present.tolist()]
    return codes, [Record(*key) for key in keys]


def _distinct(column: pa.Array, field: PartitionField, schema: Schema) -> tuple[Codes, list[Any]]:
    """For each row the index of its partition value, and these values."""
    for transform, whole in _TIMES.items():
        if isinstance(field.transform, transform):
            numbers, codes = np.unique(_filled(whole, column), return_inverse=True)
            return codes, [None if number == _UNSET else number for number in numbers.tolist()]
    encoded = column.dictionary_encode(null_encoding="encode")
    kind = schema.find_field(field.source_id).field_type
    apply, least = field.transform.transform(kind), _LEAST.get(type(kind))
    results = [apply(_internal(value)) for value in encoded.dictionary]
    if least is not None:  # `truncate` goes below the least number of the type, which no manifest can hold
        results = [result if result is None else max(result, least) for result in results]
    values = list(dict.fromkeys(results))
    at = {value: index for index, value in enumerate(values)}
    by_entry = np.array([at[result] for result in results], dtype=np.int64)
    return by_entry[encoded.indices.to_numpy()], values


def _internal(value: pa.Scalar) -> Any:
    """Iceberg's plain value: microseconds for a timestamp, days for a date."""
    if pa.types.is_timestamp(value.type) or pa.types.is_date(value.type):
        number = pa.int64() if pa.types.is_timestamp(value.type) else pa.int32()
        return value.cast(number).as_py()
    return value.as_py()


def _filled(whole: Callable[[pa.Array], Codes], column: pa.Array) -> Codes:
    if not column.null_count:
        return whole(column)
    epoch = pa.scalar(0, pa.int64() if column.type.bit_width == 64 else pa.int32()).cast(column.type)
    return np.where(column.is_null().to_numpy(zero_copy_only=False), _UNSET, whole(pc.fill_null(column, epoch)))


def _micros(column: pa.Array) -> Codes:
    """Microseconds since the epoch of a timestamp[us] or date column."""
    return column.cast(pa.timestamp("us", getattr(column.type, "tz", None))).cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]


def _months(column: pa.Array) -> Codes:
    return _micros(column).astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)


_TIMES: dict[type, Callable[[pa.Array], Codes]] = {
    YearTransform: lambda column: _months(column) // 12,
    MonthTransform: _months,
    DayTransform: lambda column: _micros(column) // _DAY_US,
    HourTransform: lambda column: _micros(column) // _HOUR_US,
}


def source_column(rows: pa.Table, schema: Schema, source_id: int) -> pa.Array:
    """The column with field id `source_id`, also out of nested structs, as one array."""
    path = _path(schema.fields, source_id)
    column = rows.column(path[0])
    for name in path[1:]:
        column = pc.struct_field(column, name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _path(fields: Iterable[NestedField], source_id: int) -> list[str]:
    """Names from the top down to the field (a name may hold dots); empty where it is not below `fields`."""
    for field in fields:
        if field.field_id == source_id:
            return [field.name]
        if isinstance(field.field_type, StructType) and (below := _path(field.field_type.fields, source_id)):
            return [field.name, *below]
    return []


def _ranking(rows: pa.Table, schema: Schema, order: SortOrder, codes: Codes | None) -> pa.Array | None:
    """Row indices in order of partition, then of the sort order; None where the rows are in order already."""
    by = {} if codes is None else {"p": (pa.array(codes), "ascending")}
    for index, field in enumerate(order.fields):
        direction = "descending" if field.direction == SortDirection.DESC else "ascending"
        by[f"s{index}"] = (source_column(rows, schema, field.source_id), direction)
    if not by or (len(by) == 1 and _ascending(*next(iter(by.values())))):
        return None
    table = pa.table({name: column for name, (column, _) in by.items()})
    ranked = pc.sort_indices(table, sort_keys=[(name, way) for name, (_, way) in by.items()])
    return ranked


def _ascending(column: pa.Array, direction: str) -> bool:
    """Whether a fixed-width column without nulls is in ascending order; cheap, and False where it cannot tell."""
    kind = column.type
    if direction != "ascending" or column.null_count or not (pa.types.is_temporal(kind) or pa.types.is_integer(kind)):
        return False
    if kind.bit_width not in (32, 64):
        return False
    numbers = column.view(pa.int64() if kind.bit_width == 64 else pa.int32()).to_numpy()
    return bool(np.all(numbers[1:] >= numbers[:-1]))
