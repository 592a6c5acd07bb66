"""What a table's metadata says at a glance: columns, comment, present snapshot. Nothing of its files.

Used by `cluster.lake.pin` where all tables of a lake are looked at: opening one whole costs some milliseconds, most of
them for its list of snapshots, and a glance a tenth of that.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import msgspec
import pyarrow as pa
from pyiceberg.io import load_file_io
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import Schema
from pyiceberg.table import Table

COMMENT = "comment"
"""The table property that other engines write a table's comment to."""


@dataclass(frozen=True)
class Field:
    """A column: its name, Arrow type, whether it may be null, and its comment."""

    name: str
    type: pa.DataType
    nullable: bool
    comment: str


@dataclass(frozen=True)
class Glance:
    """A table at one instant. `snapshot` is None where nothing was ever committed."""

    fields: tuple[Field, ...]
    snapshot: int | None
    comment: str


class _Metadata(msgspec.Struct, rename="kebab"):
    current_schema_id: int = 0
    schemas: list[msgspec.Raw] = []
    current_snapshot_id: int | None = None
    properties: dict[str, str] = {}


class _SchemaId(msgspec.Struct, rename="kebab"):
    schema_id: int = 0


def glance_at(location: str, properties: Mapping[str, str]) -> Glance:
    """The table whose metadata is at `location`; raises OSError."""
    with load_file_io(dict(properties), location).new_input(location).open() as file:
        data = file.read()
    if ".gz." in location:
        data = gzip.decompress(data)
    found = msgspec.json.decode(data, type=_Metadata)
    written = next(
        bytes(raw)
        for raw in found.schemas
        if msgspec.json.decode(raw, type=_SchemaId).schema_id == found.current_schema_id
    )
    snapshot = found.current_snapshot_id
    return Glance(_fields(written), None if snapshot == -1 else snapshot, found.properties.get(COMMENT, ""))


def glance_over(table: Table) -> Glance:
    """The same of a table that is open."""
    written = table.schema().model_dump_json().encode()
    snapshot = table.current_snapshot()
    return Glance(_fields(written), snapshot.snapshot_id if snapshot else None, table.properties.get(COMMENT, ""))


@lru_cache(maxsize=2000)
def _fields(written: bytes) -> tuple[Field, ...]:
    schema = Schema.model_validate_json(written)
    arrow = schema_to_pyarrow(schema, include_field_ids=False)
    return tuple(
        Field(column.name, field.type, not column.required, column.doc or "")
        for column, field in zip(schema.fields, arrow, strict=True)
    )
