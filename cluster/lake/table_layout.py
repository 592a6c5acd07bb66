"""How a stream's `events` table is laid out: `partition_by` and `sort_by` read from the configuration and checked.

Used when the configuration is loaded (so it imports nothing heavy) and by `cluster.lake.stream_tables`, which turns it
into Iceberg's partition spec and sort order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import pyarrow as pa

from eagleray.cluster.column_names import clash, column_key
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.windowing.definition import field_type

if TYPE_CHECKING:
    from eagleray.cluster.events.stream import Stream

TransformName = Literal["identity", "year", "month", "day", "hour", "bucket", "truncate"]
_CALL = re.compile(r"^(\w+)\s*\((.*)\)$", re.DOTALL)
_ORDER = re.compile(r"^(.*?)(?:\s+(asc|desc))?$", re.DOTALL | re.IGNORECASE)
_SIZED = ("bucket", "truncate")
T = TypeVar("T")

SYSTEM_COLUMNS = pa.schema(
    [
        pa.field("_ingested_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("_source", pa.string(), nullable=False),
        pa.field("_partition", pa.int32(), nullable=False),
        pa.field("_offset", pa.int64(), nullable=False),
        pa.field("_row", pa.int32(), nullable=False),
        pa.field("_extra", pa.string()),
    ]
)
"""What every `events` table has besides the columns of its stream's schema."""


@dataclass(frozen=True, slots=True)
class PartitionField:
    """One partition field: `transform` of the column at `path`; `size` is the count or width of bucket and truncate."""

    transform: TransformName
    path: FieldPath
    size: int | None = None

    @property
    def name(self) -> str:
        """The field's name in table metadata and file paths, such as `time_day`."""
        column = re.sub(r"\W", "_", self.path.column)
        if self.transform == "identity":
            return f"{column}_identity" if column != self.path.column else column
        return f"{column}_{self.transform}" + (f"_{self.size}" if self.size else "")


@dataclass(frozen=True, slots=True)
class SortField:
    """One sort column; nulls come last."""

    path: FieldPath
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Partition fields and sort order of a table, both possibly empty."""

    partition_by: tuple[PartitionField, ...] = ()
    sort_by: tuple[SortField, ...] = ()


def check_layout(where: str, stream: Stream) -> Layout:
    """The layout of the stream's `events` table; raises ConfigError at `where` (`…streams.NAME.lake`) and the key."""
    columns = pa.schema([*stream.events.arrow, *SYSTEM_COLUMNS])
    config = stream.config.lake
    return parse_layout(where, columns, config.partition_by, config.sort_by)


def parse_layout(where: str, columns: pa.Schema, partition_by: tuple[str, ...], sort_by: tuple[str, ...]) -> Layout:
    """The layout of a table with `columns`, named whatever their case; raises ConfigError at `where` and the key."""
    partitions = _each(f"{where}.partition_by", partition_by, lambda text: _partition(text, columns))
    if twice := clash([field.name for field in partitions]):
        raise ConfigError(f"{where}.partition_by", f"{twice[1]} is named twice")
    for field in partitions:
        for column in columns.names:
            # A partition field may be called what its column is, where it is that column.
            own = field.transform == "identity" and column == field.path.column
            if column_key(column) == column_key(field.name) and not own:
                problem = f"the partition field {field.name} and the column {column!r} would have one name"
                raise ConfigError(f"{where}.partition_by", problem)
    return Layout(partitions, _each(f"{where}.sort_by", sort_by, lambda text: _sort(text, columns)))


def _each(where: str, texts: tuple[str, ...], parse: Callable[[str], T]) -> tuple[T, ...]:
    try:
        return tuple(parse(text) for text in texts)
    except ValueError as error:
        raise ConfigError(where, str(error)) from None


def columns_named(partition_by: Iterable[str], sort_by: Iterable[str]) -> frozenset[str]:
    """The `column_key` of each column that a layout names; raises ValueError for what is no layout."""
    paths = [*(_read_partition(text).path for text in partition_by), *(_read_sort(text).path for text in sort_by)]
    return frozenset(column_key(path.names[0]) for path in paths)


def _partition(text: str, columns: pa.Schema) -> PartitionField:
    field = _read_partition(text)
    field = replace(field, path=_as_called(columns, field.path))
    found = field_type(columns, field.path)
    if not _ACCEPTS[field.transform](found):
        raise ValueError(f"{text!r}: {field.path.column} is {found}; expected {_EXPECTED[field.transform]}")
    return field


def _as_called(columns: pa.Schema, path: FieldPath) -> FieldPath:
    """`path` with the names that columns have, whatever its case; as it is from where there is no such column."""
    names: list[str] = []
    fields = list(columns)
    for name in path.names:
        known = {column_key(field.name): field for field in fields} | {field.name: field for field in fields}
        found = known.get(name) or known.get(column_key(name))
        if found is None:
            break
        names.append(found.name)
        fields = list(found.type.fields) if pa.types.is_struct(found.type) else []
    return FieldPath((*names, *path.names[len(names) :]))


def _read_partition(text: str) -> PartitionField:
    call = _CALL.match(text.strip())
    if call is None:
        return PartitionField("identity", FieldPath.parse(text.strip()))
    if call[1] not in get_args(TransformName):
        expected = "day(c), hour(c), month(c), year(c), bucket(n, c), truncate(n, c) or a column"
        raise ValueError(f"{text!r}: unknown transform {call[1]!r}; expected {expected}")
    return _transformed(text, call[1], call[2])  # type: ignore[arg-type]


def _transformed(text: str, transform: TransformName, arguments: str) -> PartitionField:
    if transform not in _SIZED:
        return PartitionField(transform, FieldPath.parse(arguments.strip()))
    number, comma, column = arguments.partition(",")
    if not comma or not number.strip().isdecimal() or not 0 < int(number) <= 1_000_000:
        raise ValueError(f"{text!r}: expected {transform}(n, column) with a whole number n above 0")
    return PartitionField(transform, FieldPath.parse(column.strip()), int(number))


def _sort(text: str, columns: pa.Schema) -> SortField:
    field = _read_sort(text)
    field = replace(field, path=_as_called(columns, field.path))
    found = field_type(columns, field.path)
    if pa.types.is_nested(found):
        raise ValueError(f"cannot sort by {field.path.column}, a {found}")
    return field


def _read_sort(text: str) -> SortField:
    order = _ORDER.match(text.strip())
    assert order is not None
    return SortField(FieldPath.parse(order[1]), (order[2] or "asc").lower() == "desc")


def _timed(found: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(found) or pa.types.is_date(found))


def _hashed(found: pa.DataType) -> bool:
    return bool(pa.types.is_integer(found) or pa.types.is_string(found) or pa.types.is_binary(found)) or _timed(found)


_ACCEPTS: Mapping[str, Callable[[pa.DataType], bool]] = {
    "identity": lambda found: _hashed(found) or bool(pa.types.is_boolean(found) or pa.types.is_decimal(found)),
    "year": _timed,
    "month": _timed,
    "day": _timed,
    "hour": pa.types.is_timestamp,
    "bucket": _hashed,
    "truncate": lambda found: pa.types.is_integer(found) or pa.types.is_string(found),
}
_TIMED = "a timestamp or a date (day(_ingested_at) always works)"
_EXPECTED = {
    "identity": "a string, integer, decimal, boolean, timestamp or date",
    **dict.fromkeys(("year", "month", "day"), _TIMED),
    "hour": "a timestamp (hour(_ingested_at) always works)",
    "bucket": "a string, integer, timestamp or date",
    "truncate": "a string or an integer",
}
