"""What open windows held, counted again from the tables, where neither saved state nor log reach back.

`late` says how far late events are decided and where the watermark stood there; `events` less `late` is what counts
before that. The committer never lets the log be trimmed beyond what `late` has decided. A worker that loses one
partition has mostly lost all of them, so the first that asks has the others counted in the same pass over the files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pyarrow as pa

from eagleray.actors.messages import PartitionId, partition_key
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.events.stream import Stream
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.progress import watermark_key
from eagleray.cluster.lake.window_history import StreamHistory
from eagleray.cluster.log.protocol import EventLog
from eagleray.cluster.windowing.recount import open_windows
from eagleray.cluster.windowing.watermark import NEVER

logger = logging.getLogger(__name__)


class TablesBehind(EaglerayError):
    """`events` is not as far yet as windows must be counted from. Nothing failed: ask again later."""


class Recounted(NamedTuple):
    """A partition after all records below `position`."""

    position: int
    watermark_us: int
    open: Mapping[str, pa.Table]  # by era of a window (`Era.key`)


class StateOfTables:
    """The state of a worker's partitions by the tables alone. One thread calls it."""

    def __init__(self, log: EventLog, lake: Lake, beat: Callable[[], object] = lambda: None) -> None:
        """`beat` is called while a recount goes on."""
        self._log, self._lake, self._beat = log, lake, beat
        self._missing: frozenset[PartitionId] = frozenset()
        self._kept: dict[PartitionId, Recounted] = {}

    def expect(self, missing: Iterable[PartitionId]) -> None:
        """These partitions are about to be restored: what one of them makes read, is kept for the others."""
        self._missing = frozenset(missing)
        self._kept = {key: found for key, found in self._kept.items() if key in self._missing}

    def restore(
        self, stream: Stream, history: StreamHistory, closed: Mapping[str, int], partition: int, first: int
    ) -> Recounted:
        """A partition whose log begins at `first`; `closed`: by window, where its table stands.

        Raises TablesBehind, OSError.
        """
        found = self._kept.pop((stream.name, partition), None)
        if found is None or found.position < first:  # else the log has it all from there on
            others = {number for name, number in self._missing if name == stream.name}
            found = self._count(stream, history, closed, partition, others)
        return found

    def _count(
        self, stream: Stream, history: StreamHistory, closed: Mapping[str, int], partition: int, others: set[int]
    ) -> Recounted:
        began = time.monotonic()
        late, events = (self._lake.pin(f"{stream.name}.{table}") for table in ("late", "events"))
        upto, waiting = {}, {}
        for number in {partition, *others}:
            key, first = partition_key(number), self._log.bounds(stream.name, number).first
            needed = max(first, late.progress.get(key, 0))
            if events.progress.get(key, 0) < needed:
                waiting[number] = f"`events` is at {events.progress.get(key, 0)}, and windows go on from {needed}"
            elif first or number == partition:  # another's log may have it all
                upto[number] = needed
        if partition in waiting:
            raise TablesBehind(waiting[partition])
        eras = [(era, closed.get(name, NEVER)) for name, eras in history.live(closed).items() for era in eras]
        open_ = open_windows(stream, eras, events, late, upto, history.times, self._beat)
        logger.warning(
            "%s: neither saved state nor log reach back: counted %d windows of partitions %s again, in %.1f s",
            *(stream.name, len(eras), ", ".join(map(str, sorted(upto))), time.monotonic() - began),
        )
        # Where nothing says how far the watermark was, it was where windows were closed last, if not beyond.
        least = max(closed.values(), default=NEVER)
        for number, position in upto.items():
            watermark = late.progress.get(watermark_key(number), least)
            self._kept[stream.name, number] = Recounted(position, watermark, open_[number])
        return self._kept.pop((stream.name, partition))
