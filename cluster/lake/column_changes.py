"""What columns that are wanted mean for those of a table: the one place where names and types meet a table.

Used by `schema_evolution` for streams and jobs, by `eagleray check` beforehand and by `alteration`. Pure functions on
schemas. Iceberg widens int to long, float to double and a decimal's precision; whatever else a type becomes needs files
to be written anew, which `alteration` does. Where the new type takes every value of the old one, `up` has that done by
itself; else a command does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pyiceberg.types import (
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
)

from eagleray.cluster.column_names import column_key, sameness
from eagleray.cluster.events.field_path import FieldPath

JSON = "json"
"""The documentation of a string column that holds JSON text is `JSON`; so is, in lower case, its type to users."""

Verdict = Literal["added", "widened", "rewritten", "named", "retyped", "foreign"]
"""`added`, `widened`: tables can. `rewritten`: files must be written anew; the new type takes what the old one does.
`named`: another column is called so but for case or escapes. `retyped`: files must be written anew; values may not fit.
`foreign`: a column that every row must have is not there, so the table is of something else."""

APPLIED: frozenset[Verdict] = frozenset({"added", "widened"})
REWRITING: frozenset[Verdict] = frozenset({"rewritten", "retyped"})


@dataclass(frozen=True)
class ColumnChange:
    """One column, by its path; `was` and `now` are names where it is `named`, types otherwise, empty for none."""

    verdict: Verdict
    path: str
    was: str
    now: str

    @property
    def applied(self) -> bool:
        """Whether a table takes it as it is."""
        return self.verdict in APPLIED

    def __str__(self) -> str:
        """As a clause: what is, and what is wanted."""
        if self.verdict == "added":
            return f"column {self.path} ({self.now}) is added"
        if self.verdict == "widened":
            return f"column {self.path} is widened from {self.was} to {self.now}"
        if self.verdict == "rewritten":
            return f"column {self.path} is written anew, from {self.was} to {self.now}"
        if self.verdict == "named":
            return f"{self.path}: {self.now!r} and the table's column {self.was!r} {sameness(self.was, self.now)}"
        if self.verdict == "foreign":
            return f"the table has no column {self.path} ({self.now}), so it holds something else"
        return self.difference

    @property
    def difference(self) -> str:
        """Of a type, what the table has and what is wanted, whatever comes of it."""
        return f"column {self.path} is {self.was} in the table and {self.now} now"


def column_changes(present: Sequence[NestedField], wanted: Sequence[NestedField]) -> list[ColumnChange]:
    """What `wanted` asks of a table with the columns `present`; columns that are not wanted stay and are not named."""
    return list(_struct("", present, wanted))


def refusals(changes: Sequence[ColumnChange]) -> list[ColumnChange]:
    """Those that a table cannot take as it is."""
    return [change for change in changes if not change.applied]


def type_name(field: NestedField) -> str:
    """The type as users write it: Iceberg's name, or `json`."""
    return JSON if is_json(field) else str(field.field_type)


def is_json(field: NestedField) -> bool:
    """Whether the column holds JSON text."""
    return (field.doc or "").lower() == JSON


def _struct(place: str, present: Sequence[NestedField], wanted: Sequence[NestedField]) -> Iterator[ColumnChange]:
    there = {column_key(field.name): field for field in present}
    for field in wanted:
        found = there.get(column_key(field.name))
        path = place + FieldPath(((found or field).name,)).text
        if found is None:
            yield ColumnChange("foreign" if field.required and not place else "added", path, "", type_name(field))
        elif found.name != field.name:
            yield ColumnChange("named", path, found.name, field.name)
        else:
            yield from _field(path, found, field)


def _field(path: str, present: NestedField, wanted: NestedField) -> Iterator[ColumnChange]:
    old, new = present.field_type, wanted.field_type
    if is_json(present) != is_json(wanted):
        yield ColumnChange("retyped", path, type_name(present), type_name(wanted))
    elif isinstance(old, StructType) and isinstance(new, StructType):
        yield from _struct(f"{path}.", old.fields, new.fields)
    elif isinstance(old, ListType) and isinstance(new, ListType):
        yield from _field(f"{path}.element", old.element_field, new.element_field)
    elif isinstance(old, MapType) and isinstance(new, MapType):
        yield from _field(f"{path}.key", old.key_field, new.key_field)
        yield from _field(f"{path}.value", old.value_field, new.value_field)
    elif old != new and not widens(new, old):
        yield ColumnChange(_verdict(old, new), path, type_name(present), type_name(wanted))


def _verdict(old: IcebergType, new: IcebergType) -> Verdict:
    if widens(old, new):
        return "widened"
    return (
        "rewritten" if any(isinstance(old, narrow) and isinstance(new, wide) for narrow, wide in _TAKEN) else "retyped"
    )


_TAKEN: tuple[tuple[tuple[type[IcebergType], ...], type[IcebergType]], ...] = (
    ((IntegerType, LongType), DoubleType),  # `integer` becomes `number`
    ((DateType, TimestampType, TimestamptzType), StringType),  # a `format` is no longer asked for
)
"""Types whose values a schema takes that asks for less than before."""


def widens(old: IcebergType, new: IcebergType) -> bool:
    """Whether values of `old` are values of `new` as Iceberg's specification has it."""
    if isinstance(old, DecimalType) and isinstance(new, DecimalType):
        return old.scale == new.scale and old.precision < new.precision
    pairs = ((IntegerType, LongType), (FloatType, DoubleType))
    return any(isinstance(old, narrow) and isinstance(new, wide) for narrow, wide in pairs)
