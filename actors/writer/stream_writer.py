"""A worker's share of one stream: its partitions, and what it staged and does not know to be in the table yet.

What is staged stays on offer, the same files, until the table's progress says that it landed; if the table stands
anywhere else, or the files waited too long to be committed, everything is dropped and begins anew from where the table
is.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from eagleray.actors.messages import PartitionReport, Progress, Staged, partition_key
from eagleray.actors.writer.partition_reader import Tap
from eagleray.actors.writer.rows import arrivals, dead_letter_rows, event_rows, log_columns
from eagleray.cluster.events.stream import Stream
from eagleray.cluster.log.protocol import EventLog
from eagleray.cluster.log.reader import Chunk
from eagleray.cluster.seen_ids import SeenIds
from eagleray.cluster.state.protocol import State
from eagleray.cluster.telemetry.metrics import sample

logger = logging.getLogger(__name__)

EMPTY_STEP_S = 600.0  # `events` moves on without rows this often, so that what is only rejected can be trimmed

Write = Callable[[str, pa.Table], list[Any]]
"""Lake.write: rows for a table → data files."""
Stale = Callable[[str, list[Any]], bool]
"""Lake.stale: whether data files for a table can no longer be committed."""


class Share:
    """The partitions of one stream that this worker owns."""

    def __init__(
        self,
        stream: Stream,
        log: EventLog,
        seen: SeenIds,
        write: Write,
        stale: Stale,
        state: State,
        table: pa.Schema | None = None,
    ) -> None:
        """`state`: where identifiers of the stream's partitions are saved; `table`: the columns of `events`."""
        self.stream = stream
        self._columns = log_columns(stream, table)
        self.taps: dict[int, Tap] = {}
        self.retired: deque[Tap] = deque()  # for the reading thread to close: it may be in the middle of a step
        self.counters: defaultdict[str, float] = defaultdict(float)
        self._log = log
        self._seen = seen
        self._write = write
        self._too_old = stale
        self._state = state
        self._offered: list[Staged] = []  # dead letters first: events must not overtake them
        self._events = f"{stream.name}.events"
        self._dead_letters = f"{stream.name}.dead_letters"
        self._moved_at = time.monotonic()  # when `events` was last offered
        self._failed: set[int] = set()  # partitions that could not be read, and have not been restored since

    def settle(self, owned: set[int], progress: Mapping[str, Progress]) -> None:
        """Compare what is on offer with the tables; adopt and release partitions."""
        events = progress.get(self._events, {})
        if self._overtaken(owned, progress):
            self.restart()
        self._failed = {p for p in self._failed & owned if p not in self.taps or not self.taps[p].ready}
        for partition, tap in self.taps.items():
            if tap.failed is not None:
                self._failed.add(partition)
                error = type(tap.failed).__name__
                self._count("writer_errors_total", stream=self.stream.name, error=error)
        self._keep({p: tap for p, tap in self.taps.items() if p in owned and not self._stale(tap, events)})
        for partition in owned - self.taps.keys():
            base = events.get(partition_key(partition), 0)
            place = self._state.place(f"{self.stream.name}/writer/{partition_key(partition)}")
            self.taps[partition] = Tap(
                self._log, self._seen, self.stream, partition, base, place, self._columns, self._log_error
            )

    def _overtaken(self, owned: set[int], progress: Mapping[str, Progress]) -> bool:
        """Take what landed off the offer; whether the rest can no longer be committed."""
        still = []
        for staged in self._offered:
            at = {key: progress.get(staged.table, {}).get(key, 0) for key in staged.begins}
            if at == staged.begins:
                still.append(staged)
            elif at != staged.ends:
                return True
            elif staged.table == self._events:
                for partition, tap in self.taps.items():
                    tap.landed(staged.ends.get(partition_key(partition), tap.base))
        self._offered = still
        keys = {partition_key(partition) for partition in owned}
        return any(not staged.begins.keys() <= keys for staged in still)

    def _stale(self, tap: Tap, events: Progress) -> bool:
        """Whether the tap must be made anew: it failed and has nothing left, or the table moved without it."""
        if any(partition_key(tap.partition) in staged.begins for staged in self._offered):
            return False
        if events.get(partition_key(tap.partition), 0) != tap.base:
            return True
        return tap.failed is not None and not tap.buffered_bytes

    def restart(self) -> None:
        """Drop everything; the next `settle` begins at the table's position."""
        if self.taps:
            self._count("writer_restarts_total")
            logger.info("%s starts over from its tables", self.stream.name)
        self._offered = []
        self._keep({})

    def _keep(self, taps: dict[int, Tap]) -> None:
        dropped = [tap for partition, tap in self.taps.items() if partition not in taps]
        self.taps = taps
        self.retired.extend(dropped)

    def stage(self, progress: Mapping[str, Progress]) -> list[Staged]:
        """What is to be committed, in order: what is on offer already, or else all that was read since."""
        if any(self._too_old(staged.table, staged.files) for staged in self._offered):
            self.restart()  # the writer or the committer was held up for long: the log has the rows
            return []
        if self._offered:
            return list(self._offered)
        chunks = {partition: tap.take() for partition, tap in self.taps.items() if tap.ready}
        self._count_chunks(chunks)
        letters = self._standing(progress, self._dead_letters)
        try:
            self._offer(self._dead_letters, letters, dead_letter_rows(chunks, letters))
            self._offer_events(self._standing(progress, self._events), event_rows(chunks))
        except Exception:
            self.restart()  # the chunks are gone from the buffers, and still in the log
            raise
        traces = tuple(context for tap in self.taps.values() for context in tap.written())
        if traces:
            self._offered = [replace(staged, traces=traces) for staged in self._offered]
        return list(self._offered)

    def _standing(self, progress: Mapping[str, Progress], table: str) -> dict[int, int]:
        return {partition: progress.get(table, {}).get(partition_key(partition), 0) for partition in self.taps}

    def _offer_events(self, begins: Mapping[int, int], rows: pa.Table | None) -> None:
        # The log is trimmed, and a restart begins, where `events` stands: it must not stay behind for ever where
        # records hold nothing for it, such as rejected events alone.
        if rows is not None or time.monotonic() - self._moved_at >= EMPTY_STEP_S:
            self._moved_at = time.monotonic()
            self._offer(self._events, begins, rows, empty=True)

    def _offer(self, table: str, begins: Mapping[int, int], rows: pa.Table | None, empty: bool = False) -> None:
        moved = {p: tap.position for p, tap in self.taps.items() if tap.ready and tap.position > begins[p]}
        if not moved or (rows is None and not empty):
            return
        staged = Staged(
            table=table,
            files=[] if rows is None else self._write(table, rows),
            rows=0 if rows is None else rows.num_rows,
            begins={partition_key(p): begins[p] for p in moved},
            ends={partition_key(p): position for p, position in moved.items()},
            marks={partition_key(p): mark for p in moved if (mark := self.taps[p].mark) is not None},
            arrivals=() if rows is None else arrivals(rows),
        )
        self._offered.append(staged)
        self._count("writer_rows_total", staged.rows, table=table)

    def report(self) -> dict[int, PartitionReport]:
        """How it stands on each partition; those still being restored are absent."""
        return {
            partition: PartitionReport(position=tap.position, end=tap.end(), safe=tap.safe)
            for partition, tap in self.taps.items()
            if tap.ready
        }

    def failing(self) -> set[int]:
        """Partitions that are being restored, where the last try failed."""
        return {p for p, tap in self.taps.items() if not tap.ready and (tap.starved or p in self._failed)}

    def _count_chunks(self, chunks: Mapping[int, list[Chunk]]) -> None:
        found = [chunk for taken in chunks.values() for chunk in taken]
        self._count("writer_duplicates_total", sum(chunk.duplicates for chunk in found))
        self._count("writer_read_bytes_total", sum(chunk.bytes for chunk in found))

    def _log_error(self, error: Exception) -> None:
        name = type(error).__name__
        self._count("log_errors_total", stream=self.stream.name, operation="read", error=name)

    def _count(self, name: str, by: float = 1, **labels: str) -> None:
        self.counters[sample(name, **(labels or {"stream": self.stream.name}))] += by
