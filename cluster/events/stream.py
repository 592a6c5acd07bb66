"""A stream ready for work: its configuration, checked against its schema. Made by `load_streams` for every stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from eagleray.cluster.column_names import column_key, schema_problem
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.arrow_types import JSON_METADATA
from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.events.filter import check_filter
from eagleray.cluster.events.schema import EventSchema, load_schema
from eagleray.cluster.events.shape import Shape
from eagleray.cluster.sections import StreamConfig
from eagleray.cluster.windowing.definition import WindowSpec, field_type, parse_window

TIME = "_time"  # event time, int64 microseconds since the epoch
ID = "_id"  # 16-byte hash of the deduplication id; null: not deduplicated
SOURCE = "_source"
EXTRA = "_extra"

REJECT_SCHEMA = pa.schema(
    [
        pa.field("original", pa.binary(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),  # 1 for the first; a replay adds one
    ]
)
"""A batch of rejected events in the log. Its time is the record's ingestion time."""


@dataclass(frozen=True)
class Stream:
    """One stream: what it is called, how its events look, and what is made of them."""

    name: str
    config: StreamConfig
    events: EventSchema
    time: FieldPath
    id: FieldPath | None
    key: FieldPath | None
    windows: Mapping[str, WindowSpec]

    @property
    def time_is_text(self) -> Literal["text", "json"] | None:
        """Whether the time field's column is text, which the schema does not hold to be a time, or JSON text."""
        return text_kind(field_of(self.events.arrow, self.time))

    @property
    def log_schema(self) -> pa.Schema:
        """Columns of an EVENTS record: the schema's, then `_time`, `_id`, `_source`, `_extra`."""
        return pa.schema(
            [
                *self.events.arrow,
                pa.field(TIME, pa.int64(), nullable=False),
                pa.field(ID, pa.binary(16)),
                pa.field(SOURCE, pa.string(), nullable=False),
                pa.field(EXTRA, pa.string()),
            ]
        )


def _path(where: str, text: str, schema: pa.Schema, *types: str) -> FieldPath:
    try:
        path = FieldPath.parse(text)
        found = field_type(schema, path)
    except ValueError as error:
        raise ConfigError(where, str(error)) from None
    kind = "integer" if pa.types.is_integer(found) else str(found).split("[")[0]
    if kind not in types:
        raise ConfigError(where, f"{path.column} is {found}; expected {' or '.join(types)}")
    return path


def text_kind(field: pa.Field) -> Literal["text", "json"] | None:
    """Whether a column is text, JSON text, or neither."""
    if not pa.types.is_string(field.type):
        return None
    return "json" if JSON_METADATA.items() <= (field.metadata or {}).items() else "text"


def field_of(schema: pa.Schema, path: FieldPath) -> pa.Field:
    """The field at a path that was checked."""
    fields = {field.name: field for field in schema}
    for name in path.names[:-1]:
        fields = {field.name: field for field in fields[name].type.fields}
    return fields[path.names[-1]]


def _plain(where: str, text: str, schema: pa.Schema, *types: str) -> FieldPath:
    """A path to a field of one type: what may be several things is JSON text, and no time or id."""
    path = _path(where, text, schema, *types)
    if JSON_METADATA.items() <= (field_of(schema, path).metadata or {}).items():
        raise ConfigError(where, f"{path.column} has no one type in the schema; expected {' or '.join(types)}")
    return path


def _sure(where: str, path: FieldPath | None, shape: Shape) -> None:
    """Refuse a field that a branch of a union leaves open: there, it may be anything, and no column holds it."""
    for name in path.names if path else ():
        member = next(member for member in shape.members if member.name == name)
        if member.loose:
            raise ConfigError(where, f"{name} is declared by some branches of a union only; expected it in all of them")
        shape = member.shape


def _load(config: Config, name: str, stream: StreamConfig) -> Stream:
    where = f"{config.file}: streams.{name}"
    events = load_schema(f"{where}.schema", stream.schema_, config.file.parent)
    if problem := schema_problem(events.arrow):
        raise ConfigError(f"{where}.schema: {stream.schema_}", problem)
    for field in events.arrow:
        if (system := SYSTEM_COLUMNS.get(column_key(field.name))) is not None:
            alike = "" if system == field.name else f" {system!r}, which SQL cannot tell from it"
            raise ConfigError(
                f"{where}.schema: {stream.schema_}", f"the field {field.name!r} has the name of a system column{alike}"
            )
    time = _time(f"{where}.time", stream, events.arrow)
    id_ = _plain(f"{where}.id", stream.id, events.arrow, "string", "integer") if stream.id else None
    key = _path(f"{where}.key", stream.key, events.arrow, *_KEY_TYPES) if stream.key else None
    for setting, path in (("time", time), ("id", id_), ("key", key)):
        _sure(f"{where}.{setting}", path, events.shape())
    if stream.filter is not None:
        check_filter(f"{where}.filter", stream.filter, events.arrow)
    windows = {w: parse_window(f"{where}.windows.{w}", w, c, events.arrow) for w, c in stream.windows.items()}
    return Stream(name, stream, events, time, id_, key, windows)


_TIME_TEXT = ("timestamp", "string")
_TIME_NUMBER = ("integer", "double", "string")


def _time(where: str, stream: StreamConfig, schema: pa.Schema) -> FieldPath:
    """The path of the time field; one of numbers may be of several types, as each value tells what it is."""
    if stream.time_unit is None:
        path = _plain(where, stream.time, schema, *_TIME_TEXT)
    else:
        path = _path(where, stream.time, schema, *_TIME_NUMBER)
    if stream.time_missing == "arrival" and len(path.names) > 1:
        raise ConfigError(f"{where}_missing", f"{path.column} is within another field; expected one at the top")
    if stream.time_zone is not None and not pa.types.is_string(field_of(schema, path).type):
        raise ConfigError(f"{where}_zone", f"{path.column} is no text without a zone; expected a string without format")
    return path


_KEY_TYPES = ("string", "integer", "bool", "double", "timestamp", "date32")
SYSTEM_COLUMNS = {column_key(n): n for n in (TIME, ID, SOURCE, EXTRA, "_ingested_at", "_partition", "_offset", "_row")}


def load_streams(config: Config) -> dict[str, Stream]:
    """Every stream of the configuration, checked; raises ConfigError naming file and key."""
    return {name: _load(config, name, stream) for name, stream in config.streams.items()}
