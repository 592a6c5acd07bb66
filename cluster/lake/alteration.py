"""Gives columns of a table another type: every file is written anew, and one commit changes columns and files together.

Called through `Lake.retype`. A column of another type is another column to Iceberg, of the same name: its values come
from the old one by `cluster.events.retype`. Promise: readers see the table as it was or as it is then; a run that was
killed leaves files that no snapshot names, and is run again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table import Table
from pyiceberg.table.sorting import SortField, SortOrder
from pyiceberg.table.update import (
    AddPartitionSpecUpdate,
    AddSchemaUpdate,
    AddSortOrderUpdate,
    AssertCurrentSchemaId,
    SetCurrentSchemaUpdate,
    SetDefaultSortOrderUpdate,
    SetDefaultSpecUpdate,
    TableRequirement,
    TableUpdate,
    update_table_metadata,
)
from pyiceberg.types import IcebergType, ListType, MapType, NestedField, StructType

from eagleray.cluster.column_names import clash, column_key, sameness
from eagleray.cluster.errors import CommitFailed, ConfigError, FilesLost
from eagleray.cluster.events.retype import Rest, retype, with_rest
from eagleray.cluster.lake.column_changes import REWRITING, column_changes, type_name, widens
from eagleray.cluster.lake.file_schema import file_schema
from eagleray.cluster.lake.table_layout import SYSTEM_COLUMNS

EXTRA = "_extra"
SAMPLES_MAX = 5  # values that do not fit, in a message


@dataclass(frozen=True)
class Retyping:
    """Columns that a table has from then on, planned on those that it had under `base`, its schema's id."""

    base: int
    columns: Schema
    changed: tuple[str, ...]  # names of those that are written anew
    kept: Mapping[str, str]  # of these: the name under which the old column stays


@dataclass
class Unfitting:
    """Values that a new type cannot hold, by column: how many, and some."""

    counts: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[object]] = field(default_factory=dict)

    def add(self, column: str, rest: Rest) -> None:
        """Count those of one batch."""
        if rest:
            self.counts[column] = self.counts.get(column, 0) + len(rest)
            shown = self.samples.setdefault(column, [])
            shown += list(rest.values())[: SAMPLES_MAX - len(shown)]

    def __str__(self) -> str:
        """A clause for each column."""
        clauses = (
            f"{count:,} values of {column}, such as {', '.join(map(repr, self.samples[column]))}"
            for column, count in self.counts.items()
        )
        return "; ".join(clauses)


def plan_retyping(table: Table, wanted: Schema, kept: Mapping[str, str]) -> Retyping | None:
    """What gives `table` the types of `wanted`, columns by name; None where no file has to be written anew.

    Columns, and fields of structs, that `wanted` lacks stay. `kept`: by column, the name that the old one gets.
    Raises ConfigError for a name that the table has already.
    """
    asked = {column_key(one.name): one for one in wanted.fields}
    numbers = itertools.count(table.metadata.last_column_id + 1)
    fields, changed, old = [], [], []
    for one in table.schema().fields:
        new = asked.get(column_key(one.name))
        if new is None or all(change.verdict not in REWRITING for change in column_changes([one], [new])):
            fields.append(one)
            continue
        made = NestedField(-1, one.name, _united(one.field_type, new.field_type), one.required, new.doc)
        fields.append(assign_fresh_schema_ids(Schema(made), lambda: next(numbers)).fields[0])
        changed.append(one.name)
        old.append(one)
    if not changed:
        return None
    fields += [
        NestedField(one.field_id, kept[one.name], one.field_type, False, one.doc) for one in old if one.name in kept
    ]
    if twice := clash(one.name for one in fields):
        raise ConfigError(
            f"table {'.'.join(table.name())}", f"the columns {twice[0]!r} and {twice[1]!r} {sameness(*twice)}"
        )
    return Retyping(table.schema().schema_id, Schema(*fields), tuple(changed), kept)


def _united(old: IcebergType, new: IcebergType) -> IcebergType:
    """`new`, with what structs of `old` have besides, and as wide as `old` where that is the same but wider."""
    if isinstance(old, StructType) and isinstance(new, StructType):
        there = {column_key(one.name): one for one in old.fields}
        fields = [_inner(there.pop(column_key(one.name), None), one) for one in new.fields]
        return StructType(*fields, *there.values())
    if isinstance(old, ListType) and isinstance(new, ListType):
        return ListType(-1, _united(old.element_type, new.element_type), False)
    if isinstance(old, MapType) and isinstance(new, MapType):
        key, value = _united(old.key_type, new.key_type), _united(old.value_type, new.value_type)
        return MapType(-1, key, -1, value, False)
    return old if widens(new, old) else new


def _inner(old: NestedField | None, new: NestedField) -> NestedField:
    kind = new.field_type if old is None else _united(old.field_type, new.field_type)
    return NestedField(-1, new.name if old is None else old.name, kind, False, new.doc)


def altered(
    table: Table, plan: Retyping, *, current: bool = True
) -> tuple[Table, tuple[TableUpdate, ...], tuple[TableRequirement, ...]]:
    """The table as it will be, and what makes it so; raises CommitFailed where its columns changed since `plan`.

    Without `current` the new columns are known to the table and not yet its own: for a snapshot on a branch. Raises
    ConfigError where the new type of a column cannot partition the table as the old one did.
    """
    if table.schema().schema_id != plan.base:
        raise CommitFailed(f"{'.'.join(table.name())} has other columns since: plan again")
    columns = plan.columns.model_copy(update={"schema_id": max(table.schemas()) + 1})
    layout = (*_partitioned(table, plan), *_sorted(table, plan))
    if layout and not current:
        changed = ", ".join(plan.changed)
        problem = f"a type of {changed}, by which the table is laid out, cannot change in a result with checks"
        raise ConfigError(f"table {'.'.join(table.name())}", problem)
    known, own = AddSchemaUpdate(schema_=columns), SetCurrentSchemaUpdate(schema_id=-1)
    metadata = update_table_metadata(table.metadata, (known, own, *layout))
    future = Table(table.name(), metadata, table.metadata_location, table.io, table.catalog)
    updates = (known, own, *layout) if current else (known,)
    return future, updates, (AssertCurrentSchemaId(current_schema_id=plan.base),)


def _partitioned(table: Table, plan: Retyping) -> list[TableUpdate]:
    """The partition spec over the new columns, if one of these is in it."""
    numbers = itertools.count(table.metadata.last_partition_id + 1 if table.metadata.last_partition_id else 1000)
    fields, moved = [], False
    for one in table.spec().fields:
        source = _now(table, plan, one.source_id)
        if source.field_id != one.source_id:
            if not one.transform.can_transform(source.field_type):
                problem = f"the partition field {one.name} cannot be made of {type_name(source)}"
                raise ConfigError(
                    f"table {'.'.join(table.name())}: {source.name}", f"{problem}: take it out of partition_by"
                )
            one, moved = PartitionField(source.field_id, next(numbers), one.transform, one.name), True
        fields.append(one)
    if not moved:
        return []
    spec = PartitionSpec(*fields, spec_id=max(table.specs()) + 1)
    return [AddPartitionSpecUpdate(spec=spec), SetDefaultSpecUpdate(spec_id=-1)]


def _sorted(table: Table, plan: Retyping) -> list[TableUpdate]:
    order = table.sort_order()
    fields = [
        SortField(_now(table, plan, one.source_id).field_id, one.transform, one.direction, one.null_order)
        for one in order.fields
    ]
    if [one.source_id for one in fields] == [one.source_id for one in order.fields]:
        return []
    made = SortOrder(*fields, order_id=max(table.sort_orders()) + 1)
    return [AddSortOrderUpdate(sort_order=made), SetDefaultSortOrderUpdate(sort_order_id=-1)]


def _now(table: Table, plan: Retyping, source_id: int) -> NestedField:
    """The column that takes the place of the one with this id."""
    name = table.schema().find_column_name(source_id)
    assert name is not None
    return plan.columns.find_field(name)


def converted(
    batches: Iterator[pa.RecordBatch], present: Schema, plan: Retyping, unfitting: Unfitting
) -> Iterator[pa.RecordBatch]:
    """Rows of the table as it will be. What does not fit goes to `_extra` where there is one; all is counted."""
    source, target = file_schema(present), file_schema(plan.columns)
    for batch in batches:
        rests: dict[str, Rest] = {}
        columns = {old.name: batch.column(old.name) for old in source}
        kept = {name: columns[old] for old, name in plan.kept.items() if old in plan.changed}
        for name in plan.changed:
            made = retype(columns[name], source.field(name), target.field(name))
            columns[name], rests[name] = made.array, made.rest
            unfitting.add(name, made.rest)
        if has_extra(present):
            columns[EXTRA] = with_rest(columns[EXTRA], {n: rest for n, rest in rests.items() if n not in plan.kept})
        columns |= kept
        yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def has_extra(schema: Schema) -> bool:
    """Whether rows are events, which keep what their columns cannot hold."""
    return set(SYSTEM_COLUMNS.names) <= {one.name for one in schema.fields}


def check_columns(table: Table, files: Iterable[DataFile]) -> None:
    """Raise FilesLost for files that were written for columns of before: nobody would see their values."""
    if gone := set[int]().union(*(file.value_counts or () for file in files)) - table.schema().field_ids:
        raise FilesLost(f"{'.'.join(table.name())} no longer has the columns {sorted(gone)}: write their rows again")
