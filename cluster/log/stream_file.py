"""One stream of the embedded log: all its partitions in a SQLite file in WAL mode. Owned by `embedded`.

One file, so that an append to many partitions is one transaction and one fsync (ADR 11). Appenders of all processes
take turns by a file lock, so that nobody ever polls for SQLite's own lock; appends of threads that wait meanwhile are
committed together by whoever gets the lock. A commit is on disk when it returns (`synchronous=FULL`). Whatever goes
wrong, the connection is thrown away: SQLite rolls back, the next one starts clean.

A file that was deleted or replaced while it is open takes no more appends: after each commit, before anybody hears of
it, its names must still lead to the files that it was written to. What it holds stays readable until it is closed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from eagleray.cluster.clock import Clock
from eagleray.cluster.errors import (
    EaglerayError,
    LogCorrupt,
    LogMismatch,
    LogStarved,
    LogUnavailable,
    OffsetOutOfRange,
)
from eagleray.cluster.file_lock import FileLock, lock, try_lock
from eagleray.cluster.log import sqlite_schema as database
from eagleray.cluster.log.protocol import Bounds, Entry, Epoch, Record, draw_identity
from eagleray.cluster.log.wal import check_wal
from eagleray.cluster.machine_errors import DIRECTORY, starved
from eagleray.cluster.sqlite_copy import copy_database

CHECKPOINT_BYTES = 16 << 20
RESTART_S = 0.1  # how long a checkpoint may wait for readers to leave a WAL that outgrew four times its size
TRIM_STEP = 256  # records deleted in one transaction: appenders never wait long for retention
BUSY_READ_S = 5.0  # readers wait only while another process recovers the file after a crash

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REPLACED = "put the right file back, or stop the platform and run `eagleray recover`; nothing was acked"


class _Append:
    """The entries of one call, waiting for their turn."""

    __slots__ = ("entries", "error", "offsets", "taken")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.taken = False  # into a group: nobody else will commit it
        # Invariant: None until the transaction that wrote the entries is on disk, whatever ends the commit before that.
        self.offsets: list[int] | None = None
        self.error: BaseException | None = None


class StreamFile:
    """The records of one stream in `path`; safe to use from several threads and processes."""

    def __init__(
        self,
        path: Path,
        name: str,
        clock: Clock,
        timeout_s: float,
        expected: Epoch | None = None,
        strict: bool = False,
    ) -> None:
        """`name` is for messages. Appends give up after `timeout_s`.

        `strict`: the file is there already, and is that of `expected`; otherwise the first append makes it.
        """
        self.path = path
        self.name = name
        self._expected = expected
        self._strict = strict
        self._names = (str(path), f"{path}-wal")  # for `stat`: made once, looked at with each commit
        self._place = _read(expected.copy) if expected else None  # once known, no other file is ever written
        self._wal_place: _Place | None = None  # of the write-ahead log, as long as the writer is open
        self._state = (0, 0)  # its size and when it was last written, when it was last seen to be whole
        # Invariant: what an open file was seen to hold up to; a file that ends earlier was replaced from within.
        self._ends: dict[int, int] = {}
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
        """Append all or nothing, in order; returns one offset per entry after fsync.

        Raises within the time limit: LogCorrupt where the file is damaged, LogUnavailable for everything else.
        """
        mine = _Append(entries)
        self._waiting.append(mine)
        try:
            with self._turn():
                if not mine.taken:
                    self._commit(self._group())
        except EaglerayError:
            raise
        except Exception as error:
            mine.error = error
        finally:
            with suppress(ValueError):  # still there if the turn never came
                self._waiting.remove(mine)
        if mine.offsets is None or len(mine.offsets) != len(entries):
            raise self._failure("append", mine.error) from mine.error
        return mine.offsets

    def _group(self) -> list[_Append]:
        """Everyone who waits now; they stop waiting."""
        group: list[_Append] = []
        while True:
            try:  # an append that ran out of time leaves the queue meanwhile
                one = self._waiting.popleft()
            except IndexError:
                return group
            one.taken = True
            group.append(one)

    def _failure(self, doing: str, cause: BaseException | None) -> LogCorrupt | LogUnavailable:
        """What the caller is told; the group's error may be another thread's, so each gets an exception of its own."""
        if isinstance(cause, LogUnavailable):
            return type(cause)(str(cause))
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        kind = LogCorrupt if isinstance(cause, LogCorrupt) or code in _CORRUPT else LogUnavailable
        if starved(cause):
            kind = LogStarved
        what = str(cause) or type(cause).__name__ if cause is not None else "the commit of its group did not end"
        if self.path.is_dir():
            what = f"{self.path}: {DIRECTORY}"
        return kind(f"{self.name}: {doing}: {what}")

    def trim(self, partition: int, before_offset: int, older_than_us: int) -> int:
        """Delete records of `partition` below `before_offset` ingested before `older_than_us`; returns how many."""
        if self._absent():
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
            raise self._failure("trim", error) from error

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
        """One transaction for all of them; they succeed or fail together, whatever it is that ends it."""
        try:
            offsets = self._insert(group)
        except BaseException as failure:
            for append in group:
                append.error = failure
            self._drop_writer()
            if not isinstance(failure, Exception):
                raise  # the thread that commits is being ended; the others are told that they failed
            return
        for append, given in zip(group, offsets, strict=True):
            append.offsets = given

    def _insert(self, group: Sequence[_Append]) -> list[list[int]]:
        """The offsets of each of `group`, all of it on disk."""
        writer = self._open_writer()
        writer.execute("BEGIN IMMEDIATE")
        now_us = self._clock.now_us()
        ends: dict[int, tuple[int, int]] = {}  # partition → next offset, its time of ingestion
        offsets: list[list[int]] = [[] for _ in group]
        for append, given in zip(group, offsets, strict=True):
            for entry in append.entries:
                if entry.partition not in ends:
                    offset, last_us = self._end(writer, entry.partition)
                    ends[entry.partition] = offset, max(now_us, last_us)
                offset, ingested_at_us = ends[entry.partition]
                database.insert(writer, offset, ingested_at_us, entry)
                ends[entry.partition] = offset + 1, ingested_at_us
                given.append(offset)
                self._unwritten_back += len(entry.payload) + database.PAGE_BYTES
        writer.execute("COMMIT")
        self._check_in_place()
        self._ends.update((partition, end) for partition, (end, _) in ends.items())
        return offsets

    def _end(self, writer: sqlite3.Connection, partition: int) -> tuple[int, int]:
        """(next offset, last ingestion time); raises LogMismatch where the file held more before."""
        offset, last_us = database.end(writer, partition)
        if offset < (seen := self._ends.get(partition, 0)):
            raise LogMismatch(f"{self.path} ends at {offset} in partition {partition} and ended at {seen}: {_REPLACED}")
        return offset, last_us

    def carry(self, partition: int, records: Sequence[Record]) -> None:
        """Append records of an earlier log, with their ingestion times; all of them are on disk when it returns."""
        try:
            with self._turn():
                writer = self._open_writer()
                writer.execute("BEGIN IMMEDIATE")
                offset, last_us = self._end(writer, partition)
                for at, record in enumerate(records, offset):
                    last_us = max(last_us, record.ingested_at_us)
                    entry = Entry(partition, record.kind, record.rows, record.payload)
                    database.insert(writer, at, last_us, entry)
                writer.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise self._failure("carry over", error) from error

    def _delete(self, partition: int, before: int) -> None:
        writer = self._open_writer()
        writer.execute("BEGIN IMMEDIATE")
        database.delete(writer, partition, before)
        writer.execute("COMMIT")

    # -- whose file it is ------------------------------------------------------------------------------------------

    def make(self, epoch: Epoch, bases: Mapping[int, int], ingested_at_us: int = 0) -> None:
        """Make the file; `bases` are those of `epoch` by number. Raises LogUnavailable."""
        try:
            with self._turn():
                database.create(self.path, epoch, bases, ingested_at_us)
        except (sqlite3.Error, OSError) as error:
            raise self._failure("make", error) from error

    def epoch(self) -> Epoch | None:
        """Whose file it is; None if there is none. A file from before files had names is given one."""
        if self._absent():
            return None
        with self._reading() as reader:
            found = database.identity(reader)
        if found is None:
            found = self._name()
        return replace(found, copy=_written(self._place))

    def _name(self) -> Epoch:
        try:
            with self._turn():
                writer = self._open_writer()
                found = database.identity(writer)  # another process may have been quicker
                if found is None:
                    found = Epoch(draw_identity())
                    writer.execute("BEGIN IMMEDIATE")
                    database.put_identity(writer, found)
                    writer.execute("COMMIT")
                return found
        except (sqlite3.Error, OSError, LogCorrupt) as error:
            raise self._failure("open", error) from error

    def _absent(self) -> bool:
        """Whether there is no file yet; raises LogMismatch where there should be one."""
        if self._reader is not None or self.path.exists():
            return False
        if self._strict or self._place:
            raise LogMismatch(f"{self.path} is gone: {_REPLACED}")
        return True

    def _open_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            if self._absent() or not self.path.exists():
                self._make_or_refuse()
            self._enter()
            writer = database.connect(self.path, self._timeout_s)
            try:
                self._identify(writer)
            except BaseException:
                writer.close()
                raise
            self._writer = writer
        return self._writer

    def _make_or_refuse(self) -> None:
        if self._strict or self._place:
            raise LogMismatch(f"{self.path} is gone: {_REPLACED}")
        database.create(self.path, Epoch(draw_identity()), {}, 0)

    def _identify(self, connection: sqlite3.Connection) -> None:
        """Raises LogMismatch unless this is the file that is expected, and LogCorrupt where it is none."""
        try:
            found = database.identity(connection)
        except LogCorrupt as error:
            raise LogCorrupt(f"{self.path}: {error}") from error
        if self._strict and self._expected is not None and (found is None or found.log != self._expected.log):
            other = found.log if found else "without a name"
            raise LogMismatch(f"{self.path} is another log ({other}, not {self._expected.log}): {_REPLACED}")
        self._place = self._place or _place(self._names[0])[0]
        self._check_in_place()

    def _check_in_place(self) -> None:
        """Raises LogMismatch unless the names on disk still lead to the files that are open, LogCorrupt if overwritten.

        A file that was overwritten in place keeps its inode, and SQLite goes on from what it has in memory. Only
        checkpoints write into the file: once its time or size changed, it is looked at with fresh eyes.
        """
        place, state = _place(self._names[0])
        if place != self._place:
            raise LogMismatch(f"{self.path} was replaced: {_REPLACED}")
        if self._writer is not None:
            found, _ = _place(self._names[1])
            self._wal_place = self._wal_place or found
            if found != self._wal_place:
                raise LogMismatch(f"{self.path}-wal was removed: {_REPLACED}")
        if state != self._state:
            self._read_afresh()
            self._state = state

    def _read_afresh(self) -> None:
        with closing(database.connect(self.path, BUSY_READ_S)) as fresh:
            database.identity(fresh)
            for partition in tuple(self._ends):
                database.end(fresh, partition)

    def look(self) -> None:
        """Raises what keeps the file from being written or read, as far as a look at its beginning tells."""
        if self._absent():
            return
        with self._reading() as reader:
            database.identity(reader)
            try:
                self._check_in_place()
            except LogCorrupt as error:
                raise LogCorrupt(f"{self.path}: {error}") from error
            self._read_afresh()

    def _drop_writer(self) -> None:
        self._wal_place = None
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(sqlite3.Error):
                writer.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, partition: int, offset: int, max_bytes: int) -> list[Record]:
        """Records of `partition` from `offset` on, at least one if there is one, then up to `max_bytes` of payload."""
        if self._absent():
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
        if self._absent():
            return Bounds(0, 0)
        with self._reading() as reader:
            return database.bounds(reader, partition)

    def partitions(self) -> int:
        """One more than the greatest partition that was ever written."""
        with self._reading() as reader:
            return database.partitions(reader)

    def copy_to(self, target: Path) -> None:
        """Copy all partitions as they are at one instant, while others append. Raises LogCorrupt, LogUnavailable."""
        with self._reading() as reader:
            copy_database(reader, target)

    def newest_us(self, partition: int) -> int:
        """When the newest record of `partition` was ingested; 0 before any."""
        if self._absent():
            return 0
        with self._reading() as reader:
            return database.end(reader, partition)[1]

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
                    reader = database.connect(self.path, BUSY_READ_S)
                    try:
                        self._identify(reader)
                    except BaseException:
                        reader.close()
                        raise
                    self._reader = reader
                yield self._reader
            except (sqlite3.Error, OSError) as error:
                self._drop_reader()
                raise self._failure("read", error) from error

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
            if try_lock(fd):  # else others have it open, and the first of them has looked
                check_wal(Path(f"{self.path}-wal"))
            lock(fd, shared=True)
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


_Place = tuple[int, int]  # device and inode


def _place(name: str) -> tuple[_Place | None, tuple[int, int]]:
    """What tells a file from another of the same name (None where there is none), and its size and last writing."""
    try:
        found = os.stat(name)
    except FileNotFoundError:
        return None, (0, 0)
    return (found.st_dev, found.st_ino), (found.st_size, found.st_mtime_ns)


def _written(place: _Place | None) -> str:
    """As an epoch's `copy`."""
    return f"{place[0]}:{place[1]}" if place else ""


def _read(copy: str) -> _Place | None:
    device, _, inode = copy.partition(":")
    return (int(device), int(inode)) if inode else None
