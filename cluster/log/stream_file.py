"""One stream of the embedded log: all its partitions in a SQLite file in WAL mode. Owned by `embedded`.

One file, so that an append to many partitions is one transaction and one fsync (ADR 11). Appenders of all processes
take turns by a file lock, so that nobody ever polls for SQLite's own lock; appends of threads that wait meanwhile are
committed together by whoever gets the lock. A commit is on disk when it returns (`synchronous=FULL`). Whatever goes
wrong, the connection is thrown away: SQLite rolls back, the next one starts clean.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from eagleray.cluster.clock import Clock
from eagleray.cluster.errors import LogCorrupt, LogUnavailable, OffsetOutOfRange
from eagleray.cluster.log import sqlite_schema as database
from eagleray.cluster.log.file_lock import FileLock
from eagleray.cluster.log.protocol import Bounds, Entry, Record
from eagleray.cluster.log.wal import check_wal

CHECKPOINT_BYTES = 16 << 20
RESTART_S = 0.1  # how long a checkpoint may wait for readers to leave a WAL that outgrew four times its size
TRIM_STEP = 256  # records deleted in one transaction: appenders never wait long for retention
BUSY_READ_S = 5.0  # readers wait only while another process recovers the file after a crash

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class _Append:
    """The entries of one call, waiting for their turn."""

    __slots__ = ("entries", "error", "offsets", "settled")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.offsets: list[int] = []
        self.settled = False
        self.error: Exception | None = None


class StreamFile:
    """The records of one stream in `path`; safe to use from several threads and processes."""

    def __init__(self, path: Path, name: str, clock: Clock, timeout_s: float) -> None:
        """`name` is for messages. Nothing is created before the first append; appends give up after `timeout_s`."""
        self.path = path
        self.name = name
        self._clock = clock
        self._timeout_s = timeout_s
        self._waiting: deque[_Append] = deque()
        self._write_mutex = threading.Lock()
        self._read_mutex = threading.Lock()
        self._file_lock: FileLock | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._in_use: int | None = None  # file whose shared lock says that somebody has the database open
        self._unwritten_back = 0  # bytes this process put into the WAL since its last checkpoint, about

    # -- writing ---------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append all or nothing, in order; returns offsets after fsync. Raises LogUnavailable within the time limit."""
        mine = _Append(entries)
        self._waiting.append(mine)
        try:
            with self._turn():
                if not mine.settled:
                    self._commit([self._waiting.popleft() for _ in range(len(self._waiting))])
        except OSError as error:
            mine.error = error
        finally:
            with suppress(ValueError):  # still there if the turn never came
                self._waiting.remove(mine)
        if mine.error is not None:
            raise LogUnavailable(f"{self.name}: append: {mine.error}") from mine.error
        return mine.offsets

    def trim(self, partition: int, before_offset: int, older_than_us: int) -> int:
        """Delete records of `partition` below `before_offset` ingested before `older_than_us`; returns how many."""
        if not self.path.exists():
            return 0
        try:
            first, end = self.bounds(partition)
            with self._reading() as reader:
                ingested_at_us = partial(
                    database.ingested_at_us, reader, partition
                )  # a dozen look-ups instead of a scan
                upto = max(first, min(before_offset, end))
                cut = bisect_left(range(end), older_than_us, first, upto, key=ingested_at_us)
            for step in range(first, cut, TRIM_STEP):
                with self._turn():
                    self._delete(partition, min(step + TRIM_STEP, cut))
            return cut - first
        except (sqlite3.Error, OSError) as error:
            raise LogUnavailable(f"{self.name}: trim: {error}") from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Alone among all threads and processes; the writer connection is dropped if anything fails."""
        deadline = time.monotonic() + self._timeout_s
        if not self._write_mutex.acquire(timeout=self._timeout_s):
            raise LogUnavailable(f"{self.name}: another append took longer than {self._timeout_s:g} s")
        try:
            if self._file_lock is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file_lock = FileLock(self.path.with_suffix(".lock"))
            if not self._file_lock.acquire(max(0.0, deadline - time.monotonic())):
                raise LogUnavailable(f"{self.name}: another process held the lock for {self._timeout_s:g} s")
            try:
                yield
            except BaseException:
                self._drop_writer()
                raise
            finally:
                self._file_lock.release()
        finally:
            self._write_mutex.release()

    def _commit(self, group: Sequence[_Append]) -> None:
        """One transaction for all of them; they succeed or fail together."""
        error: Exception | None = None
        try:
            self._insert(group)
        except (sqlite3.Error, OSError, LogCorrupt) as failure:
            self._drop_writer()
            error = failure
        for append in group:
            append.settled, append.error = True, error

    def _insert(self, group: Sequence[_Append]) -> None:
        writer = self._open_writer()
        writer.execute("BEGIN IMMEDIATE")
        now_us = self._clock.now_us()
        ends: dict[int, tuple[int, int]] = {}  # partition → next offset, its time of ingestion
        for append in group:
            append.offsets = []
            for entry in append.entries:
                if entry.partition not in ends:
                    offset, last_us = database.end(writer, entry.partition)
                    ends[entry.partition] = offset, max(now_us, last_us)
                offset, ingested_at_us = ends[entry.partition]
                database.insert(writer, offset, ingested_at_us, entry)
                ends[entry.partition] = offset + 1, ingested_at_us
                append.offsets.append(offset)
                self._unwritten_back += len(entry.payload) + database.PAGE_BYTES
        writer.execute("COMMIT")

    def _delete(self, partition: int, before: int) -> None:
        writer = self._open_writer()
        writer.execute("BEGIN IMMEDIATE")
        database.delete(writer, partition, before)
        writer.execute("COMMIT")

    def _open_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            if not self.path.exists():
                database.create(self.path)
            self._enter()
            self._writer = database.connect(self.path, self._timeout_s)
        return self._writer

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(sqlite3.Error):
                writer.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, partition: int, offset: int, max_bytes: int) -> list[Record]:
        """Records of `partition` from `offset` on, at least one if there is one, then up to `max_bytes` of payload."""
        if not self.path.exists():
            return self._none_at(partition, offset, Bounds(0, 0))
        with self._reading() as reader:
            reader.execute("BEGIN")  # one snapshot, so that "no such record" and the bounds agree
            rows = database.select(reader, partition, offset, max_bytes)
            none = not rows or rows[0][0] != database.key(partition, offset)
            bounds = database.bounds(reader, partition) if none else None
            reader.execute("COMMIT")
        if bounds is not None:
            return self._none_at(partition, offset, bounds)
        records: list[Record] = []
        try:
            for row in rows:
                records.append(self._checked(row, partition, offset + len(records)))
        except LogCorrupt:
            if not records:
                raise
        return records  # those before a corrupt one are good; the next read stops at it

    def bounds(self, partition: int) -> Bounds:
        """The offsets of `partition` held now; (0, 0) if never written."""
        if not self.path.exists():
            return Bounds(0, 0)
        with self._reading() as reader:
            return database.bounds(reader, partition)

    def _checked(self, row: database.Row, partition: int, expected: int) -> Record:
        if row[0] != database.key(partition, expected):
            raise LogCorrupt(f"{self.name}/{partition}: record {expected} is missing; nothing is skipped")
        record = database.record(row)
        if record is None:
            raise LogCorrupt(f"{self.name}/{partition}: record {expected}: checksum mismatch; the partition stops here")
        return record

    def _none_at(self, partition: int, offset: int, bounds: Bounds) -> list[Record]:
        if offset == bounds.end:
            return []
        held = f"{self.name}/{partition}: offset {offset} is not in the log, which holds [{bounds.first}, {bounds.end})"
        if bounds.first <= offset < bounds.end:
            raise LogCorrupt(f"{held}, but this record is missing")
        raise OffsetOutOfRange(held)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_mutex:
            try:
                if self._reader is None:
                    if self._in_use is None:
                        with self._turn():
                            self._enter()
                    self._reader = database.connect(self.path, BUSY_READ_S)
                yield self._reader
            except (sqlite3.Error, OSError) as error:
                self._drop_reader()
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                kind = LogCorrupt if code in _CORRUPT else LogUnavailable
                raise kind(f"{self.name}: read: {error}") from error

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with suppress(sqlite3.Error):
                reader.close()

    def _enter(self) -> None:
        """Before the first connection, alone: whoever finds nobody else there makes sure that nothing was lost.

        Raises LogCorrupt, and then SQLite was not let near the file.
        """
        if self._in_use is not None:
            return
        fd = os.open(self.path.with_suffix(".open"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                check_wal(Path(f"{self.path}-wal"))
            except BlockingIOError:
                pass  # others have it open, and the first of them has looked
            fcntl.flock(fd, fcntl.LOCK_SH)
        except BaseException:
            os.close(fd)
            raise
        self._in_use = fd

    # -- upkeep ----------------------------------------------------------------------------------------------------

    @property
    def checkpoint_due(self) -> bool:
        """Whether this process has put enough into the WAL."""
        return self._unwritten_back > CHECKPOINT_BYTES

    def checkpoint(self) -> None:
        """Copy the WAL into the database, so that the WAL is reused from its start. Errors wait for the next time.

        1. the bulk, while others append  2. the rest, alone: only a WAL copied to its very end can start over.
        """
        self._unwritten_back = 0
        with (
            suppress(sqlite3.Error, OSError, LogUnavailable),
            closing(database.connect(self.path, RESTART_S)) as connection,
        ):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            mode = "PASSIVE" if self._wal_bytes() < 4 * CHECKPOINT_BYTES else "RESTART"
            with self._turn():
                connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    def _wal_bytes(self) -> int:
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0

    def close(self) -> None:
        """Close both connections and the lock files."""
        with self._read_mutex, self._write_mutex:  # in the order in which a first read takes them
            self._drop_writer()
            self._drop_reader()
            if self._in_use is not None:
                os.close(self._in_use)
                self._in_use = None
            if self._file_lock is not None:
                self._file_lock.close()
                self._file_lock = None
