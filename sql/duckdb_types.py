"""Arrow types as DuckDB writes them, for tables that are declared before any file is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.types as pt

from eagleray.sql.engine import identifier

_SIMPLE: Mapping[pa.DataType, str] = {
    pa.bool_(): "BOOLEAN",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.large_string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.large_binary(): "BLOB",
    pa.date32(): "DATE",
    pa.time64("us"): "TIME",
    pa.timestamp("us"): "TIMESTAMP",
    pa.timestamp("us", "UTC"): "TIMESTAMP WITH TIME ZONE",
    pa.timestamp("ns"): "TIMESTAMP_NS",
}
_NESTED: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], str]], ...] = (
    (pt.is_fixed_size_binary, lambda kind: "BLOB"),
    (pt.is_decimal, lambda kind: f"DECIMAL({kind.precision},{kind.scale})"),
    (
        pt.is_struct,
        lambda kind: f"STRUCT({', '.join(f'{identifier(f.name)} {sql_type(f.type)}' for f in kind.fields)})",
    ),
    (pt.is_map, lambda kind: f"MAP({sql_type(kind.key_type)}, {sql_type(kind.item_type)})"),
    (lambda kind: pt.is_list(kind) or pt.is_large_list(kind), lambda kind: f"{sql_type(kind.value_type)}[]"),
)


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of `kind`; raises ValueError for a type that no Iceberg table has."""
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    for matches, write in _NESTED:
        if matches(kind):
            return write(kind)
    raise ValueError(f"no SQL type for {kind}")
