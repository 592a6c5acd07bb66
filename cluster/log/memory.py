"""The event log in this process's memory, for tests and embedding: the same contract, nothing survives the process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.errors import OffsetOutOfRange
from eagleray.cluster.log.protocol import Bounds, Entry, Record


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
        self._clock = clock or SystemClock()
        self._mutex = threading.Lock()
        self._held: dict[tuple[str, int], _Partition] = {}

    @property
    def partitions(self) -> int:
        """Partitions of every stream."""
        return self._partitions

    def append(self, stream: str, entries: Sequence[Entry]) -> list[int]:
        """Append and return one offset per entry; see `EventLog.append`."""
        offsets = []
        with self._mutex:
            held = [self._partition(stream, entry.partition) for entry in entries]  # refuse before anything is kept
            for partition, entry in zip(held, entries, strict=True):
                partition.last_us = max(partition.last_us, self._clock.now_us())
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

    def close(self) -> None:
        """Nothing to release."""

    def _partition(self, stream: str, partition: int) -> _Partition:
        if not 0 <= partition < self._partitions:
            raise ValueError(f"partition {partition} of {self._partitions}")
        return self._held.setdefault((stream, partition), _Partition())
