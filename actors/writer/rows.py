"""Chunks of the log as rows of the tables `events` and `dead_letters`. Pure functions on Arrow data.

Rows carry where they come from: `_partition`, `_offset` (the log record) and `_row` (the event within it), so that any
row can be found in the log again, and a checker can prove that none is there twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eagleray.cluster.events.retype import same
from eagleray.cluster.events.stream import EXTRA, SOURCE, Stream
from eagleray.cluster.lake.table_layout import SYSTEM_COLUMNS
from eagleray.cluster.log.reader import Chunk

_TIME = pa.timestamp("us", "UTC")
ARRIVAL_STEP_US = 50_000  # as exact as `arrivals` is, unless rows came over a longer time than ARRIVALS_MAX of these
ARRIVALS_MAX = 256


def log_columns(stream: Stream, table: pa.Schema | None) -> pa.Schema:
    """The columns that the writer needs of an EVENTS record: all but `_time` and `_id`, as `table` has them.

    A record may be older than the schema: fields that left it since are columns of the table all the same.
    """
    there = {} if table is None else {field.name: field for field in table if field.name not in SYSTEM_COLUMNS.names}
    own = [_wider(field, there.pop(field.name, field)) for field in stream.events.arrow]
    return pa.schema([*own, *there.values(), stream.log_schema.field(SOURCE), stream.log_schema.field(EXTRA)])


def _wider(field: pa.Field, column: pa.Field) -> pa.Field:
    """The schema's field, as nearly always; the table's where that holds more."""
    return field if same(field, column) else column


def event_rows(chunks: Mapping[int, Sequence[Chunk]]) -> pa.Table | None:
    """Rows for `<stream>.events` from the chunks of each partition; None where there are none."""
    return _rows({partition: [chunk.events for chunk in found] for partition, found in chunks.items()})


def dead_letter_rows(chunks: Mapping[int, Sequence[Chunk]], from_offset: Mapping[int, int]) -> pa.Table | None:
    """Rows for `<stream>.dead_letters`: rejects of records at or above the partition's `from_offset`; None: no rows."""
    return _rows(
        {
            partition: [_from(chunk.rejects, from_offset[partition]) for chunk in found if chunk.end > chunk.first]
            for partition, found in chunks.items()
        }
    )


def arrivals(rows: pa.Table) -> tuple[tuple[int, int], ...]:
    """When the rows were ingested (microseconds since the epoch, rounded down to a step), and how many at each time."""
    times = rows.column("_ingested_at").to_numpy().astype(np.int64)
    first = int(times.min())
    step = max(ARRIVAL_STEP_US, (int(times.max()) - first) // ARRIVALS_MAX + 1)
    counts = np.bincount((times - first) // step)
    return tuple((first + step * int(at), int(counts[at])) for at in np.flatnonzero(counts))


def _from(rows: pa.Table, offset: int) -> pa.Table:
    if not rows.num_rows or rows.column("_offset")[0].as_py() >= offset:  # in log order
        return rows
    return rows.filter(pc.greater_equal(rows.column("_offset"), offset))


def _rows(tables: Mapping[int, Sequence[pa.Table]]) -> pa.Table | None:
    present = [(partition, table) for partition, found in tables.items() for table in found if table.num_rows]
    if not present:
        return None
    rows = pa.concat_tables([table for _, table in present])
    partitions = np.repeat(
        np.array([partition for partition, _ in present], dtype=np.int32), [table.num_rows for _, table in present]
    )
    at = rows.schema.get_field_index("_ingested_at")
    rows = rows.set_column(at, "_ingested_at", rows.column(at).cast(_TIME))
    return rows.append_column("_partition", pa.array(partitions))
