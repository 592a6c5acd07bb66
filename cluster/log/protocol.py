"""The event log: the only source of truth. One protocol, one contract suite (tests/contract/test_event_log.py).

Validation appends and only then acks; the window and writer pools read. A log has, for each stream, a fixed number of
partitions; a partition is a sequence of records numbered by `offset` without gaps, from 0 or the base of its epoch.

A stream has one log at a time, and each has an identity, drawn when it is made. Where a log is lost, or the back end
changes, another one begins a new epoch: its offsets start at bases above all that were ever given (`lineage`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

from eagleray.cluster.errors import LogCorrupt, LogUnavailable

RECORD_BYTES_MAX = 900 << 20  # of a payload, where nothing else limits it: SQLite takes a billion bytes in a row


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


def partition_key(partition: int) -> str:
    """The name of a partition in progress, bases and everything else that is kept by partition."""
    return f"p{partition}"


def draw_identity() -> str:
    """A name that no other log has."""
    return secrets.token_hex(12)


@dataclass(frozen=True)
class Epoch:
    """One log of a stream, from its making on."""

    log: str  # its identity
    bases: Mapping[str, int] = field(default_factory=dict)  # by `partition_key`: its first offset; absent: 0
    copy: str = ""  # tells the log from a copy of it put in its place, as long as nothing restarts; "": not known


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

    @property
    def record_bytes_max(self) -> int:
        """The largest payload that an entry may have; it may become smaller while the log is open."""
        ...

    def append(self, stream: str, entries: Sequence[Entry]) -> list[int]:
        """Append and return one offset per entry, after fsync (or all in-sync replicas).

        Entries of one partition are appended together, in order; partitions are independent. Raises LogUnavailable
        within `append_timeout_s`, or LogCorrupt where the log is damaged; then any part of it may or may not have been
        written, and nothing may be acked.
        """
        ...

    def trim(self, stream: str, partition: int, before_offset: int, older_than_us: int) -> int:
        """Delete records below `before_offset` that were ingested before `older_than_us`; returns how many.

        `end` never moves, even when every record is gone. A back end may keep some of them, the newest for one.
        """
        ...

    def committed(self, stream: str, ends: Mapping[int, int]) -> None:
        """The tables have everything below `ends`, by partition: for whom the back end tells; returns at once."""
        ...

    def newest_us(self, stream: str, partition: int) -> int:
        """When the newest record was ingested, whether or not it is still held; 0 before any. Raises as `bounds`."""
        ...

    def trouble(self, stream: str) -> LogUnavailable | LogCorrupt | None:
        """What keeps the stream's log from being written or read, as far as a quick look tells; None: nothing."""
        ...

    def epoch(self, stream: str) -> Epoch | None:
        """The stream's log now; None if it has none yet. Raises LogMismatch, LogCorrupt, LogUnavailable."""
        ...

    def begin(self, stream: str, epoch: Epoch, ingested_at_us: int = 0) -> None:
        """Make a log for `stream` aside, empty, with ingestion times from `ingested_at_us` on; then `activate` it.

        What was made aside before is dropped. Raises LogUnavailable.
        """
        ...

    def begun(self, stream: str) -> Epoch | None:
        """The log that was made aside and not activated."""
        ...

    def carry(self, stream: str, partition: int, records: Sequence[Record]) -> None:
        """Append `records` of an earlier log to the one made aside, with their ingestion times; durable on return."""
        ...

    def activate(self, stream: str) -> None:
        """Put the log made aside in the place of the stream's log, which is kept under another name if there is one."""
        ...

    def close(self) -> None:
        """Release files and threads; the log can be opened again."""
        ...
