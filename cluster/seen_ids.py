"""Which ids are seen at an offset: from the saved ids, and where these are lost, from `events` and the log.

An id is seen if an event that has it was stored less than the deduplication horizon before, by recorded ingestion
times. What was stored is in `events`; so saved ids are a cache: they count if they are whole, of this log and of a
horizon that is as long, and rebuilding them gives the same judgement, slower.

1. saved ids up to some offset  2. rows of `events` from there (from the horizon's beginning, where nothing was saved),
and rows that were forgotten (`forgotten`): their ids are read from the log; where the log does not have them any more,
they are hashed again from the stream's id field  3. records that `events` does not have yet, judged again in log order
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eagleray.cluster.errors import LogCorrupt
from eagleray.cluster.events.event_identity import texts_of
from eagleray.cluster.events.seeded_hash import DIGEST_BYTES, digests, hash_seed
from eagleray.cluster.events.stream import ID, Stream
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.predicate import All, Compare
from eagleray.cluster.lake.scan import Pinned
from eagleray.cluster.log.dedup.deduplicator import Deduplicator
from eagleray.cluster.log.lineage import SEED_PROPERTY
from eagleray.cluster.log.protocol import Bounds, EventLog, Readable, Record, partition_key
from eagleray.cluster.log.reader import PartitionReader
from eagleray.cluster.state.protocol import Place

READ_BYTES = 4 << 20  # of the log at a time
_PLACE = ("_offset", "_row", "_ingested_at")
_ROW_BITS = 24  # a record holds fewer events
_EVER = 1 << 62
_ID = pa.field(ID, pa.binary(DIGEST_BYTES))

FORGOTTEN = pa.schema(
    [
        pa.field("_id", pa.binary(DIGEST_BYTES)),  # null: it is in the log
        pa.field("_ingested_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("_partition", pa.int32(), nullable=False),
        pa.field("_offset", pa.int64(), nullable=False),
        pa.field("_row", pa.int32(), nullable=False),
    ]
)
"""Columns of `<stream>.forgotten`: where rows of `events` were that `forget` removed, and the hash of their ids."""


class LogUpTo:
    """A view of a log's partitions that holds nothing at or above `end`: replaying it can never run too far."""

    def __init__(self, log: Readable, end: int) -> None:
        """`end`: the offset at which the view stops."""
        self._log = log
        self._end = end

    def read(self, stream: str, partition: int, offset: int, max_bytes: int) -> list[Record]:
        """As Readable.read."""
        if offset >= self._end:
            return []
        found = self._log.read(stream, partition, offset, max_bytes)
        return [record for record in found if record.offset < self._end]

    def bounds(self, stream: str, partition: int) -> Bounds:
        """As Readable.bounds."""
        first, end = self._log.bounds(stream, partition)
        return Bounds(min(first, self._end), min(end, self._end))


class SeenIds:
    """Restores the ids of one stream's partitions. Writer and window workers have one for each stream."""

    def __init__(self, stream: Stream, log: EventLog, lake: Lake) -> None:
        """Nothing is read yet."""
        self._stream, self._log, self._lake = stream, log, lake

    def restore(
        self, dedup: Deduplicator, place: Place, partition: int, upto: int, read_bytes: int = READ_BYTES
    ) -> Iterator[int]:
        """Let `dedup`, which saves to `place`, know what is seen by records from `upto` on, in bounded steps.

        Yields, after each step, up to which offset ids are saved. Raises LogUnavailable, LogCorrupt, OSError; then
        begin anew.
        """
        dedup.log = self.log()
        saved = dedup.restore(place, upto)
        yield saved
        if saved >= upto:
            return
        events = self._lake.pin(f"{self._stream.name}.events")
        covered = max(saved, min(upto, events.progress.get(partition_key(partition), 0)))
        since_us = self._since_us(partition, covered)  # from there on records are judged
        if covered > saved:
            stored = Stored(self._stream, self._lake, events, partition, since_us)
            for ids in stored.between(self._log, saved, covered):
                dedup.fresh(ids.words, None, ids.ingested_at_us, ids.offset)
                yield saved
        first = self._log.bounds(self._stream.name, partition).first
        start = max(covered, min(first, upto))
        replay = PartitionReader(LogUpTo(self._log, upto), self._stream, partition, start, dedup, [])
        while replay.position < upto and replay.read(read_bytes) is not None:
            yield saved

    def log(self) -> str:
        """The identity of the stream's log; "" before it has one."""
        epoch = self._log.epoch(self._stream.name)
        return epoch.log if epoch else ""

    def _since_us(self, partition: int, start: int) -> int:
        """Ids stored before are of no use to records from `start` on."""
        name = self._stream.name
        first, end = self._log.bounds(name, partition)
        at = max(start, first)
        newest_us = (
            self._log.read(name, partition, at, 1)[0].ingested_at_us
            if at < end
            else self._log.newest_us(name, partition)
        )
        return newest_us - self._stream.config.dedup_horizon


class Ids:
    """Ids of stored events in log order."""

    def __init__(self, words: npt.NDArray[np.uint64], table: pa.Table) -> None:
        """`words` is (n, 2); `table` has the columns of _PLACE."""
        self.words = words
        self.offset = table.column("_offset").to_numpy()
        self.ingested_at_us = table.column("_ingested_at").to_numpy()


class Stored:
    """The rows of `events`, and of `forgotten`, of one partition that were ingested from `since_us` on."""

    def __init__(self, stream: Stream, lake: Lake, events: Pinned, partition: int, since_us: int) -> None:
        """`events` is the table at one instant."""
        self._stream, self._lake, self._events = stream, lake, events
        self._partition, self._since_us = partition, since_us

    def between(self, log: EventLog, first: int, end: int) -> Iterator[Ids]:
        """Ids of rows from offsets in [first, end), in that order."""
        held = min(max(first, log.bounds(self._stream.name, self._partition).first), end)
        at = held
        if self._stream.id is not None:
            yield from self._hashed(first, held)
        try:
            for reached, ids in self._logged(log, held, end):
                at = reached
                if ids is not None:
                    yield ids
        except LogCorrupt:
            if self._stream.id is None:
                raise
            yield from self._hashed(at, end)

    def _hashed(self, first: int, end: int) -> Iterator[Ids]:
        """Ids of rows from offsets in [first, end), hashed from the stream's id field."""
        assert self._stream.id is not None
        if first >= end:
            return
        seed = tables_seed(self._lake, self._stream)
        for rows in self._in_order(first, end, self._stream.id.names[0]):
            known = rows.column(ID).combine_chunks()
            texts = texts_of(field_of(rows, self._stream.id.names))
            found = [
                hashed if hashed is not None else None if text is None else digests([text], seed)[0]
                for hashed, text in zip(known.to_pylist(), texts, strict=True)
            ]
            present = [value is not None for value in found]
            joined = b"".join(value for value in found if value is not None)
            yield Ids(_words(joined), rows.filter(pa.array(present)))

    def _logged(self, log: EventLog, first: int, end: int) -> Iterator[tuple[int, Ids | None]]:
        """Ids of rows from offsets in [first, end), as the log has them; and up to which offset that is."""
        start = self._start(log, first, end)
        stored = self._in_order(start, end, None)
        held: pa.Table = self._mine(FORGOTTEN.empty_table(), 0, 0)
        reader = PartitionReader(LogUpTo(log, end), self._stream, self._partition, start, None, pa.schema([_ID]))
        while reader.position < end and (chunk := reader.read(READ_BYTES)) is not None:
            while not held.num_rows or held.column("_offset")[-1].as_py() < chunk.end:  # in order: then all are here
                if (more := next(stored, None)) is None:
                    break
                held = pa.concat_tables([held, more], promote_options="default")
            rows = chunk.events.filter(pc.is_valid(chunk.events.column(ID)))
            rows = rows.filter(pa.array(np.isin(_places(rows, chunk.first), _places(held, chunk.first))))
            held = held.filter(pc.greater_equal(held.column("_offset"), chunk.end))
            yield chunk.end, Ids(_words(b"".join(rows.column(ID).to_pylist())), rows) if rows.num_rows else None

    def _start(self, log: EventLog, first: int, end: int) -> int:
        """The first record that the log holds and that was ingested from `since_us` on; by bisection."""
        name, partition = self._stream.name, self._partition
        held = log.bounds(name, partition)
        low, high = max(first, held.first), max(min(end, held.end), max(first, held.first))
        while low < high:
            middle = (low + high) // 2
            if log.read(name, partition, middle, 1)[0].ingested_at_us < self._since_us:
                low = middle + 1
            else:
                high = middle
        return low

    def _in_order(self, first: int, end: int, column: str | None) -> Iterator[pa.Table]:
        """The rows in log order, forgotten ones among them: _PLACE (ingestion in microseconds), `column`, and ID."""
        columns = [*_PLACE, "_partition", *([column] if column else [])]
        plan = self._events.plan(self._wanted(first, end))
        parts = plan.in_order_of("_offset")
        held = [self._forgotten(first, end)]
        for number, (_, part) in enumerate(parts):
            held += [self._mine(pa.table(batch), first, end) for batch in part.batches(columns)]
            below = parts[number + 1][0] if number + 1 < len(parts) else _EVER
            rows = pa.concat_tables(held, promote_options="default").sort_by(
                [("_offset", "ascending"), ("_row", "ascending")]
            )
            ready = pc.less(rows.column("_offset"), below)
            held = [rows.filter(pc.invert(ready))]
            if (done := rows.filter(ready)).num_rows:
                yield done
        if held[0].num_rows:
            yield held[0].sort_by([("_offset", "ascending"), ("_row", "ascending")])

    def _wanted(self, first: int, end: int) -> All:
        return All(
            (
                Compare("_partition", "=", self._partition),
                Compare("_offset", ">=", first),
                Compare("_offset", "<", end),
                Compare("_ingested_at", ">=", self._since_us),
            )
        )

    def _mine(self, rows: pa.Table, first: int, end: int) -> pa.Table:
        """Those that are wanted, for a plan only leaves out files."""
        times = rows.column("_ingested_at").cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        rows = rows.set_column(rows.schema.get_field_index("_ingested_at"), "_ingested_at", times)
        offsets = rows.column("_offset")
        wanted = pc.and_(pc.greater_equal(offsets, first), pc.less(offsets, end))
        wanted = pc.and_(wanted, pc.equal(rows.column("_partition"), self._partition))
        rows = rows.filter(pc.and_(wanted, pc.greater_equal(times, self._since_us))).drop_columns(["_partition"])
        if ID not in rows.column_names:
            rows = rows.append_column(ID, pa.nulls(rows.num_rows, pa.binary(DIGEST_BYTES)))
        return rows

    def _forgotten(self, first: int, end: int) -> pa.Table:
        """Rows that `forget` took out of `events`."""
        name = f"{self._stream.name}.forgotten"
        if self._lake.find(name) is None:
            return self._mine(FORGOTTEN.empty_table(), first, end)
        plan = self._lake.pin(name).plan(self._wanted(first, end))
        found = [pa.table(batch).cast(FORGOTTEN) for batch in plan.batches(FORGOTTEN.names)]
        return self._mine(pa.concat_tables(found) if found else FORGOTTEN.empty_table(), first, end)


def tables_seed(lake: Lake, stream: Stream) -> int:
    """The seed that ids in the stream's tables are hashed with; raises as `hash_seed`, also for another one."""
    return hash_seed(lake.config, lake.properties(f"{stream.name}.events").get(SEED_PROPERTY, ""))


def field_of(rows: pa.Table, names: tuple[str, ...]) -> pa.Array:
    """A field of the rows, by its path."""
    found = rows.column(names[0]).combine_chunks()
    for name in names[1:]:
        found = pc.struct_field(found, name)
    return found


def _words(joined: bytes) -> npt.NDArray[np.uint64]:
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)


def _places(rows: pa.Table, first: int) -> npt.NDArray[np.int64]:
    """A number for each row's place; `first` is not above any offset."""
    offset = rows.column("_offset").to_numpy().astype(np.int64)
    found: npt.NDArray[np.int64] = ((offset - first) << _ROW_BITS) | rows.column("_row").to_numpy()
    return found
