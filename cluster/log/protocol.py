"""The event log: the only source of truth. One protocol, one contract suite (tests/contract/test_event_log.py).

Validation appends and only then acks; the window and writer pools read. A log has, for each stream, a fixed number of
partitions; a partition is a sequence of records numbered by `offset` from 0 without gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol


class Kind(IntEnum):
    """What a record holds."""

    EVENTS = 0  # accepted events (`Stream.log_schema`), encoded by `record.encode_batch`
    REJECTS = 1  # rejected events (`REJECT_SCHEMA`), encoded by `record.encode_batch`
    CONTROL = 2  # a decision of the wall clock, such as idleness, encoded by `record.encode_control`


@dataclass(frozen=True, slots=True)
class Entry:
    """A record to be appended to `partition`; `rows` counts the events in `payload`."""

    partition: int
    kind: Kind
    rows: int
    payload: bytes | memoryview


class Record(NamedTuple):
    """A record as read: `ingested_at_us` was set by the log on append and never decreases within a partition."""

    offset: int
    kind: Kind
    rows: int
    ingested_at_us: int
    payload: bytes


class Bounds(NamedTuple):
    """The offsets a partition holds now: [first, end)."""

    first: int
    end: int


class Readable(Protocol):
    """What reading a log takes: a whole log, or a view that holds less of it."""

    def read(self, stream: str, partition: int, offset: int, max_bytes: int) -> list[Record]:
        """Records from `offset` on: at least one if there is one, then up to `max_bytes` of payload in all.

        Raises OffsetOutOfRange below the first kept offset and beyond the end (the log is not the one that was read),
        LogCorrupt where a checksum fails, LogUnavailable.
        """
        ...

    def bounds(self, stream: str, partition: int) -> Bounds:
        """The offsets held now; (0, 0) for a partition never written. Raises LogUnavailable."""
        ...


class EventLog(Readable, Protocol):
    """An append-only, partitioned, durable log. Safe to use from several threads and processes at once."""

    @property
    def partitions(self) -> int:
        """Partitions of every stream."""
        ...

    def append(self, stream: str, entries: Sequence[Entry]) -> list[int]:
        """Append and return one offset per entry, after fsync (or all in-sync replicas).

        Entries of one partition are appended together, in order; partitions are independent. Raises LogUnavailable
        within `append_timeout_s`; then any part of it may or may not have been written, and nothing may be acked.
        """
        ...

    def trim(self, stream: str, partition: int, before_offset: int, older_than_us: int) -> int:
        """Delete records below `before_offset` that were ingested before `older_than_us`; returns how many.

        `end` never moves, even when every record is gone.
        """
        ...

    def close(self) -> None:
        """Release files and threads; the log can be opened again."""
        ...
