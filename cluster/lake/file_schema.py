"""Gives rows the exact shape of a table's Parquet files: column order, types, Iceberg field ids, file-safe names.

Names that Avro does not allow (`id.orig_h`) are written as Iceberg's own writers do (`id_x2Eorig_h`); readers go by
field id and see the real name. Pure functions on Arrow data.
"""

from __future__ import annotations

import pyarrow as pa
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import Schema, make_compatible_name


def file_schema(schema: Schema) -> pa.Schema:
    """The Arrow schema of a table, with field ids; of a file, where names are safe there (`sanitize_column_names`)."""
    return pa.schema([narrow(field) for field in schema_to_pyarrow(schema, include_field_ids=True)])


def narrow(field: pa.Field) -> pa.Field:
    """`field` with 32-bit offsets, as the events have them: a batch is far below 2 GiB, and widening would copy."""
    kind = field.type
    if pa.types.is_large_string(kind):
        kind = pa.string()
    elif pa.types.is_large_binary(kind):
        kind = pa.binary()
    elif pa.types.is_struct(kind):
        kind = pa.struct([narrow(child) for child in kind.fields])
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = pa.list_(narrow(kind.value_field))
    return field.with_type(kind)


def shape(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """`rows` with the columns of `schema`, each in one chunk; absent optional columns are null.

    Raises ValueError for a column that the table does not have and for one that it requires and `rows` has not.
    """
    by_name = {make_compatible_name(name): rows.column(index) for index, name in enumerate(rows.column_names)}
    if unknown := by_name.keys() - set(schema.names):
        raise ValueError(f"the table has no column {sorted(unknown)}")
    columns = [_column(by_name.get(field.name), field, rows.num_rows) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(column: pa.ChunkedArray | None, field: pa.Field, count: int) -> pa.Array:
    if column is None:
        if not field.nullable:
            raise ValueError(f"the table requires the column {field.name!r}")
        return pa.nulls(count, field.type)
    return _fit(column.combine_chunks(), field.type)


def _fit(array: pa.Array, target: pa.DataType) -> pa.Array:
    if array.type == target:
        return array
    if pa.types.is_struct(target) and pa.types.is_struct(array.type):
        return _fit_struct(array, target)
    if pa.types.is_list(target) and pa.types.is_list(array.type):
        if array.offset:
            array = pa.concat_arrays([array, array.slice(0, 0)])  # ListArray.from_arrays takes no slices
        mask = array.is_null() if array.null_count else None
        return pa.ListArray.from_arrays(array.offsets, _fit(array.values, target.value_type), type=target, mask=mask)
    return array.cast(target)


def _fit_struct(array: pa.StructArray, target: pa.StructType) -> pa.StructArray:
    names = [make_compatible_name(child.name) for child in array.type.fields]
    if unknown := set(names) - {child.name for child in target.fields}:
        raise ValueError(f"the table has no field {sorted(unknown)}")
    children = dict(zip(names, array.flatten(), strict=True))
    fitted = [
        _fit(children[child.name], child.type) if child.name in children else pa.nulls(len(array), child.type)
        for child in target.fields
    ]
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(fitted, fields=list(target.fields), mask=mask)
