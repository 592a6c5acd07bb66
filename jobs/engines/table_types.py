"""The types that tables have: what engines hand out beyond these becomes the nearest of them, or is refused by name.

So every engine's result has the same shape, and a table does not change with the engine of its job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.types as pt

from eagleray.cluster.column_names import schema_problem
from eagleray.cluster.errors import QueryRejected

_SMALL = frozenset({pa.int8(), pa.int16(), pa.uint8(), pa.uint16()})
_LARGE = frozenset({pa.uint32(), pa.uint64()})
_SAME = frozenset(
    {pa.null(), pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary(), pa.date32()}
)


def shaped(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """The rows in the types of tables; raises QueryRejected for a column that fits none, and for a name used twice."""
    return fitted(reader, table_schema(reader.schema))


def fitted(reader: pa.RecordBatchReader, schema: pa.Schema) -> pa.RecordBatchReader:
    """The rows with the types of `schema`, column by column; a value that does not fit is a QueryRejected."""
    if schema.equals(reader.schema, check_metadata=True):
        return reader
    return pa.RecordBatchReader.from_batches(schema, _cast(reader, schema))


def table_schema(schema: pa.Schema) -> pa.Schema:
    """`schema` as a table has it: no metadata, and every column may be null."""
    if problem := schema_problem(schema):
        raise QueryRejected(f"the result cannot be a table: {problem}; name it with AS")
    return pa.schema([pa.field(field.name, _kind(field.type, field.name)) for field in schema])


def conformed(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The rows with the columns of `schema`, by name; one that is not there is null. Raises QueryRejected as `fitted`.

    Raises it also for a column that `schema` lacks.
    """
    if unknown := sorted(set(rows.schema.names) - set(schema.names)):
        raise QueryRejected(f"the result has a column {unknown[0]!r}; expected {', '.join(schema.names)}")
    there = set(rows.schema.names)
    columns = [
        _fit_named(rows.column(field.name), field) if field.name in there else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(reader: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        columns = [_fit_named(column, field) for column, field in zip(batch.columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _fit_named(column: pa.Array, field: pa.Field) -> pa.Array:
    try:
        return _fit(column, field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise QueryRejected(f"the column {field.name}: {error}") from None


def has_unknown(kind: pa.DataType) -> bool:
    """Whether a type, or one inside it, is null: nothing has told it yet."""
    return pt.is_null(kind) or any(has_unknown(kind.field(index).type) for index in range(kind.num_fields))


def _fit(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    if column.null_count == len(column):
        return pa.nulls(len(column), kind)
    if pt.is_null(kind):
        raise pa.ArrowInvalid("it has values, and no type was expected")
    if isinstance(column, pa.ExtensionArray):
        if column.type.extension_name == "arrow.uuid":
            return pa.array([None if value is None else str(value) for value in column.to_pylist()], kind)
        column = column.storage
    if pt.is_integer(column.type) and pt.is_decimal(kind):
        column = column.cast(pa.decimal128(38, kind.scale))  # Arrow asks for room for every integer of the type
    # Finer times are cut, as those of events are (docs/adr/0006-times-to-the-microsecond.md).
    return column.cast(kind, safe=not _finer(column.type))


def _finer(kind: pa.DataType) -> bool:
    return bool(pt.is_timestamp(kind) or pt.is_time64(kind)) and kind.unit == "ns"


def _kind(kind: pa.DataType, name: str) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name in _MEANT:
            return _MEANT[kind.extension_name]
        if kind.extension_name == "pandas.period":  # numbers of periods since 1970, which would stand for nothing
            raise QueryRejected(
                f"the column {name} holds periods, which no table can hold; cast it: .dt.to_timestamp()"
            )
        kind = kind.storage_type
    if kind in _SAME:
        return kind
    for matches, make in _MAKE:
        if matches(kind):
            return make(kind, name)
    raise QueryRejected(f"the column {name} is {kind}, which no table can hold; cast it")


def _decimal(kind: pa.DataType, name: str) -> pa.DataType:
    if kind.precision > 38 or kind.scale < 0:
        raise QueryRejected(f"the column {name} is {kind}; tables hold up to decimal(38, s): cast it")
    return pa.decimal128(kind.precision, kind.scale)


def _struct(kind: pa.DataType, name: str) -> pa.DataType:
    return pa.struct([pa.field(child.name, _kind(child.type, f"{name}.{child.name}")) for child in kind.fields])


def _map(kind: pa.DataType, name: str) -> pa.DataType:
    return pa.map_(_kind(kind.key_type, name), _kind(kind.item_type, name))


_MEANT = {"arrow.uuid": pa.string(), "arrow.bool8": pa.bool_()}
"""Extension types that tables have under another type than that of their storage."""

_MAKE: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType, str], pa.DataType]], ...] = (
    (lambda kind: kind in _SMALL, lambda *_: pa.int32()),
    (lambda kind: kind in _LARGE, lambda *_: pa.int64()),
    (pt.is_float16, lambda *_: pa.float32()),
    (lambda kind: pt.is_large_string(kind) or pt.is_string_view(kind), lambda *_: pa.string()),
    (lambda kind: pt.is_large_binary(kind) or pt.is_binary_view(kind), lambda *_: pa.binary()),
    (pt.is_fixed_size_binary, lambda *_: pa.binary()),
    (pt.is_date64, lambda *_: pa.date32()),
    (pt.is_time, lambda *_: pa.time64("us")),
    (pt.is_timestamp, lambda kind, _: pa.timestamp("us", "UTC" if kind.tz else None)),
    (pt.is_decimal, _decimal),
    (pt.is_dictionary, lambda kind, name: _kind(kind.value_type, name)),
    (pt.is_struct, _struct),
    (pt.is_map, _map),
    (
        lambda kind: pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind) or pt.is_list_view(kind),
        lambda kind, name: pa.list_(_kind(kind.value_type, name)),
    ),
)
