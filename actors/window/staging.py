"""Late rows on their way into the lake: written to files once, offered until the table has them. One per worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from eagleray.actors.messages import Progress, Staged, partition_key
from eagleray.actors.window.partition import View

Write = Callable[[str, pa.Table], list[Any]]


class LateStaging:
    """What was written for `<stream>.late` and is not known to be committed."""

    def __init__(self, write: Write) -> None:
        """`write(table, rows)` makes data files."""
        self._write = write
        self._held: dict[str, Staged] = {}
        self._busy = threading.Lock()

    def offer(self, stream: str, views: Mapping[int, View], progress: Progress) -> Staged | None:
        """The batch to commit next for the partitions in `views`; None if there are no late rows, or while one is made.

        The same batch again until `progress` shows that it landed. A table that stands elsewhere makes a new one.
        """
        if not self._busy.acquire(blocking=False):
            return None  # another collect, which timed out at its caller, is still writing
        try:
            table = f"{stream}.late"
            held = self._held.get(table)
            if held is not None and _stands_at(progress, held.begins) and _covers(views, held):
                return held
            self._held.pop(table, None)
            made = self._make(table, views, progress)
            if made is not None:
                self._held[table] = made
            return made
        finally:
            self._busy.release()

    def _make(self, table: str, views: Mapping[int, View], progress: Progress) -> Staged | None:
        begins, ends, parts = {}, {}, []
        for partition, view in sorted(views.items()):
            key = partition_key(partition)
            begin = progress.get(key, 0)
            rows = [late.rows.filter(pc.field("_offset") >= begin) for late in view.late if late.last >= begin]
            if rows:
                parts += rows
                begins[key], ends[key] = begin, view.position
        if not parts:
            return None
        rows_all = pa.concat_tables(parts)
        return Staged(table, self._write(table, rows_all), rows_all.num_rows, begins, ends)


def _stands_at(progress: Progress, begins: Mapping[str, int]) -> bool:
    return all(progress.get(key, 0) == begin for key, begin in begins.items())


def _covers(views: Mapping[int, View], held: Staged) -> bool:
    owned = {partition_key(partition) for partition in views}
    return held.begins.keys() <= owned
