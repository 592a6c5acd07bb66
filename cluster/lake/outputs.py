"""The tables that jobs write: made from the schema of a result, and widened when a later result has more columns.

Called by `Lake.ensure_output`. Iceberg has fewer types than Arrow: small and unsigned integers become the next larger
signed ones, times are to the microsecond and in UTC. Columns are optional, and only ever added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.types as pt
from pyiceberg.catalog import Catalog
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.table import Table

from cluster.errors import ConfigError
from cluster.lake.evolve import ensure_table, transform_text
from cluster.lake.layout import parse_layout
from cluster.lake.shape import narrow
from cluster.lake.tables import TableSpec

Load = Callable[[str], Table | None]

_WIDER: Mapping[pa.DataType, pa.DataType] = {
    pa.int8(): pa.int32(),
    pa.int16(): pa.int32(),
    pa.uint8(): pa.int32(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.date64(): pa.date32(),
    pa.time32("s"): pa.time64("us"),
    pa.time32("ms"): pa.time64("us"),
    pa.time64("ns"): pa.time64("us"),
}
_KEPT = (
    pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary(), pa.date32(),
    pa.time64("us"),
)  # fmt: skip


def ensure_output(
    catalog: Catalog,
    load: Load,
    file: str,
    name: str,
    schema: pa.Schema,
    partition_by: tuple[str, ...],
    sort_by: tuple[str, ...],
) -> None:
    """Create or widen the table `name` so that rows of `schema` fit; raises ConfigError where they cannot."""
    where = f"table {name}"
    columns = storable(f"{file}: {where}", schema)
    spec = TableSpec(name, columns, "a job's output", parse_layout(f"{file}: {where}", columns, partition_by, sort_by))
    table = load(name)
    if table is None or not _fits(table, spec):
        ensure_table(catalog, file, spec)


def storable(where: str, schema: pa.Schema) -> pa.Schema:
    """The columns that a table has for rows of `schema`, all optional; raises ConfigError for a type it cannot have."""
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise ConfigError(where, f"two columns are called {twice[0]!r}; give one of them another name (AS)")
    fields = []
    for column in schema:
        try:
            fields.append(pa.field(column.name, _storable(column.type), nullable=True))
        except ValueError as error:
            raise ConfigError(where, f"the column {column.name!r} {error}") from None
    return pa.schema(fields)


def _storable(kind: pa.DataType) -> pa.DataType:
    if kind in _KEPT or pt.is_decimal128(kind):
        return kind
    if kind in _WIDER:
        return _WIDER[kind]
    if pt.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pt.is_dictionary(kind):
        return _storable(kind.value_type)
    if pt.is_struct(kind):
        return pa.struct([pa.field(child.name, _storable(child.type)) for child in kind.fields])
    if pt.is_map(kind):
        return pa.map_(_storable(kind.key_type), _storable(kind.item_type))
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return pa.list_(_storable(kind.value_type))
    if pt.is_null(kind):
        raise ValueError("is null in every row and has no type; cast it, for example to VARCHAR")
    raise ValueError(f"has the type {kind}, which a table cannot hold; cast it, for example to VARCHAR")


def _fits(table: Table, spec: TableSpec) -> bool:
    """Whether nothing is to be done: the cheap look at a table that is as it should be, as nearly always."""
    there = {column.name: narrow(column).type for column in schema_to_pyarrow(table.schema(), include_field_ids=False)}
    if any(there.get(column.name) != column.type for column in spec.columns):
        return False
    schema = table.schema()
    partitions = [
        (field.name, str(field.transform), schema.find_column_name(field.source_id)) for field in table.spec().fields
    ]
    order = [(schema.find_column_name(f.source_id), f.direction.value == "desc") for f in table.sort_order().fields]
    return partitions == [
        (field.name, transform_text(field), field.path.column) for field in spec.layout.partition_by
    ] and order == [(field.path.column, field.descending) for field in spec.layout.sort_by]
