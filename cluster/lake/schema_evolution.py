"""Creates tables and brings existing ones up to the configuration: columns, partition spec, sort order, properties.

Called once when the platform starts, before any worker runs. Every step is a commit of its own and finds nothing to do
the second time, so a start that was interrupted is completed by the next one. Columns are added and widened, nothing
else (`column_changes`): a column that left the schema stays in the table and is null from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationError,
)
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.sorting import NullOrder
from pyiceberg.transforms import IdentityTransform, parse_transform

from eagleray.cluster.column_names import schema_problem
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.lake.catalog import free_location
from eagleray.cluster.lake.column_changes import REWRITING, ColumnChange, column_changes, refusals
from eagleray.cluster.lake.damage import metadata_of
from eagleray.cluster.lake.file_schema import file_schema
from eagleray.cluster.lake.stream_tables import PROPERTIES, TableSpec
from eagleray.cluster.lake.table_layout import PartitionField


def ensure_table(
    catalog: Catalog,
    file: str,
    spec: TableSpec,
    said: Mapping[str, str] | None = None,
    known: Table | None = None,
) -> None:
    """Create or alter the table of `spec`; raises ConfigError, naming `file`, where its columns cannot change so.

    `said`: properties that it has besides. `known`: the table as it is now, where the caller has read it.
    """
    try:
        table = known or _load_or_create(catalog, spec, {**PROPERTIES, **(said or {})})
        ensure_columns(table, file, spec)
        _evolve_partitions(table, spec)
        _evolve_order(table, spec)
    except (ValueError, ValidationError) as error:
        raise ConfigError(f"{file}: {spec.where}", f"table {spec.name}: {error}") from error
    wanted = {**_properties(), **(said or {})}
    stale = {key: value for key, value in wanted.items() if table.properties.get(key) != value}
    if stale:
        table.transaction().set_properties(stale).commit_transaction()


def _properties() -> dict[str, str]:
    return {key: value for key, value in PROPERTIES.items() if key != "format-version"}


def _load_or_create(catalog: Catalog, spec: TableSpec, properties: Mapping[str, str]) -> Table:
    try:
        with metadata_of(spec.name):
            return catalog.load_table(spec.name)
    except NoSuchTableError:
        with suppress(NamespaceAlreadyExistsError):
            catalog.create_namespace_if_not_exists(spec.name.split(".")[0])
        with suppress(TableAlreadyExistsError):  # another process was quicker
            location = free_location(catalog, *spec.name.split("."))
            return catalog.create_table(spec.name, spec.columns, location, properties=dict(properties))
        return catalog.load_table(spec.name)


def ensure_columns(table: Table, file: str, spec: TableSpec) -> None:
    """Add and widen columns of `table`; raises ConfigError where one cannot change so."""
    change = planned_change(table, spec)
    change.check(file)
    if change.columns:
        with table.update_schema() as update:
            update.union_by_name(spec.columns)


def rename_columns(table: Table, renames: Mapping[FieldPath, str]) -> None:
    """Give columns other names; raises ConfigError for one that is not there, or a name that cannot be."""
    with _column_errors(table), table.update_schema() as update:
        for path, name in renames.items():
            update.rename_column(path.names, name)
        if problem := schema_problem(file_schema(update._apply())):
            raise ValueError(problem)


def drop_columns(table: Table, columns: Iterable[FieldPath]) -> None:
    """Take columns out of the table; raises ConfigError for one that is not there, or that it is laid out by."""
    layout = {field.source_id for field in table.spec().fields} | {one.source_id for one in table.sort_order().fields}
    with _column_errors(table), table.update_schema() as update:
        for path in columns:
            if table.schema().find_field(path.column).field_id in layout:
                raise ValueError(f"{path.text} is in partition_by or sort_by: take it out there first")
            update.delete_column(path.names)


@contextmanager
def _column_errors(table: Table) -> Iterator[None]:
    try:
        yield
    except (ValueError, ValidationError) as error:
        raise ConfigError(f"table {'.'.join(table.name())}", str(error)) from error


def iceberg_schema(columns: pa.Schema) -> Schema:
    """The columns as Iceberg has them, without field ids; raises UnsupportedPyArrowTypeException."""
    return Catalog._convert_schema_if_needed(columns, 2)


@dataclass(frozen=True)
class TableChange:
    """What a table is asked to become. `partitions`, `order`: what it has from then on, where that changes."""

    spec: TableSpec
    new: bool
    columns: tuple[ColumnChange, ...] = ()
    partitions: str | None = None
    order: str | None = None

    @property
    def rewritten(self) -> list[ColumnChange]:
        """Columns that `up` has written anew; a job's table changes types by its next result or by command."""
        return [one for one in self.columns if one.verdict == "rewritten" and self.spec.stream is not None]

    def check(self, file: str) -> None:
        """Raise ConfigError, naming `file` and what to do, where a column cannot change so."""
        if refused := [one for one in refusals(self.columns) if one not in self.rewritten]:
            clauses = "; ".join(
                f"{change.difference if change.verdict in REWRITING else change}: {self.advice(change)}"
                for change in refused
            )
            raise ConfigError(f"{file}: {self.spec.where}", f"table {self.spec.name}: {clauses}")

    def advice(self, change: ColumnChange) -> str:
        """What to do about a column that the table cannot take as it is."""
        table, stream = self.spec.name, self.spec.stream
        if change.verdict == "named":
            return (
                f"call it {change.was!r}, or run `eagleray table alter {table} --rename '{change.path}={change.now}'`"
            )
        if change.verdict == "foreign":
            return f"run `eagleray table rename {table} NAMESPACE.TABLE`, or `eagleray table drop {table}`"
        if stream is not None:
            return (
                f"run `eagleray table migrate {stream}`, which writes its tables anew,"
                " or give the new field another name"
            )
        return f"cast it to {change.was}, or run `eagleray table alter {table} --type '{change.path}={change.now}'`"


def planned_change(table: Table | None, spec: TableSpec) -> TableChange:
    """What `ensure_table` would change in `table`, None where there is none yet."""
    if table is None:
        return TableChange(spec, new=True)
    columns = tuple(column_changes(table.schema().fields, iceberg_schema(spec.columns).fields))
    partitions, order = _partition_texts(spec), _order_texts(spec)
    present = sorted(field.name for field in table.spec().fields)
    return TableChange(
        spec,
        new=False,
        columns=columns,
        partitions=None if present == sorted(partitions) else ", ".join(partitions.values()) or "nothing",
        order=None if _present_order(table) == order else ", ".join(map(_order_text, order)) or "nothing",
    )


def _partition_texts(spec: TableSpec) -> dict[str, str]:
    return {field.name: f"{transform_text(field)} of {field.path.text}" for field in spec.layout.partition_by}


def _order_texts(spec: TableSpec) -> list[tuple[str | None, bool]]:
    return [(field.path.column, field.descending) for field in spec.layout.sort_by]


def _order_text(field: tuple[str | None, bool]) -> str:
    return f"{field[0]} desc" if field[1] else str(field[0])


def _present_order(table: Table) -> list[tuple[str | None, bool]]:
    schema = table.schema()
    return [(schema.find_column_name(f.source_id), f.direction.value == "desc") for f in table.sort_order().fields]


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
    if _present_order(table) == _order_texts(spec):
        return
    with table.update_sort_order() as update:
        for field in spec.layout.sort_by:
            add = update.desc if field.descending else update.asc
            add(field.path.column, IdentityTransform(), NullOrder.NULLS_LAST)
