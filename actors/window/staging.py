"""Late rows on their way into the lake: written to files once, offered until the table has them. One per worker.

The table `late` says how far each partition is decided: below its `p<n>` all late rows are there, and its `w<n>` is the
watermark at that record. Windows can be counted again from there (`WindowPartition`), so the log is kept from there on;
where nothing is late, it moves on without rows now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from eagleray.actors.messages import Progress, Staged, partition_key
from eagleray.actors.window.partition import View
from eagleray.cluster.lake.progress import NEVER, standing, watermark_key

STEPS_PER_RETENTION = 10  # the log is kept longer by a tenth than it need be
STEP_MIN_S, STEP_MAX_S = 15.0, 600.0  # every step is a snapshot of the table

Write = Callable[[str, pa.Table], list[Any]]
Stale = Callable[[str, list[Any]], bool]


class LateStaging:
    """What was written for `<stream>.late` and is not known to be committed."""

    def __init__(self, write: Write, stale: Stale, retention_s: float) -> None:
        """`write(table, rows)` makes data files; `stale(table, files)`: whether they can no longer be committed.

        `retention_s` of the log says how often the table moves on without rows.
        """
        self._write = write
        self._stale = stale
        self._held: dict[str, Staged] = {}
        self._busy = threading.Lock()
        self._step_s = min(max(retention_s / STEPS_PER_RETENTION, STEP_MIN_S), STEP_MAX_S)
        self._moved_at: dict[str, float] = {}

    def offer(self, stream: str, views: Mapping[int, View], progress: Progress) -> Staged | None:
        """The batch to commit next for the partitions in `views`; None if there are no late rows, or while one is made.

        The same batch again until `progress` shows that it landed. A table that stands elsewhere makes a new one, and
        so do files that waited too long.
        """
        if not self._busy.acquire(blocking=False):
            return None  # another collect, which timed out at its caller, is still writing
        try:
            table = f"{stream}.late"
            held = self._held.get(table)
            if held is not None and _stands_at(progress, held.begins) and _covers(views, held):
                if not self._stale(table, held.files):
                    return held
            self._held.pop(table, None)
            made = self._make(table, views, progress)
            if made is not None:
                self._held[table] = made
            return made
        finally:
            self._busy.release()

    def _make(self, table: str, views: Mapping[int, View], progress: Progress) -> Staged | None:
        begins: dict[str, int] = {}
        ends: dict[str, int] = {}
        parts = []
        moved_at = self._moved_at.setdefault(table, time.monotonic())
        due = time.monotonic() - moved_at >= self._step_s
        for partition, view in sorted(views.items()):
            key, mark = partition_key(partition), watermark_key(partition)
            begin = progress.get(key, 0)
            rows = [late.rows.filter(pc.field("_offset") >= begin) for late in view.late if late.last >= begin]
            if rows or (due and view.position > begin):
                parts += rows
                begins |= {key: begin, mark: progress.get(mark, NEVER)}
                ends |= {key: view.position, mark: view.watermark_us}
        if not begins:
            return None
        self._moved_at[table] = time.monotonic()
        rows_all = pa.concat_tables(parts) if parts else None
        if rows_all is None:
            return Staged(table, [], 0, begins, ends)
        return Staged(table, self._write(table, rows_all), rows_all.num_rows, begins, ends)


def _stands_at(progress: Progress, begins: Mapping[str, int]) -> bool:
    return standing(progress, begins) == dict(begins)


def _covers(views: Mapping[int, View], held: Staged) -> bool:
    owned = {key for partition in views for key in (partition_key(partition), watermark_key(partition))}
    return held.begins.keys() <= owned
