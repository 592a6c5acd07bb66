"""Creates tables and brings existing ones up to the configuration: columns, partition spec, sort order, properties.

Called once when the platform starts, before any worker runs. Every step is a commit of its own and finds nothing to do
the second time, so a start that was interrupted is completed by the next one. Columns are only ever added: a column
that left the schema stays in the table and is null from then on.
"""

from __future__ import annotations

from contextlib import suppress

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationError,
)
from pyiceberg.table import Table
from pyiceberg.table.sorting import NullOrder
from pyiceberg.transforms import IdentityTransform, parse_transform

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.stream_tables import PROPERTIES, TableSpec
from eagleray.cluster.lake.table_layout import PartitionField


def ensure_table(catalog: Catalog, file: str, spec: TableSpec) -> None:
    """Create or alter the table of `spec`; raises ConfigError, naming `file`, where its columns cannot change so."""
    with suppress(NamespaceAlreadyExistsError):
        catalog.create_namespace_if_not_exists(spec.name.split(".")[0])
    try:
        table = _load_or_create(catalog, spec)
        _evolve_columns(table, spec)
    except (ValueError, ValidationError) as error:
        raise ConfigError(f"{file}: {spec.where}", f"table {spec.name}: {error}") from error
    _evolve_partitions(table, spec)
    _evolve_order(table, spec)
    stale = {key: value for key, value in _properties().items() if table.properties.get(key) != value}
    if stale:
        table.transaction().set_properties(stale).commit_transaction()


def _properties() -> dict[str, str]:
    return {key: value for key, value in PROPERTIES.items() if key != "format-version"}


def _load_or_create(catalog: Catalog, spec: TableSpec) -> Table:
    try:
        return catalog.load_table(spec.name)
    except NoSuchTableError:
        with suppress(TableAlreadyExistsError):  # another process was quicker
            return catalog.create_table(spec.name, spec.columns, properties=PROPERTIES)
        return catalog.load_table(spec.name)


def _evolve_columns(table: Table, spec: TableSpec) -> None:
    with table.update_schema() as update:
        update.union_by_name(spec.columns)


def _evolve_partitions(table: Table, spec: TableSpec) -> None:
    wanted = {field.name: field for field in spec.layout.partition_by}
    present = [field.name for field in table.spec().fields]
    if sorted(present) == sorted(wanted):
        return
    with table.update_spec() as update:
        for name in present:
            if name not in wanted:
                update.remove_field(name)
        for name, field in wanted.items():
            if name not in present:
                update.add_field(field.path.column, parse_transform(transform_text(field)), name)


def transform_text(field: PartitionField) -> str:
    """The transform as Iceberg writes it, such as `bucket[16]`."""
    return f"{field.transform}[{field.size}]" if field.size else field.transform


def _evolve_order(table: Table, spec: TableSpec) -> None:
    columns = [(field.path.column, field.descending) for field in spec.layout.sort_by]
    schema = table.schema()
    present = [(schema.find_column_name(f.source_id), f.direction.value == "desc") for f in table.sort_order().fields]
    if present == columns:
        return
    with table.update_sort_order() as update:
        for column, descending in columns:
            add = update.desc if descending else update.asc
            add(column, IdentityTransform(), NullOrder.NULLS_LAST)
