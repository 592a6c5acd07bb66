"""The embedded log, for one machine: a SQLite file per stream and partition below `log_dir`. Default backend of `open`.

Every process opens its own `EmbeddedLog` on the same directory; `partition` keeps them apart. Partitions of one append
are written side by side, since each waits for its own fsync. A background thread moves write-ahead logs into the files.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cluster.clock import Clock, SystemClock
from cluster.errors import ConfigError, LogUnavailable
from cluster.log.partition import PartitionFile
from cluster.log.protocol import Bounds, Entry, Record

META = "meta.json"
APPEND_THREADS = 32  # started as needed; enough that appends stuck at one partition leave some for the others


class EmbeddedLog:
    """An `EventLog` in files of this machine."""

    def __init__(
        self, directory: Path, partitions: int, append_timeout_s: float = 5.0, clock: Clock | None = None
    ) -> None:
        """Open or create; ConfigError if `directory` was made with another number of partitions, LogUnavailable."""
        self._directory = directory
        self._partitions = partitions
        self._append_timeout_s = append_timeout_s
        self._clock = clock or SystemClock()
        self._files: dict[tuple[str, int], PartitionFile] = {}
        self._files_mutex = threading.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _fix_partitions(directory / META, partitions)
        except OSError as error:
            raise LogUnavailable(f"{directory}: {error}") from error
        self._pool = ThreadPoolExecutor(APPEND_THREADS, "log-append")
        self._due: queue.SimpleQueue[PartitionFile | None] = queue.SimpleQueue()
        self._keeper = threading.Thread(target=self._checkpoint, name="log-checkpoint", daemon=True)
        self._keeper.start()

    @property
    def partitions(self) -> int:
        """Partitions of every stream."""
        return self._partitions

    def append(self, stream: str, entries: Sequence[Entry]) -> list[int]:
        """Append and return one offset per entry, after fsync; see `EventLog.append`."""
        groups: dict[int, list[int]] = {}
        for index, entry in enumerate(entries):
            groups.setdefault(entry.partition, []).append(index)
        # every partition is looked up before any is written
        parts = [(self._file(stream, partition), indexes) for partition, indexes in groups.items()]
        offsets = [0] * len(entries)
        others: list[tuple[list[int], Future[list[int]]]] = [
            (indexes, self._pool.submit(self._append_to, file, [entries[i] for i in indexes]))
            for file, indexes in parts[1:]
        ]
        try:
            for file, indexes in parts[:1]:
                _place(offsets, indexes, self._append_to(file, [entries[i] for i in indexes]))
        finally:  # never return while some of it is still being written
            failures = [future.exception() for _, future in others]
        for failure in failures:
            if failure is not None:
                raise failure
        for indexes, future in others:
            _place(offsets, indexes, future.result())
        return offsets

    def read(self, stream: str, partition: int, offset: int, max_bytes: int) -> list[Record]:
        """Records from `offset` on; see `EventLog.read`."""
        return self._file(stream, partition).read(offset, max_bytes)

    def bounds(self, stream: str, partition: int) -> Bounds:
        """The offsets held now; see `EventLog.bounds`."""
        return self._file(stream, partition).bounds()

    def trim(self, stream: str, partition: int, before_offset: int, older_than_us: int) -> int:
        """Delete old records; see `EventLog.trim`. The file does not shrink: its pages are used again."""
        return self._file(stream, partition).trim(before_offset, older_than_us)

    def close(self) -> None:
        """Wait for what is being written, then close all files."""
        self._pool.shutdown()
        self._due.put(None)
        self._keeper.join()
        with self._files_mutex:
            files, self._files = list(self._files.values()), {}
        for file in files:
            file.close()

    def _append_to(self, file: PartitionFile, entries: Sequence[Entry]) -> list[int]:
        offsets = file.append(entries)
        if file.checkpoint_due:
            self._due.put(file)
        return offsets

    def _file(self, stream: str, partition: int) -> PartitionFile:
        file = self._files.get((stream, partition))
        if file is None:
            if not 0 <= partition < self._partitions:
                raise ValueError(f"partition {partition} of {self._partitions}")
            with self._files_mutex:
                path = self._directory / stream / f"{partition}.db"
                made = PartitionFile(path, f"log {stream}/{partition}", self._clock, self._append_timeout_s)
                file = self._files.setdefault((stream, partition), made)
        return file

    def _checkpoint(self) -> None:
        while (file := self._due.get()) is not None:
            if file.checkpoint_due:  # it may have been queued twice
                file.checkpoint()


def _place(offsets: list[int], indexes: Sequence[int], found: Sequence[int]) -> None:
    for index, offset in zip(indexes, found, strict=True):
        offsets[index] = offset


def _fix_partitions(meta: Path, partitions: int) -> None:
    """The first one to come writes the number of partitions; everyone else must agree with it."""
    if not meta.exists():
        making = meta.with_name(f"{META}.{os.getpid()}.{threading.get_ident()}")
        with making.open("w") as file:
            json.dump({"version": 1, "partitions": partitions}, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(making, meta)  # unlike a rename, it fails if another process was faster
        except FileExistsError:
            pass
        finally:
            making.unlink()
    found = json.loads(meta.read_text())
    if found.get("version") != 1:
        raise ConfigError(str(meta), f"log format {found.get('version')!r} is not one this version can read")
    if found["partitions"] != partitions:
        problem = f"the log in {meta.parent} was made with {found['partitions']} partitions, not {partitions}"
        raise ConfigError("log.partitions", f"{problem}; keep the number, or use another data_dir")
