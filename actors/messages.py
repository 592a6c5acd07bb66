"""What the stages say to each other: plain values, pickled between processes. Position travels with the data.

The committer pulls: on every tick it calls `collect` on each writer and window worker with the partitions that worker
owns and with what the tables say is committed. A worker therefore needs no other news: it adopts partitions it does not
hold yet, lets go of those no longer named, and where the table is not where the worker thought, it starts over from
there. Nobody pushes, so a worker that was stopped and woke up again can harm nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.lake.progress import CLOSED as CLOSED

PartitionId = tuple[str, int]
"""(stream, partition)."""

Progress = Mapping[str, int]
"""How far a table is. For `events`, `dead_letters`, `late`: `p0`, `p1`, … → the offset of the first record not covered.
For a window's table: `closed` → every window whose closing time is at or below it is in the table, or had no rows.
The closing time of a window is its end + allowed_lateness (+ gap for sessions), microseconds since the epoch.
"""


def partition_key(partition: int) -> str:
    """The progress key of a partition."""
    return f"p{partition}"


@dataclass(frozen=True)
class Staged:
    """Parquet files written for `table` and not yet committed: they cover progress from `begins` to `ends`.

    `begins` and `ends` have the same keys; a commit is accepted only if the table stands exactly at `begins` for these.
    `files` are pyiceberg DataFile values; the list may be empty where nothing was left to write.
    """

    table: str  # "stream.table"
    files: list[Any]
    rows: int
    begins: dict[str, int]
    ends: dict[str, int]
    still_open: bytes = b""  # session windows: once committed, handed to every window worker's `settle`


@dataclass(frozen=True)
class PartitionReport:
    """How a worker stands on one partition."""

    position: int  # offset of the next record to read
    end: int  # end of the log when last looked at
    safe: int  # records below are never needed again by this worker: the log may be trimmed up to here
    watermark_us: int | None = None  # window workers: the partition's watermark; None before any event
    idle: bool = False  # window workers: caught up, and silent for idle_timeout


@dataclass(frozen=True)
class WorkerReport:
    """A worker's answer to `collect`. Partitions still being restored are absent from `partitions`."""

    staged: list[Staged] = field(default_factory=list)  # in the order in which they must be committed
    partitions: dict[PartitionId, PartitionReport] = field(default_factory=dict)


@dataclass(frozen=True)
class EdgeReport:
    """An edge's answer to `attend`."""

    port: int
    in_flight_bytes: int
    spent: Mapping[str, float]  # events by API key with a rate, since the last answer
    answered: int  # requests, ever


@dataclass(frozen=True)
class StartReport:
    """How far the start of all workers is."""

    complete_us: Mapping[str, int]  # pools that were complete, and since when; by the machine's clock
    complete: bool  # all are, and every edge listens
    failures: Sequence[EaglerayError]  # why workers could not be made


@dataclass(frozen=True)
class Topology:
    """Who owns what: peers by pool, and for each partition of each stream its window and its writer worker."""

    version: int
    window: dict[PartitionId, Any] = field(default_factory=dict)  # values are `actors.peer.Peer`
    writer: dict[PartitionId, Any] = field(default_factory=dict)
