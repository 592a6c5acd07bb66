"""Reads one partition ahead of the table: restores deduplication, replays what is missing, then buffers fresh chunks.

`step` runs in the worker's reading thread, the rest in its collecting thread; they share a deque and a few numbers,
each written by one side only.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

import pyarrow as pa

from eagleray.cluster.errors import LogCorrupt, LogUnavailable
from eagleray.cluster.events.stream import Stream
from eagleray.cluster.log.dedup.deduplicator import Deduplicator
from eagleray.cluster.log.protocol import EventLog
from eagleray.cluster.log.reader import Chunk, PartitionReader
from eagleray.cluster.machine_errors import starved
from eagleray.cluster.seen_ids import SeenIds
from eagleray.cluster.state.protocol import Place
from eagleray.cluster.telemetry import tracing
from eagleray.cluster.telemetry.tracing import Spans

logger = logging.getLogger(__name__)

READ_BYTES = 4 << 20  # of log payload per step
FULL_BYTES = 1 << 20  # a step that read this much is followed by the next one at once
RETRY_S = 0.5  # after the log could not be read
SAVE_INTERVAL_S = 10.0  # older = a longer replay after a restart


class Tap:
    """One partition, from the table's position on. A tap that failed never recovers: make a new one."""

    def __init__(
        self,
        log: EventLog,
        seen: SeenIds,
        stream: Stream,
        partition: int,
        base: int,
        place: Place,
        columns: pa.Schema,
        log_error: Callable[[Exception], object] = lambda error: None,
    ) -> None:
        """`base` is where the table stands; `place` keeps identifiers; `columns` are taken.

        `log_error` hears of each read of the log that failed, in the reading thread.
        """
        self.stream = stream
        self.partition = partition
        self.base = base  # everything below is in the table
        self.position = base  # everything below was taken
        self.mark: int | None = None  # of the last record that was taken
        self.ready = False  # restored and replayed
        self.failed: Exception | None = None
        self.starved = False  # the last step found no memory
        self._log_error = log_error
        self._seen = seen
        self._place = place
        self._chunks: deque[tuple[Chunk, int, Spans]] = deque()  # with decoded bytes
        self._taken: list[Spans] = []  # of chunks that were taken, until they are written
        # Also where the stream names no id: an Idempotency-Key gives events one.
        self._dedup = Deduplicator(stream.config.dedup_horizon)
        self._restoring: Iterator[int] | None = None
        self._reader = PartitionReader(log, stream, partition, base, self._dedup, columns)
        self._saved = 0
        self._to_save: int | None = None
        self._saved_at = time.monotonic()
        self._retry_at = 0.0
        self._read_bytes = READ_BYTES
        self._end = base

    # ── the reading thread ─────────────────────────────────────────────────────────────────────────────────────────

    def step(self) -> bool:
        """Do one bounded piece of work; whether the next one should follow at once."""
        if self.failed is not None or time.monotonic() < self._retry_at:
            return False
        try:
            self._save()
            more = self._read() if self.ready else self._restore()
            self.starved = False
            return more
        except (LogUnavailable, OSError) as error:  # OSError: no room for identifiers; nothing changed either
            self.starved, self._retry_at = starved(error), time.monotonic() + RETRY_S
            if isinstance(error, LogUnavailable):
                self._log_error(error)
            logger.warning("%s/%d waits: %s", self.stream.name, self.partition, error)
        except LogCorrupt as error:
            self._log_error(error)
            if self._read_bytes > 1:
                self._read_bytes = 1  # record by record up to the damaged one
                return True
            self._fail(error)
        except Exception as error:
            self._fail(error)
        return False

    def _fail(self, error: Exception) -> None:
        # Half a chunk may have marked identifiers as seen, so nothing can go on from here.
        self.failed = error
        logger.error("%s/%d cannot be read", self.stream.name, self.partition, exc_info=error)

    def _restore(self) -> bool:
        if self._restoring is None:
            self._restoring = self._seen.restore(self._dedup, self._place, self.partition, self.base)
        try:
            self._saved = next(self._restoring)
        except StopIteration:
            self._restoring, self.ready = None, True
            facts = {"stream": self.stream.name, "partition": self.partition, "position": self.base}
            logger.info("partition taken over", extra=facts)
            if self._saved < self.base:
                self._to_save = self.base  # found out once, at some cost
        except BaseException:
            self._restoring = None
            raise
        return True

    def _read(self) -> bool:
        chunk = self._reader.read(self._read_bytes)
        if chunk is None:
            return False
        spans = tracing.begin("write", chunk.traces, stream=self.stream.name, partition=self.partition)
        self._chunks.append((chunk, chunk.events.nbytes + chunk.rejects.nbytes, spans))
        return chunk.bytes >= FULL_BYTES or self._read_bytes < READ_BYTES

    def _save(self) -> None:
        upto, self._to_save = self._to_save, None
        if upto is None:
            return
        try:
            self._dedup.save(self._place, upto)
            self._saved = upto
        except OSError as error:  # a cache: without it a restart replays more of the log
            logger.warning("identifiers of %s/%d not saved: %s", self.stream.name, self.partition, error)

    # ── the collecting thread ──────────────────────────────────────────────────────────────────────────────────────

    def take(self) -> list[Chunk]:
        """All chunks read so far; the position moves behind them."""
        taken = []
        while self._chunks:
            chunk, _, spans = self._chunks.popleft()
            taken.append(chunk)
            if spans.contexts:
                self._taken.append(spans)
            self.position, self.mark = chunk.end, chunk.mark
        return taken

    @property
    def buffered_bytes(self) -> int:
        """Decoded rows that were read and not yet taken."""
        return sum(size for _, size, _ in tuple(self._chunks))

    def written(self) -> list[str]:
        """What was taken is in files: its spans end, whose contexts these are."""
        taken, self._taken = self._taken, []
        for spans in taken:
            spans.end()
        return [context for spans in taken for context in spans.contexts]

    def landed(self, base: int) -> None:
        """The table now stands at `base`."""
        self.base = base
        if time.monotonic() - self._saved_at >= SAVE_INTERVAL_S:
            self._saved_at = time.monotonic()
            self._to_save = base

    @property
    def safe(self) -> int:
        """Records below are never needed again: they are in the table, and their identifiers are saved."""
        return min(self.base, self._saved)

    def end(self) -> int:
        """The end of the log's partition, as last seen."""
        try:
            self._end = self._reader.lag().end
        except (LogUnavailable, LogCorrupt) as error:
            logger.warning("end of %s/%d unknown: %s", self.stream.name, self.partition, error)
        return max(self._end, self.position)

    def close(self, save: bool) -> None:
        """Close files; `save` first what a successor can use. For the reading thread, or when it has ended."""
        if save and self.ready and self.failed is None:
            self._to_save = self.base
            self._save()
        self._dedup.close()
