"""Reads a topic's partitions: records, ends, and ingestion times that never decrease. Used by `kafka`.

A record's Kafka timestamp is when its appender took it, by that appender's clock, so it may be a little older than the
record before. Its ingestion time is the newest timestamp up to it. One who reads on carries that along; one who begins
in the middle asks Kafka's time index for it (`Times.before`), so that everybody who reads a record sees the same time,
and nothing has to be remembered elsewhere. A trim keeps it so: it cuts where the first record that is kept is as new as
all that go (`cut`).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple

import xxhash
from aiokafka.protocol.admin import DeleteRecordsRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.memory_records import MemoryRecords

from eagleray.cluster.errors import LogCorrupt
from eagleray.cluster.log.kafka_connection import Connection
from eagleray.cluster.log.protocol import Bounds, Entry, Kind

NO_TIME_MS = -1
DELETE_TIMEOUT_MS = 5000
_EARLIEST, _LATEST = -2, -1  # as timestamps of a ListOffsets request
_STAMP = Struct("<BBxxIQ")  # version, kind, rows, of which log
_VERSION = 1
_KINDS = frozenset(int(kind) for kind in Kind)
_UNREADABLE = (ValueError, OSError, RuntimeError, NotImplementedError)  # of a batch that cannot be decoded


def log_number(log: str) -> int:
    """What a record says of the log that it belongs to."""
    number: int = xxhash.xxh3_64_intdigest(log.encode())
    return number


def stamp(entry: Entry, number: int) -> bytes:
    """The key of a record: what its payload is, and whose log it is in."""
    return _STAMP.pack(_VERSION, int(entry.kind), entry.rows, number)


def to_ms(time_us: int) -> int:
    """In whole milliseconds, rounded up: nothing gets older by being stored."""
    return -(-time_us // 1000)


class Raw(NamedTuple):
    """A record as Kafka has it."""

    offset: int  # Kafka's
    time_ms: int
    kind: Kind
    rows: int
    payload: bytes


class Fetched(NamedTuple):
    """Records in order without gaps; `damage` says why they end before they should."""

    records: list[Raw]
    end: int
    damage: str = ""


class At(NamedTuple):
    """A record that a timestamp was looked for by."""

    offset: int
    time_ms: int


@dataclass(frozen=True)
class Partition:
    """One partition of a topic; its methods run on the connection's loop."""

    connection: Connection
    topic: str
    number: int
    log: int  # `log_number`
    since_ms: int = 0  # no ingestion time is before

    async def fetch(self, offset: int, max_bytes: int) -> Fetched:
        """Records from `offset` on: at least one if there is one. Raises aiokafka's OffsetOutOfRangeError."""

        def part(answer: Any) -> tuple[int, tuple[int, bytes]]:
            found = answer.topics[0][1][0]
            return found[1], (found[2], found[-1] or b"")

        def request() -> FetchRequest:
            limit = max(1, min(max_bytes, 1 << 30))
            return FetchRequest(0, 0, limit, 0, [(self.topic, [(self.number, offset, limit)])])

        end, data = await self.connection.ask_leader(self.topic, self.number, request, part)
        records: list[Raw] = []
        try:
            self._decode(data, offset, records)
        except LogCorrupt as error:
            return Fetched(records, end, str(error))
        except _UNREADABLE as error:
            return Fetched(records, end, f"record {offset + len(records)} cannot be decoded ({error})")
        return Fetched(records, end)

    def _decode(self, data: bytes, offset: int, into: list[Raw]) -> None:
        batches = MemoryRecords(data)
        while batches.has_next():
            batch = batches.next_batch()
            if batch is None:
                return
            if not batch.validate_crc():
                raise LogCorrupt(f"record {offset + len(into)}: checksum mismatch; the partition stops here")
            for record in batch:
                if record.offset >= offset:
                    self._take(record, offset + len(into), into)

    def _take(self, record: Any, expected: int, into: list[Raw]) -> None:
        if record.offset != expected:
            raise LogCorrupt(f"record {expected} is missing; nothing is skipped (is the topic compacted?)")
        key = record.key or b""
        version, kind, rows, log = _STAMP.unpack(key) if len(key) == _STAMP.size else (0, 0, 0, 0)
        if version != _VERSION or log != self.log or kind not in _KINDS:
            raise LogCorrupt(f"record {expected} was not written by this log: others must not write to its topic")
        into.append(Raw(expected, record.timestamp, Kind(kind), rows, record.value or b""))

    async def bounds(self) -> Bounds:
        """The offsets held now, as Kafka counts them."""
        end = await self._offset(_LATEST)
        first = await self._offset(_EARLIEST)
        return Bounds(first.offset, max(first.offset, end.offset))

    async def first_from(self, time_ms: int) -> At | None:
        """The first record with a timestamp of `time_ms` or later."""
        found = await self._offset(time_ms)
        return found if found.offset >= 0 else None

    async def _offset(self, time_ms: int) -> At:
        def part(answer: Any) -> tuple[int, At]:
            _, code, at_ms, offset = answer.topics[0][1][0][:4]
            return code, At(offset, at_ms)

        def request() -> OffsetRequest:
            return OffsetRequest(-1, 0, [(self.topic, [(self.number, time_ms)])])

        return await self.connection.ask_leader(self.topic, self.number, request, part)

    async def newest_ms(self, offset: int, least_ms: int) -> int:
        """The newest timestamp of the records before `offset`, and `least_ms` where they are all older than that."""

        async def newer(time_ms: int) -> int:
            found = await self.first_from(time_ms)
            return found.time_ms if found is not None and found.offset < offset else NO_TIME_MS

        low = await newer(least_ms + 1)
        if low == NO_TIME_MS:
            return least_ms
        step = 1
        while (found := await newer(low + step)) != NO_TIME_MS:
            low, step = found, step * 2
        high = low + step  # Invariant: no record before `offset` is from `high` on, one is from `low`
        while low + 1 < high:
            middle = (low + high) // 2
            found = await newer(middle)
            low, high = (found, high) if found != NO_TIME_MS else (low, middle)
        return low

    async def delete(self, before: int) -> None:
        """Delete the records before `before`."""

        def part(answer: Any) -> tuple[int, None]:
            return answer.topics[0][1][0][2], None

        def request() -> DeleteRecordsRequest:
            return DeleteRecordsRequest([(self.topic, [(self.number, before)])], DELETE_TIMEOUT_MS)

        await self.connection.ask_leader(self.topic, self.number, request, part)

    async def cut(self, before: int, older_than_ms: int) -> int:
        """The offset that a trim may begin the partition at; the newest record always stays."""
        held = await self.bounds()
        young = await self.first_from(older_than_ms)
        cut = min(before, held.end - 1, young.offset if young is not None else held.end)
        if cut <= held.first or older_than_ms <= self.since_ms:
            return held.first
        kept = (await self.fetch(cut, 1)).records
        if not kept:
            return held.first
        newest_ms = await self.newest_ms(cut, kept[0].time_ms)
        if newest_ms == kept[0].time_ms:
            return cut
        newest = await self.first_from(newest_ms)
        return min(cut, newest.offset) if newest is not None else held.first


class Times:
    """The ingestion time that a reader has come to, by partition: what it reads next goes on from there."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._at: dict[Partition, At] = {}

    async def of(self, partition: Partition, records: list[Raw]) -> list[int]:
        """The ingestion time of each of `records`, in microseconds."""
        if not records:
            return []
        at = self._at.get(partition)
        newest = at.time_ms if at is not None and at.offset == records[0].offset else -1
        if newest < 0:
            newest = await self.before(partition, records[0])
        times = []
        for record in records:
            newest = max(newest, record.time_ms)
            times.append(newest * 1000)
        self._at[partition] = At(records[-1].offset + 1, newest)
        return times

    async def before(self, partition: Partition, record: Raw) -> int:
        """The ingestion time of `record`, in milliseconds, for one who has not read what is before it."""
        return await partition.newest_ms(record.offset, max(partition.since_ms, record.time_ms))
