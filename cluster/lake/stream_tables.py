"""The tables of a stream: names, columns, layout and Iceberg properties. Kept in step by `schema_evolution`.

`<stream>.events`, `<stream>.dead_letters`, `<stream>.late` and one `<stream>.<window>` for each window.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.events.stream import REJECT_SCHEMA, Stream
from eagleray.cluster.lake.table_layout import SYSTEM_COLUMNS, Layout, SortField, check_layout

_TIME = pa.timestamp("us", "UTC")
_PLACE = [SYSTEM_COLUMNS.field(name) for name in ("_partition", "_offset", "_row")]

DEAD_LETTER_COLUMNS = pa.schema(
    [
        *(REJECT_SCHEMA.field(name) for name in ("original", "reason", "detail")),
        pa.field("_ingested_at", _TIME, nullable=False),
        *(REJECT_SCHEMA.field(name) for name in ("source", "attempt")),
        *_PLACE,
    ]
)
LATE_COLUMNS = pa.schema(
    [
        pa.field("window", pa.string(), nullable=False),
        pa.field("window_start", _TIME),
        pa.field("window_end", _TIME),
        pa.field("event", pa.string(), nullable=False, metadata={"doc": "JSON"}),
        pa.field("_ingested_at", _TIME, nullable=False),
        *_PLACE,
    ]
)
"""A session's row names the session that the event alone would have been."""

PROPERTIES = {
    "format-version": "2",
    # A library that retries a stale commit by itself commits twice; our own loop looks for the progress first.
    "commit.retry.num-retries": "0",
    "commit.manifest-merge.enabled": "true",  # for other writers; our appends merge by tiers (`manifests`)
    "commit.manifest.min-count-to-merge": "32",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "5",
    # Under `serializable`, compaction would conflict with every append.
    "write.update.isolation-level": "snapshot",
    "write.delete.isolation-level": "snapshot",
    "write.merge.isolation-level": "snapshot",
    "write.parquet.compression-codec": "zstd",
    "write.parquet.compression-level": "1",  # level 3: 14 % slower, no smaller on event data
}


@dataclass(frozen=True)
class TableSpec:
    """A table as it should be. `where` is the configuration key that its columns come from."""

    name: str  # "stream.table"
    columns: pa.Schema
    where: str
    layout: Layout = field(default_factory=Layout)
    stream: str | None = None  # whose table it is; None: a job's


def table_specs(stream: Stream) -> list[TableSpec]:
    """Every table of `stream`; raises ConfigError where its layout is wrong."""
    where = f"streams.{stream.name}"
    by_start = Layout(sort_by=(SortField(FieldPath(("window_start",))),))
    return [
        TableSpec(
            f"{stream.name}.events",
            events_columns(stream),
            f"{where}.schema: {stream.config.schema_}",
            check_layout(f"{where}.lake", stream),
            stream.name,
        ),
        TableSpec(f"{stream.name}.dead_letters", DEAD_LETTER_COLUMNS, where, stream=stream.name),
        TableSpec(f"{stream.name}.late", LATE_COLUMNS, where, stream=stream.name),
        *(
            # One small file per commit: by day, a replay of old events would write a file for every day.
            TableSpec(
                f"{stream.name}.{name}", _window_columns(spec.schema), f"{where}.windows.{name}", by_start, stream.name
            )
            for name, spec in stream.windows.items()
        ),
    ]


def events_columns(stream: Stream) -> pa.Schema:
    """Columns of `<stream>.events`. Those of the schema are all optional, so that a schema may change later."""
    return pa.schema([*(_optional(column) for column in stream.events.arrow), *SYSTEM_COLUMNS])


def _window_columns(schema: pa.Schema) -> pa.Schema:
    required = ("window_start", "window_end")
    return pa.schema([column if column.name in required else _optional(column) for column in schema])


def _optional(column: pa.Field) -> pa.Field:
    kind = column.type
    if pa.types.is_struct(kind):
        kind = pa.struct([_optional(child) for child in kind.fields])
    elif pa.types.is_list(kind):
        kind = pa.list_(_optional(kind.value_field))
    doc = {"doc": "JSON"} if (column.metadata or {}).get(b"json") else None
    return pa.field(column.name, kind, nullable=True, metadata=doc)
