"""Finds NaN in the floating-point columns of rows that become a file. Used by `cluster.lake.parquet_files`.

Columns inside structs count like others; those inside lists and maps have no least and greatest value in any file, for
no reader goes by these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class FloatColumn:
    """A floating-point column: its path in a Parquet file, and the names from the top down to it.

    `names` None: it is inside a list or map.
    """

    path: str
    names: tuple[str, ...] | None


def float_columns(schema: pa.Schema) -> tuple[FloatColumn, ...]:
    """Every floating-point column of files with `schema`."""
    return tuple(found for field in schema for found in _within(field, (), (field.name,)))


def _within(field: pa.Field, path: tuple[str, ...], names: tuple[str, ...] | None) -> Iterator[FloatColumn]:
    kind, path = field.type, (*path, field.name)
    if pa.types.is_floating(kind):
        yield FloatColumn(".".join(path), names)
    elif pa.types.is_struct(kind):
        for child in kind.fields:
            yield from _within(child, path, None if names is None else (*names, child.name))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _within(kind.value_field.with_name("element"), (*path, "list"), None)
    elif pa.types.is_map(kind):
        for child, name in ((kind.key_field, "key"), (kind.item_field, "value")):
            yield from _within(child.with_name(name), (*path, "key_value"), None)


def count_nan(rows: pa.Table, column: FloatColumn) -> int:
    """How many values are NaN."""
    return int(pc.sum(pc.is_nan(_values(rows, column))).as_py() or 0)


def count_null(rows: pa.Table, column: FloatColumn) -> int:
    """How many rows have no value, also because a struct around it is null."""
    return int(_values(rows, column).null_count)


def _values(rows: pa.Table, column: FloatColumn) -> pa.ChunkedArray:
    assert column.names is not None
    found = rows.column(column.names[0])
    for name in column.names[1:]:
        found = pc.struct_field(found, name)
    return found
