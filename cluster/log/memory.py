"""The event log in this process's memory, for tests and embedding: the same contract, nothing survives the process."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.errors import LogCorrupt, LogUnavailable, OffsetOutOfRange
from eagleray.cluster.log.ingest_clock import IngestClock
from eagleray.cluster.log.protocol import RECORD_BYTES_MAX, Bounds, Entry, Epoch, Record, draw_identity, partition_key


@dataclass
class _Partition:
    first: int = 0
    last_us: int = 0
    records: list[Record] = field(default_factory=list)


class MemoryLog:
    """An `EventLog` for the threads of one process."""

    def __init__(self, partitions: int, clock: Clock | None = None) -> None:
        """An empty log with `partitions` partitions for every stream."""
        self._partitions = partitions
        self._clock = IngestClock(clock or SystemClock())
        self._mutex = threading.Lock()
        self._held: dict[tuple[str, int], _Partition] = {}
        self._epochs: dict[str, Epoch] = {}
        self._aside: dict[str, tuple[Epoch, list[_Partition]]] = {}

    @property
    def partitions(self) -> int:
        """Partitions of every stream."""
        return self._partitions

    @property
    def record_bytes_max(self) -> int:
        """The largest payload of an entry."""
        return RECORD_BYTES_MAX

    def append(self, stream: str, entries: Sequence[Entry]) -> list[int]:
        """Append and return one offset per entry; see `EventLog.append`."""
        offsets = []
        with self._mutex:
            held = [self._partition(stream, entry.partition) for entry in entries]  # refuse before anything is kept
            self._epochs.setdefault(stream, Epoch(draw_identity()))
            now_us = self._clock.now_us()
            for partition, entry in zip(held, entries, strict=True):
                partition.last_us = max(partition.last_us, now_us)
                offset = partition.first + len(partition.records)
                record = Record(offset, entry.kind, entry.rows, partition.last_us, bytes(entry.payload))
                partition.records.append(record)
                offsets.append(offset)
        return offsets

    def read(self, stream: str, partition: int, offset: int, max_bytes: int) -> list[Record]:
        """Records from `offset` on; see `EventLog.read`."""
        found: list[Record] = []
        size = 0
        with self._mutex:
            held = self._partition(stream, partition)
            start = offset - held.first
            if not 0 <= start <= len(held.records):
                end = held.first + len(held.records)
                place = f"log {stream}/{partition}: offset {offset}"
                raise OffsetOutOfRange(f"{place} is not in the log, which holds [{held.first}, {end})")
            for index in range(start, len(held.records)):
                size += len(held.records[index].payload)
                if found and size > max_bytes:
                    break
                found.append(held.records[index])
        return found

    def bounds(self, stream: str, partition: int) -> Bounds:
        """The offsets held now; see `EventLog.bounds`."""
        with self._mutex:
            held = self._partition(stream, partition)
            return Bounds(held.first, held.first + len(held.records))

    def trim(self, stream: str, partition: int, before_offset: int, older_than_us: int) -> int:
        """Delete old records; see `EventLog.trim`."""
        with self._mutex:
            held = self._partition(stream, partition)
            count = 0
            for record in held.records:
                if record.offset >= before_offset or record.ingested_at_us >= older_than_us:
                    break
                count += 1
            del held.records[:count]
            held.first += count
            return count

    def committed(self, stream: str, ends: Mapping[int, int]) -> None:
        """Nobody is told."""

    def newest_us(self, stream: str, partition: int) -> int:
        """When the newest record was ingested; see `EventLog.newest_us`."""
        with self._mutex:
            return self._partition(stream, partition).last_us

    def trouble(self, stream: str) -> LogUnavailable | LogCorrupt | None:
        """The clock, if anything; see `EventLog.trouble`."""
        try:
            self._clock.now_us()
        except LogUnavailable as error:
            return error
        return None

    def epoch(self, stream: str) -> Epoch | None:
        """The stream's log now; see `EventLog.epoch`."""
        return self._epochs.get(stream)

    def begin(self, stream: str, epoch: Epoch, ingested_at_us: int = 0) -> None:
        """Make a log aside; see `EventLog.begin`."""
        bases = [epoch.bases.get(partition_key(partition), 0) for partition in range(self._partitions)]
        with self._mutex:
            self._aside[stream] = (epoch, [_Partition(base, ingested_at_us) for base in bases])

    def begun(self, stream: str) -> Epoch | None:
        """The log made aside; see `EventLog.begun`."""
        return self._aside[stream][0] if stream in self._aside else None

    def carry(self, stream: str, partition: int, records: Sequence[Record]) -> None:
        """Append records of an earlier log; see `EventLog.carry`."""
        with self._mutex:
            held = self._aside[stream][1][partition]
            for record in records:
                held.last_us = max(held.last_us, record.ingested_at_us)
                offset = held.first + len(held.records)
                held.records.append(record._replace(offset=offset, ingested_at_us=held.last_us))

    def activate(self, stream: str) -> None:
        """Put the log made aside in place; see `EventLog.activate`."""
        with self._mutex:
            self._epochs[stream], made = self._aside.pop(stream)
            for partition, held in enumerate(made):
                self._held[stream, partition] = held

    def close(self) -> None:
        """Nothing to release."""

    def _partition(self, stream: str, partition: int) -> _Partition:
        if not 0 <= partition < self._partitions:
            raise ValueError(f"partition {partition} of {self._partitions}")
        return self._held.setdefault((stream, partition), _Partition())
