"""Arrow types of shapes. Called by `schema` for the stream's columns and by `columns` when they are built."""

from __future__ import annotations

import pyarrow as pa

from eagleray.cluster.events.instants import INSTANT
from eagleray.cluster.events.shape import Shape

JSON_METADATA = {b"json": b"1"}
"""Marks a string field that holds JSON text."""

_TYPES: dict[str, pa.DataType] = {
    "text": pa.string(),
    "instant": INSTANT,
    "day": pa.date32(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "json": pa.string(),
}


def arrow_type(shape: Shape) -> pa.DataType:
    """The type of a column of this shape."""
    if shape.item is not None:
        return pa.list_(arrow_field("item", shape.item))
    if shape.kind == "struct":
        return pa.struct([arrow_field(member.name, member.shape) for member in shape.members])
    return _TYPES[shape.kind]


def arrow_field(name: str, shape: Shape) -> pa.Field:
    """The field of a value of this shape; all fields are nullable, so that a schema may grow."""
    return pa.field(name, arrow_type(shape), metadata=JSON_METADATA if shape.kind == "json" else None)


def arrow_schema(shape: Shape) -> pa.Schema:
    """One column per property of an event."""
    return pa.schema([arrow_field(member.name, member.shape) for member in shape.members])
