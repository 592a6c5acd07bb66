"""The embedded log, for one machine: a SQLite file per stream below `log_dir`. Default backend of `backends`.

Every process opens its own `EmbeddedLog` on the same directory; `stream_file` keeps them apart. A background thread
moves write-ahead logs into the files.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.errors import ConfigError, LogUnavailable
from eagleray.cluster.log.protocol import Bounds, Entry, Record
from eagleray.cluster.log.stream_file import StreamFile

META = "meta.json"
FORMAT = 2  # 1: a file per partition


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
        self._files: dict[str, StreamFile] = {}
        self._files_mutex = threading.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _fix_partitions(directory / META, partitions)
        except OSError as error:
            raise LogUnavailable(f"{directory}: {error}") from error
        self._due: queue.SimpleQueue[StreamFile | None] = queue.SimpleQueue()
        self._keeper = threading.Thread(target=self._checkpoint, name="log-checkpoint", daemon=True)
        self._keeper.start()

    @property
    def partitions(self) -> int:
        """Partitions of every stream."""
        return self._partitions

    def append(self, stream: str, entries: Sequence[Entry]) -> list[int]:
        """Append and return one offset per entry, after fsync; see `EventLog.append`."""
        for entry in entries:
            self._check(entry.partition)
        if not entries:
            return []
        file = self._file(stream)
        offsets = file.append(entries)
        if file.checkpoint_due:
            self._due.put(file)
        return offsets

    def read(self, stream: str, partition: int, offset: int, max_bytes: int) -> list[Record]:
        """Records from `offset` on; see `EventLog.read`."""
        self._check(partition)
        return self._file(stream).read(partition, offset, max_bytes)

    def bounds(self, stream: str, partition: int) -> Bounds:
        """The offsets held now; see `EventLog.bounds`."""
        self._check(partition)
        return self._file(stream).bounds(partition)

    def trim(self, stream: str, partition: int, before_offset: int, older_than_us: int) -> int:
        """Delete old records; see `EventLog.trim`. The file does not shrink: its pages are used again."""
        self._check(partition)
        return self._file(stream).trim(partition, before_offset, older_than_us)

    def close(self) -> None:
        """Wait for what is being written, then close all files."""
        self._due.put(None)
        self._keeper.join()
        with self._files_mutex:
            files, self._files = list(self._files.values()), {}
        for file in files:
            file.close()

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self._partitions:
            raise ValueError(f"partition {partition} of {self._partitions}")

    def _file(self, stream: str) -> StreamFile:
        file = self._files.get(stream)
        if file is None:
            with self._files_mutex:
                path = self._directory / stream / "records.db"
                made = StreamFile(path, f"log {stream}", self._clock, self._append_timeout_s)
                file = self._files.setdefault(stream, made)
        return file

    def _checkpoint(self) -> None:
        while (file := self._due.get()) is not None:
            if file.checkpoint_due:  # it may have been queued twice
                file.checkpoint()


def _fix_partitions(meta: Path, partitions: int) -> None:
    """The first one to come writes the number of partitions; everyone else must agree with it."""
    if not meta.exists():
        making = meta.with_name(f"{META}.{os.getpid()}.{threading.get_ident()}")
        with making.open("w") as file:
            json.dump({"version": FORMAT, "partitions": partitions}, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(making, meta)  # unlike a rename, it fails if another process was faster
        except FileExistsError:
            pass
        finally:
            making.unlink()
    found = json.loads(meta.read_text())
    if found.get("version") != FORMAT:
        raise ConfigError(str(meta), f"log format {found.get('version')!r} is not one this version can read")
    if found["partitions"] != partitions:
        problem = f"the log in {meta.parent} was made with {found['partitions']} partitions, not {partitions}"
        raise ConfigError("log.partitions", f"{problem}; keep the number, or use another data_dir")
