"""The tables that jobs write: made from the schema of a result, and widened when a later result has more columns.

Called by `Lake.ensure_output`. Columns are optional, and only ever added; an integer may become a larger one.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException, schema_to_pyarrow
from pyiceberg.table import Table

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.file_schema import narrow
from eagleray.cluster.lake.schema_evolution import ensure_table, transform_text
from eagleray.cluster.lake.stream_tables import TableSpec
from eagleray.cluster.lake.table_layout import parse_layout


def ensure_output(
    catalog: Catalog,
    find: Callable[[str], Table | None],
    file: str,
    name: str,
    schema: pa.Schema,
    partition_by: tuple[str, ...],
    sort_by: tuple[str, ...],
) -> None:
    """Create or widen the table `name` so that rows of `schema` fit; raises ConfigError, naming `file`, otherwise."""
    columns = pa.schema([column.with_nullable(True) for column in schema])
    layout = parse_layout(f"{file}: table {name}", columns, partition_by, sort_by)
    spec = TableSpec(name, columns, "a job's output", layout)
    table = find(name)
    if table is not None and _fits(table, spec):
        return
    try:
        ensure_table(catalog, file, spec)
    except UnsupportedPyArrowTypeException as error:
        raise ConfigError(f"{file}: table {name}", f"{error}; cast it, for example to VARCHAR") from None


def _fits(table: Table, spec: TableSpec) -> bool:
    """Whether nothing is to be done: the cheap look at a table that is as it should be, as nearly always."""
    schema, layout = table.schema(), spec.layout
    there = {column.name: narrow(column).type for column in schema_to_pyarrow(schema, include_field_ids=False)}
    if any(there.get(column.name) != column.type for column in spec.columns):
        return False
    partitions = [(f.name, str(f.transform), schema.find_column_name(f.source_id)) for f in table.spec().fields]
    order = [(schema.find_column_name(f.source_id), f.direction.value == "desc") for f in table.sort_order().fields]
    wanted = [(f.name, transform_text(f), f.path.column) for f in layout.partition_by]
    return sorted(partitions) == sorted(wanted) and order == [(f.path.column, f.descending) for f in layout.sort_by]
