"""One partition of the embedded log: a SQLite file in WAL mode. Owned by `embedded`; knows no other partition.

Appenders of all processes take turns by a file lock, so that nobody ever polls for SQLite's own lock; appends of
threads that wait meanwhile are committed together by whoever gets the lock. A commit is on disk when it returns
(`synchronous=FULL`). Whatever goes wrong, the connection is thrown away: SQLite rolls back, the next one starts clean.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from struct import Struct

import xxhash

from cluster.clock import Clock
from cluster.errors import LogCorrupt, LogUnavailable, OffsetOutOfRange
from cluster.log.filelock import FileLock
from cluster.log.protocol import Bounds, Entry, Kind, Record

# 8 KiB: a one-event record rewrites two pages; larger ones gain nothing for 50 KB records (benchmarks/log.py)
PAGE_BYTES = 8192
WAL_LIMIT_BYTES = 256 << 20  # a WAL that outgrew this while a reader held it back is cut when it is next reset
CHECKPOINT_BYTES = 16 << 20
RESTART_S = 0.1  # how long a checkpoint may wait for readers to leave a WAL that outgrew four times its size
TRIM_STEP = 256  # records deleted in one transaction: appenders never wait long for retention
BUSY_READ_S = 5.0  # readers wait only while another process recovers the file after a crash

_TABLES = """
CREATE TABLE records (
    "offset" INTEGER PRIMARY KEY, kind INTEGER NOT NULL, rows INTEGER NOT NULL,
    ingested_at_us INTEGER NOT NULL, checksum INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE trimmed (one INTEGER PRIMARY KEY CHECK (one = 1), "end" INTEGER NOT NULL, ingested_at_us INTEGER NOT NULL);
"""
_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)"
_LAST = 'SELECT "offset" + 1, ingested_at_us FROM records ORDER BY "offset" DESC LIMIT 1'
_TRIMMED = 'SELECT "end", ingested_at_us FROM trimmed'
_SELECT = (
    'SELECT "offset", kind, rows, ingested_at_us, checksum, payload FROM records WHERE "offset" >= ? ORDER BY "offset"'
)
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_Row = tuple[int, int, int, int, int, bytes]
_HEADER = Struct("<qqqq")


def _checksum(offset: int, kind: int, rows: int, ingested_at_us: int, payload: bytes | memoryview) -> int:
    header: int = xxhash.xxh3_64_intdigest(_HEADER.pack(offset, kind, rows, ingested_at_us))
    digest: int = xxhash.xxh3_64_intdigest(payload, seed=header)
    return digest - (1 << 63)  # SQLite's integers are signed


class _Append:
    """The entries of one call, waiting for their turn."""

    __slots__ = ("entries", "error", "offsets", "settled")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.offsets: list[int] = []
        self.settled = False
        self.error: Exception | None = None


class PartitionFile:
    """The records of one partition in `path`; safe to use from several threads and processes."""

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
        self._unwritten_back = 0  # bytes this process put into the WAL since its last checkpoint, about

    # -- writing ---------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append together, in order; returns offsets after fsync. Raises LogUnavailable within the time limit."""
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

    def trim(self, before_offset: int, older_than_us: int) -> int:
        """Delete records below `before_offset` ingested before `older_than_us`; returns how many."""
        if not self.path.exists():
            return 0
        try:
            first, end = self.bounds()
            with self._reading() as reader:
                times = _Times(reader)
                cut = bisect_left(range(end), older_than_us, first, max(first, min(before_offset, end)), key=times.of)
            for step in range(first, cut, TRIM_STEP):
                with self._turn():
                    self._delete(min(step + TRIM_STEP, cut))
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
        except (sqlite3.Error, OSError) as failure:
            self._drop_writer()
            error = failure
        for append in group:
            append.settled, append.error = True, error

    def _insert(self, group: Sequence[_Append]) -> None:
        writer = self._open_writer()
        writer.execute("BEGIN IMMEDIATE")
        offset, last_us = _end(writer)
        now_us = max(self._clock.now_us(), last_us)
        for append in group:
            first = offset
            for entry in append.entries:
                kind = int(entry.kind)
                checksum = _checksum(offset, kind, entry.rows, now_us, entry.payload)
                writer.execute(_INSERT, (offset, kind, entry.rows, now_us, checksum, entry.payload))
                offset += 1
                self._unwritten_back += len(entry.payload) + PAGE_BYTES
            append.offsets = list(range(first, offset))
        writer.execute("COMMIT")

    def _delete(self, before: int) -> None:
        writer = self._open_writer()
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT OR REPLACE INTO trimmed VALUES (1, ?, ?)", _end(writer))
        writer.execute('DELETE FROM records WHERE "offset" < ?', (before,))
        writer.execute("COMMIT")

    def _open_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            if not self.path.exists():
                _create(self.path)
            self._writer = _connect(self.path, self._timeout_s)
        return self._writer

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(sqlite3.Error):
                writer.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, offset: int, max_bytes: int) -> list[Record]:
        """Records from `offset` on, at least one if there is one, then up to `max_bytes` of payload."""
        if not self.path.exists():
            return self._none_at(offset, Bounds(0, 0))
        with self._reading() as reader:
            reader.execute("BEGIN")  # one snapshot, so that "no such record" and the bounds agree
            rows = _fetch(reader.execute(_SELECT, (offset,)), max_bytes)
            bounds = _bounds(reader) if not rows or rows[0][0] != offset else None
            reader.execute("COMMIT")
        if bounds is not None:
            return self._none_at(offset, bounds)
        records: list[Record] = []
        try:
            for row in rows:
                records.append(self._checked(row, offset + len(records)))
        except LogCorrupt:
            if not records:
                raise
        return records  # those before a corrupt one are good; the next read stops at it

    def bounds(self) -> Bounds:
        """The offsets held now; (0, 0) if never written."""
        if not self.path.exists():
            return Bounds(0, 0)
        with self._reading() as reader:
            return _bounds(reader)

    def _checked(self, row: _Row, expected: int) -> Record:
        offset, kind, rows, ingested_at_us, checksum, payload = row
        if offset != expected:
            raise LogCorrupt(f"{self.name}: record {expected} is missing, {offset} follows; nothing is skipped")
        if checksum != _checksum(offset, kind, rows, ingested_at_us, payload):
            raise LogCorrupt(f"{self.name}: record {offset}: checksum mismatch; the partition stops here")
        return Record(offset, Kind(kind), rows, ingested_at_us, payload)

    def _none_at(self, offset: int, bounds: Bounds) -> list[Record]:
        if offset == bounds.end:
            return []
        held = f"{self.name}: offset {offset} is not in the log, which holds [{bounds.first}, {bounds.end})"
        if bounds.first <= offset < bounds.end:
            raise LogCorrupt(f"{held}, but this record is missing")
        raise OffsetOutOfRange(held)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_mutex:
            try:
                if self._reader is None:
                    self._reader = _connect(self.path, BUSY_READ_S)
                yield self._reader
            except sqlite3.Error as error:
                self._drop_reader()
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                kind = LogCorrupt if code in _CORRUPT else LogUnavailable
                raise kind(f"{self.name}: read: {error}") from error

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with suppress(sqlite3.Error):
                reader.close()

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
        with suppress(sqlite3.Error, OSError, LogUnavailable), closing(_connect(self.path, RESTART_S)) as connection:
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
        """Close both connections and the lock file."""
        with self._write_mutex, self._read_mutex:
            self._drop_writer()
            self._drop_reader()
            if self._file_lock is not None:
                self._file_lock.close()
                self._file_lock = None


class _Times:
    """Ingestion times by offset, looked up one at a time: a binary search touches a dozen pages, a scan all of them."""

    def __init__(self, reader: sqlite3.Connection) -> None:
        self._reader = reader

    def of(self, offset: int) -> int:
        row = self._reader.execute('SELECT ingested_at_us FROM records WHERE "offset" = ?', (offset,)).fetchone()
        return int(row[0]) if row else -1


def _connect(path: Path, busy_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA secure_delete = OFF")  # trimmed records need not be overwritten with zeros
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    return connection


def _create(path: Path) -> None:
    """Make the file under another name and rename it: nobody ever opens half a database."""
    making = path.with_suffix(".making")
    for leftover in path.parent.glob(f"{making.name}*"):
        leftover.unlink()
    connection = sqlite3.connect(making, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_TABLES)
    finally:
        connection.close()
    making.rename(path)
    for directory in (path.parent, path.parent.parent):
        _sync(directory)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _fetch(cursor: sqlite3.Cursor, max_bytes: int) -> list[_Row]:
    rows: list[_Row] = []
    size = 0
    for row in cursor:
        size += len(row[5])
        if rows and size > max_bytes:
            break
        rows.append(row)
    cursor.close()
    return rows


def _end(connection: sqlite3.Connection) -> tuple[int, int]:
    """(next offset, last ingestion time)."""
    row = connection.execute(_LAST).fetchone() or connection.execute(_TRIMMED).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _bounds(connection: sqlite3.Connection) -> Bounds:
    # one statement, so that both ends are of one moment
    row = connection.execute(
        'SELECT (SELECT min("offset") FROM records), (SELECT max("offset") + 1 FROM records),'
        ' (SELECT "end" FROM trimmed)'
    ).fetchone()
    first, end, trimmed = row
    return Bounds(first, end) if first is not None else Bounds(trimmed or 0, trimmed or 0)
