"""Chunks of the log as rows of the tables `events` and `dead_letters`. Pure functions on Arrow data.

Rows carry where they come from: `_partition`, `_offset` (the log record) and `_row` (the event within it), so that any
row can be found in the log again, and a checker can prove that none is there twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eagleray.cluster.events.stream import EXTRA, SOURCE, Stream
from eagleray.cluster.log.reader import Chunk

_TIME = pa.timestamp("us", "UTC")


def log_columns(stream: Stream) -> list[str]:
    """The columns that the writer needs of an EVENTS record: all but `_time` and `_id`."""
    return [*stream.events.arrow.names, SOURCE, EXTRA]


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
