"""Types of columns as users write them on the command line: Iceberg's names, and SQL's for those that differ."""

from __future__ import annotations

import pyarrow as pa
from pydantic import ValidationError
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import Schema
from pyiceberg.types import IcebergType, NestedField, StringType

from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.lake.column_changes import JSON
from eagleray.cluster.lake.file_schema import narrow
from eagleray.cluster.near_names import instead

_SQL = {
    "bigint": "long",
    "integer": "int",
    "varchar": "string",
    "text": "string",
    "real": "float",
    "bool": "boolean",
    "timestamp with time zone": "timestamptz",
    "blob": "binary",
}
_EXPECTED = "int, long, float, double, decimal(p, s), string, json, boolean, date, timestamp, timestamptz or binary"


def parse_type(text: str) -> tuple[pa.DataType, bool]:
    """The Arrow type of `text`, and whether it is JSON text; raises ValueError that says what was expected."""
    name = _SQL.get(text.strip().lower(), text.strip().lower())
    try:
        kind = StringType() if name == JSON else IcebergType.model_validate(name)
    except (ValueError, ValidationError):
        raise ValueError(f"{text!r} is no type of a column; expected {_EXPECTED}") from None
    if not kind.is_primitive:
        raise ValueError(f"{text!r} is no type of one value; expected {_EXPECTED}")
    made = schema_to_pyarrow(Schema(NestedField(1, "c", kind, False)), include_field_ids=False)
    return narrow(made.field(0)).type, name == JSON


def with_type(columns: pa.Schema, path: FieldPath, text: str) -> pa.Schema:
    """`columns` with the type `text` at `path`; raises ValueError for a path or a type that is none."""
    kind, json = parse_type(text)
    fields = list(columns)
    at = _index(fields, path.names[0], path)
    fields[at] = _replaced(fields[at], path.names[1:], path, kind, json)
    return pa.schema(fields)


def _replaced(field: pa.Field, names: tuple[str, ...], path: FieldPath, kind: pa.DataType, json: bool) -> pa.Field:
    if not names:
        return pa.field(field.name, kind, metadata={"doc": "JSON"} if json else None)
    if pa.types.is_struct(field.type):
        below = list(field.type.fields)
        at = _index(below, names[0], path)
        below[at] = _replaced(below[at], names[1:], path, kind, json)
        return pa.field(field.name, pa.struct(below))
    if pa.types.is_list(field.type) and names[0] == "element":
        return pa.field(field.name, pa.list_(_replaced(field.type.value_field, names[1:], path, kind, json)))
    raise ValueError(f"{path.text}: there is nothing of this name in the {field.type} {field.name}")


def _index(fields: list[pa.Field], name: str, path: FieldPath) -> int:
    for at, field in enumerate(fields):
        if field.name == name:
            return at
    raise ValueError(f"{path.text}: there is no {name!r}{instead(name, (field.name for field in fields))}")
