"""Writes a stream of rows, however long, into data files of a table in bounded memory. Used by jobs and compaction.

Rows wait, by partition, until there are enough of them for a sorted run; runs are appended to one open file per
partition until it is large enough. So a file is sorted in runs of about `sort_bytes`. Files that were written when
something fails are deleted again: no commit ever named them.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

import pyarrow as pa
from pyiceberg.manifest import DataFile
from pyiceberg.typedef import Record

from eagleray.cluster.lake.parquet_files import FileWriter, OpenFile
from eagleray.cluster.lake.staged_files import Renewal

STAGE_BYTES = 16 << 20  # rows that are split into partitions at once
SORT_BYTES = 128 << 20  # waiting rows, of all partitions, as Arrow data
OPEN_MAX = 64  # files being written at once: each holds a few pages and a descriptor

Key = tuple[Any, ...]


def values(partition: Record) -> Key:
    """The values of a partition as a key of maps."""
    return tuple(partition[index] for index in range(len(partition)))


class FileStream:
    """Takes rows, gives files: `with lake.stream(table) as out: out.write(rows); files = out.finish()`."""

    def __init__(self, writer: FileWriter, sort_bytes: int, partition: Record | None, renewal: Renewal) -> None:
        """At most about twice `sort_bytes` of memory is used. `partition`: all rows are of this one."""
        self._writer = writer
        self._renewal = renewal
        self._sort_bytes = sort_bytes
        self._key = None if partition is None else values(partition)
        self._stage: list[pa.Table] = []
        self._staged = 0
        self._waiting: dict[Key, list[pa.Table]] = {}
        self._sizes: dict[Key, int] = {}
        self._open: dict[Key, OpenFile] = {}  # least recently written first
        self._files: list[DataFile] = []
        self._measured = True  # once NaN came in the middle of a file no further file is cut short by it
        self.rows = 0

    @property
    def schema(self) -> pa.Schema:
        """The columns of the files, with field ids; rows that have it are written as they are."""
        return self._writer.arrow

    def __enter__(self) -> FileStream:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Delete what was written, where the body failed."""
        if kind is not None:
            self._discard()

    def write(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Take rows; raises ValueError for columns that do not fit the table, OSError where it cannot be written."""
        if not rows.num_rows:
            return
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        shaped = self._writer.shape(table)
        self.rows += table.num_rows
        if self._key is not None:
            self._renewal.keep(self._locations())
            self._wait(self._key, shaped)
            return
        self._stage.append(shaped)
        self._staged += shaped.nbytes
        if self._staged >= STAGE_BYTES:
            self._distribute()

    def write_all(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Take every batch."""
        for batch in batches:
            self.write(batch)

    def finish(self) -> list[DataFile]:
        """All rows as files, durable."""
        self._distribute()
        for key in list(self._waiting):
            self._flush(key)
        for file in self._open.values():
            self._files.append(file.close())
        self._open.clear()
        return self._files

    def _distribute(self) -> None:
        self._renewal.keep(self._locations())
        if not self._stage:
            return
        rows = pa.concat_tables(self._stage)
        self._stage, self._staged = [], 0
        for part in self._writer.split(rows.combine_chunks(), ordered=False):
            self._wait(values(part.key), part.rows)

    def _wait(self, key: Key, rows: pa.Table) -> None:
        self._waiting.setdefault(key, []).append(rows)
        self._sizes[key] = self._sizes.get(key, 0) + rows.nbytes
        while sum(self._sizes.values()) >= self._sort_bytes:
            self._flush(max(self._sizes, key=self._sizes.__getitem__))

    def _flush(self, key: Key) -> None:
        rows = pa.concat_tables(self._waiting.pop(key))
        del self._sizes[key]
        for part in self._writer.split(rows):
            for group in self._writer.groups(part):
                if key in self._open and not self._open[key].takes(group):
                    self._measured = False
                    self._close(key)
                file = self._open.pop(key, None) or self._writer.open(part.key, self._measured)
                self._open[key] = file
                file.write(group)
                if file.size >= self._writer.file_bytes_max:
                    self._close(key)
        while len(self._open) > OPEN_MAX:
            self._close(next(iter(self._open)))

    def _close(self, key: Key) -> None:
        self._files.append(self._open[key].close())
        del self._open[key]

    def _locations(self) -> list[str]:
        return [*(file.location for file in self._open.values()), *(file.file_path for file in self._files)]

    def _discard(self) -> None:
        io = self._writer.table.io
        for file in self._open.values():
            with suppress(OSError, ValueError):
                file.abandon()
        for location in self._locations():
            with suppress(OSError):
                io.delete(location)
        self._open.clear()
        self._files.clear()
