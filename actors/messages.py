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
from eagleray.cluster.log.protocol import partition_key as partition_key

PartitionId = tuple[str, int]
"""(stream, partition)."""

Version = tuple[int, int]
"""(the controller's incarnation, how many came before in it): what comes later is greater, whatever any clock says."""

Progress = Mapping[str, int]
"""How far a table is. For `events`, `dead_letters`, `late`: `p0`, `p1`, … → the offset of the first record not covered;
`late` also: `w0`, `w1`, … → the partition's watermark there.
For a window's table: `closed` → every window whose closing time is at or below it is in the table, or had no rows.
The closing time of a window is its end + allowed_lateness (+ gap for sessions), microseconds since the epoch.
"""


Order = tuple[int, int, int]
"""The version of the committer's topology, and the number of its round: a later `collect` has a greater one."""


class Outdated(EaglerayError):
    """Orders came after newer ones: they had waited somewhere, or whoever gave them was replaced. Nothing was done."""

    def __init__(self, given: tuple[int, ...], heard: tuple[int, ...]) -> None:
        """The versions of the orders refused, and of those that came before."""
        super().__init__(given, heard)
        self.given, self.heard = given, heard

    def __str__(self) -> str:
        """For logs."""
        return f"orders {self.given} came after {self.heard}"


class Heard:
    """The greatest order that came so far. Its user calls it in turns."""

    def __init__(self) -> None:
        """None came yet."""
        self._order: Order = (0, 0, 0)

    def heed(self, order: Order | None) -> None:
        """Take note of an order; raises Outdated where it came after a newer one. None: of no committer, and in order.

        A call that timed out where it was made may still wait in its worker's queue, or its committer was replaced.
        """
        if order is None:
            return
        if order <= self._order:
            raise Outdated(order, self._order)
        self._order = order


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
    still_open: Mapping[str, bytes] = field(default_factory=dict)
    """Session windows, by era: once committed, handed to every window worker's `settle`."""
    marks: dict[str, int] = field(default_factory=dict)  # of the last record covered, by partition, where it is known
    arrivals: tuple[tuple[int, int], ...] = ()
    """When the rows came (microseconds since the epoch), and how many; empty: it is not known."""
    traces: tuple[str, ...] = ()  # contexts of traces (`telemetry.tracing`) that the rows are part of


@dataclass(frozen=True)
class PartitionReport:
    """How a worker stands on one partition."""

    position: int  # offset of the next record to read
    end: int  # end of the log when last looked at
    safe: int  # records below are never needed again by this worker: the log may be trimmed up to here
    watermark_us: int | None = None  # window workers: the partition's watermark; None before any event
    idle: bool = False  # window workers: caught up, and silent for idle_timeout
    traced: bool = False  # window workers: some of what it counted is traced (`telemetry.tracing`)


@dataclass(frozen=True)
class WorkerReport:
    """A worker's answer to `collect`. Partitions still being restored are absent from `partitions`."""

    staged: list[Staged] = field(default_factory=list)  # in the order in which they must be committed
    partitions: dict[PartitionId, PartitionReport] = field(default_factory=dict)
    failing: frozenset[PartitionId] = frozenset()  # absent, and the last try to restore them failed
    restoring: bool = False  # for some time now, one after the other: the rest waits meanwhile


@dataclass(frozen=True)
class EdgeNews:
    """What the controller tells an edge with `attend`; older news than it has heard is refused."""

    version: Version
    port: int  # to listen on; 0: any
    validators: Sequence[tuple[Any, str]]  # peers that answer, each with the name of its life (`host`)
    committer: Any  # a peer, or None
    sql: Sequence[Any]  # peers
    spent: Mapping[str, float]  # what API keys spent at other edges
    problems: Mapping[str, str]  # why events should not be sent now, by part of the platform
    shared_port: bool = False  # with an edge that takes this one's place, or whose place it takes
    near: frozenset[str] = frozenset()  # names of validators on the edge's own node, where there are several nodes


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
    failures: Sequence[EaglerayError]  # why workers could not be made, or an edge cannot listen
    missing: Sequence[str] = ()  # workers that do not answer


@dataclass(frozen=True)
class Origin:
    """What a controller was made from: enough to make it again."""

    config: Any
    kinds: Mapping[str, Any]  # by pool
    run: str
    runtime_env: Mapping[str, Any]  # Ray's; the project's files are in it

    @property
    def version(self) -> str:
        """Of what its workers are made from; empty where there is one node."""
        return next((str(kind.version) for kind in self.kinds.values()), "")


@dataclass(frozen=True)
class Topology:
    """Who owns what: peers by pool, and for each partition of each stream its window and its writer worker.

    A committer that starts anew gets a new version, so that whatever an earlier life of it still asks for is older.
    """

    version: Version
    window: dict[PartitionId, Any] = field(default_factory=dict)  # values are `actors.peer.Peer`
    writer: dict[PartitionId, Any] = field(default_factory=dict)
