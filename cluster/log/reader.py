"""Reads a partition as tables, without duplicates. Every window and writer worker has one per partition that it owns.

What it delivers is a function of the log alone: records in order, each event that `dedup` has not seen. The position
moves only when a read succeeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eagleray.cluster.errors import LogCorrupt
from eagleray.cluster.events.stream import ID, REJECT_SCHEMA, Stream
from eagleray.cluster.log.dedup.deduplicator import Deduplicator
from eagleray.cluster.log.lineage import mark
from eagleray.cluster.log.protocol import Bounds, Kind, Readable, Record
from eagleray.cluster.log.record import decode_batches, decode_control, traces_of

POSITION = [
    pa.field("_ingested_at", pa.int64(), nullable=False),  # microseconds since the epoch
    pa.field("_offset", pa.int64(), nullable=False),
    pa.field("_row", pa.int32(), nullable=False),  # index in its record
]
"""Columns that the reader adds: where a row stands in the log."""


@dataclass(frozen=True)
class Control:
    """A control record."""

    offset: int
    ingested_at_us: int
    body: dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """The records [first, end) of a partition, decoded."""

    first: int
    end: int
    events: pa.Table  # the columns asked for and `POSITION`; fresh rows only, in log order, one chunk a column
    rejects: pa.Table  # REJECT_SCHEMA and `POSITION`
    controls: list[Control]  # in log order
    duplicates: int
    bytes: int  # of payload, as stored
    mark: int = 0  # of the last record (`lineage.mark`)
    traces: tuple[str, ...] = ()  # contexts of traces that its events are part of


class PartitionReader:
    """Reads one partition from a position on."""

    def __init__(
        self,
        log: Readable,
        stream: Stream,
        partition: int,
        position: int,
        dedup: Deduplicator | None,
        columns: Sequence[str] | pa.Schema | None = None,
    ) -> None:
        """`columns` of `stream.log_schema`, or of a schema, are delivered, None: all.

        `dedup` knows the records before `position`.
        """
        self.position = position
        self._log, self._stream, self._partition, self._dedup = log, stream.name, partition, dedup
        delivered = columns
        if not isinstance(delivered, pa.Schema):
            names = stream.log_schema.names if delivered is None else delivered
            delivered = pa.schema([stream.log_schema.field(name) for name in names])
        self._delivered = self._read = delivered
        if dedup is not None and ID not in delivered.names:
            self._read = delivered.append(stream.log_schema.field(ID))

    def read(self, max_bytes: int) -> Chunk | None:
        """The next records, about `max_bytes` of payload; None if there is nothing new.

        Raises LogUnavailable, LogCorrupt, OffsetOutOfRange, and OSError if the deduplicator has no room on disk; the
        position is then what it was.
        """
        records = self._log.read(self._stream, self._partition, self.position, max_bytes)
        if not records:
            return None
        try:
            chunk = self._chunk(records)
        except LogCorrupt as error:
            place = f"log {self._stream}/{self._partition}: records {records[0].offset} to {records[-1].offset}"
            raise LogCorrupt(f"{place}: {error}") from error
        self.position = chunk.end
        return chunk

    def lag(self) -> Bounds:
        """What the log holds now: [first, end). The lag is `end - position`. Raises LogUnavailable."""
        return self._log.bounds(self._stream, self._partition)

    def _chunk(self, records: Sequence[Record]) -> Chunk:
        rejects = _placed(*_decode(records, Kind.REJECTS, REJECT_SCHEMA))
        controls = [
            Control(record.offset, record.ingested_at_us, decode_control(record.payload))
            for record in records
            if record.kind == Kind.CONTROL
        ]
        found, places = _decode(records, Kind.EVENTS, self._read)
        # last, since it changes what is remembered
        fresh = self._fresh(found, places)
        events = _placed(found.select(self._delivered.names), places)
        duplicates = 0
        if fresh is not None:
            duplicates = int(len(fresh) - np.count_nonzero(fresh))
        return Chunk(
            first=records[0].offset,
            end=records[-1].offset + 1,
            events=events.filter(pa.array(fresh)).combine_chunks() if duplicates else events,
            rejects=rejects,
            controls=controls,
            duplicates=duplicates,
            bytes=sum(len(record.payload) for record in records),
            mark=mark(records[-1]),
            traces=_traces(records),
        )

    def _fresh(self, events: pa.Table, places: _Places) -> npt.NDArray[np.bool_] | None:
        if self._dedup is None or not events.num_rows:
            return None
        ids = events.column(ID).chunk(0)
        words = np.frombuffer(ids.buffers()[1], np.uint64, 2 * len(ids), 16 * ids.offset).reshape(-1, 2)
        present = ids.is_valid().to_numpy(zero_copy_only=False) if ids.null_count else None
        return self._dedup.fresh(words, present, places.ingested_at_us, places.offset)


@dataclass(frozen=True)
class _Places:
    """Where each row of a table came from."""

    ingested_at_us: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    row: npt.NDArray[np.int32]


def _traces(records: Sequence[Record]) -> tuple[str, ...]:
    """Of all records, each once: nearly always none."""
    batches = (record.payload for record in records if record.kind != Kind.CONTROL)
    return tuple(dict.fromkeys(context for payload in batches for context in traces_of(payload)))


def _decode(records: Sequence[Record], kind: Kind, schema: pa.Schema) -> tuple[pa.Table, _Places]:
    chosen = [record for record in records if record.kind == kind]
    rows = np.array([record.rows for record in chosen], np.int64)
    times = np.array([record.ingested_at_us for record in chosen], np.int64)
    offsets = np.array([record.offset for record in chosen], np.int64)
    table = decode_batches([record.payload for record in chosen], schema)
    total = int(rows.sum())
    if len(schema) and table.num_rows != total:
        raise LogCorrupt(f"{table.num_rows} rows where the records say {total}")
    row = np.arange(total) - np.repeat(np.cumsum(rows) - rows, rows)
    return table, _Places(np.repeat(times, rows), np.repeat(offsets, rows), row.astype(np.int32))


def _placed(table: pa.Table, places: _Places) -> pa.Table:
    columns = [pa.array(values) for values in (places.ingested_at_us, places.offset, places.row)]
    return pa.table([*table.columns, *columns], schema=pa.schema([*table.schema, *POSITION]))
