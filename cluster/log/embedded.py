"""The embedded log, for one machine: a SQLite file per stream below `log_dir`. Default backend of `backends`.

Every process opens its own `EmbeddedLog` on the same directory; `stream_file` keeps them apart. A background thread
moves write-ahead logs into the files.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.durable import sync_directory, write_once
from eagleray.cluster.errors import ConfigError, LogCorrupt, LogUnavailable
from eagleray.cluster.log.ingest_clock import Anchor, IngestClock
from eagleray.cluster.log.protocol import RECORD_BYTES_MAX, Bounds, Entry, Epoch, Record, partition_key
from eagleray.cluster.log.stream_file import StreamFile

META = "meta.json"
RECORDS = "records.db"
ASIDE = "aside.db"  # a log being made
FORMAT = 2  # 1: a file per partition


class EmbeddedLog:
    """An `EventLog` in files of this machine."""

    def __init__(
        self,
        directory: Path,
        partitions: int,
        append_timeout_s: float = 5.0,
        clock: Clock | None = None,
        epochs: Mapping[str, Epoch] | None = None,
        anchor: Anchor | None = None,
    ) -> None:
        """Open or create; ConfigError if `directory` was made with another number of partitions, LogUnavailable.

        `epochs` are the streams' logs as the tables know them: no other file is read or written, and none is made.
        Without them, the first append to a stream makes its log.
        """
        self._directory = directory
        self._epochs = epochs
        self._partitions = partitions
        self._append_timeout_s = append_timeout_s
        self._clock = IngestClock(clock or SystemClock(), anchor)
        self._files: dict[str, StreamFile] = {}
        self._aside: dict[str, StreamFile] = {}
        self._files_mutex = threading.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not (directory / META).exists() and (problem := _held_beyond(directory, partitions, self._clock)):
                raise ConfigError("log.partitions", problem)
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

    @property
    def record_bytes_max(self) -> int:
        """The largest payload of an entry."""
        return RECORD_BYTES_MAX

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

    def committed(self, stream: str, ends: Mapping[int, int]) -> None:
        """Nobody is told."""

    def newest_us(self, stream: str, partition: int) -> int:
        """When the newest record was ingested; see `EventLog.newest_us`."""
        self._check(partition)
        return self._file(stream).newest_us(partition)

    def trouble(self, stream: str) -> LogUnavailable | LogCorrupt | None:
        """What is wrong with the stream's file; see `EventLog.trouble`."""
        try:
            self._clock.now_us()
            self._file(stream).look()
        except (LogUnavailable, LogCorrupt) as error:
            return error
        return None

    def epoch(self, stream: str) -> Epoch | None:
        """The stream's log now; see `EventLog.epoch`."""
        return self._file(stream).epoch()

    def begin(self, stream: str, epoch: Epoch, ingested_at_us: int = 0) -> None:
        """Make a log aside; see `EventLog.begin`."""
        self._close_aside(stream)
        path = self._path(stream, ASIDE)
        for part in ("", "-wal", "-shm"):
            path.with_name(path.name + part).unlink(missing_ok=True)
        bases = {partition: epoch.bases.get(partition_key(partition), 0) for partition in range(self._partitions)}
        self._aside_file(stream).make(epoch, {at: base for at, base in bases.items() if base}, ingested_at_us)

    def begun(self, stream: str) -> Epoch | None:
        """The log made aside; see `EventLog.begun`."""
        return self._aside_file(stream).epoch()

    def carry(self, stream: str, partition: int, records: Sequence[Record]) -> None:
        """Append records of an earlier log; see `EventLog.carry`."""
        self._check(partition)
        self._aside_file(stream).carry(partition, records)

    def activate(self, stream: str) -> None:
        """Put the log made aside in place; see `EventLog.activate`. A killed one is completed by the next.

        1. what the write-ahead log of the new file holds is in it  2. the old file, its parts with it, gets another
        name  3. the new one gets its name  4. both are durable
        """
        self._close_aside(stream)
        with self._files_mutex:
            old = self._files.pop(stream, None)
        if old is not None:
            old.close()
        path, aside = self._path(stream, RECORDS), self._path(stream, ASIDE)
        if not aside.exists():
            raise LogUnavailable(f"{aside} is not there; nothing was changed")
        kept = self._path(stream, f"replaced-{self._clock.now_us()}.db")
        try:
            for part in ("-shm", "-wal", ""):
                with suppress(FileNotFoundError):
                    path.with_name(path.name + part).rename(kept.with_name(kept.name + part))
            aside.rename(path)
            for leftover in (".lock", ".open"):
                aside.with_suffix(leftover).unlink(missing_ok=True)
            sync_directory(path.parent)
            sync_directory(self._directory)
        except OSError as error:
            raise LogUnavailable(f"{path}: {error}") from error

    def _path(self, stream: str, name: str) -> Path:
        return self._directory / stream / name

    def _aside_file(self, stream: str) -> StreamFile:
        path = self._path(stream, ASIDE)
        return self._aside.setdefault(
            stream, StreamFile(path, f"log {stream}, made aside", self._clock, self._append_timeout_s)
        )

    def _close_aside(self, stream: str) -> None:
        if (file := self._aside.pop(stream, None)) is not None:
            file.close()

    def close(self) -> None:
        """Wait for what is being written, then close all files."""
        self._due.put(None)
        self._keeper.join()
        with self._files_mutex:
            files, self._files = list(self._files.values()), {}
        for file in files:
            file.close()
        for stream in list(self._aside):
            self._close_aside(stream)

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self._partitions:
            raise ValueError(f"partition {partition} of {self._partitions}")

    def _file(self, stream: str) -> StreamFile:
        file = self._files.get(stream)
        if file is None:
            with self._files_mutex:
                path = self._path(stream, RECORDS)
                expected = (self._epochs or {}).get(stream)
                strict = self._epochs is not None
                made = StreamFile(path, f"log {stream}", self._clock, self._append_timeout_s, expected, strict)
                file = self._files.setdefault(stream, made)
        return file

    def _checkpoint(self) -> None:
        while (file := self._due.get()) is not None:
            if file.checkpoint_due:  # it may have been queued twice
                file.checkpoint()


def partitions_problem(directory: Path, partitions: int) -> str | None:
    """What keeps the log in `directory` from having so many partitions. Writes nothing; raises ConfigError, OSError."""
    meta = directory / META
    if not meta.exists():
        return None
    try:
        found = dict(json.loads(meta.read_text()))
        version, made = found["version"], found["partitions"]
    except (ValueError, TypeError, KeyError) as error:
        problem = f"is damaged ({error}); restore it from a backup (`eagleray restore`)"
        raise ConfigError(str(meta), problem) from error
    if version != FORMAT:
        raise ConfigError(str(meta), f"log format {version!r} is not one this version can read")
    if made == partitions:
        return None
    problem = f"the log in {directory} was made with {made} partitions, not {partitions}"
    return f"{problem}; keep the number, or use another data_dir"


def _fix_partitions(meta: Path, partitions: int) -> None:
    """The first one to come writes the number of partitions; everyone else must agree with it."""
    if not meta.exists():
        write_once(meta, json.dumps({"version": FORMAT, "partitions": partitions}))
    if problem := partitions_problem(meta.parent, partitions):
        raise ConfigError("log.partitions", problem)


def _held_beyond(directory: Path, partitions: int, clock: IngestClock) -> str | None:
    """Why the log cannot have so few partitions, by the records that it holds; for when META is lost."""
    for path in sorted(directory.glob(f"*/{RECORDS}")):
        file = StreamFile(path, f"log {path.parent.name}", clock, 5.0)
        try:
            held = file.partitions()
        except LogCorrupt:
            continue  # nobody can read it, which is said elsewhere
        finally:
            file.close()
        if held > partitions:
            return (
                f"{path} holds records of {held} partitions or more, and {directory / META}, which said how many, is"
                f" gone: expected the number that the log was made with, not {partitions}"
            )
    return None
