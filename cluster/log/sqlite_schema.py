"""What a stream's SQLite file looks like: its tables and every statement on them. Used by `stream_file` alone.

A record's key is its partition and its offset in one integer, so that the records of a partition lie together, in
order, in one tree that needs no index.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from struct import Struct

import xxhash

from eagleray.cluster.durable import sync_directory
from eagleray.cluster.errors import LogCorrupt
from eagleray.cluster.log.protocol import Bounds, Entry, Epoch, Kind, Record

OFFSET_BITS = 48  # 2.8e14 records of a partition
# 8 KiB: a one-event record rewrites two pages; larger ones gain nothing for 50 KB records (benchmarks/log.py)
PAGE_BYTES = 8192
WAL_LIMIT_BYTES = 256 << 20  # a WAL that outgrew this while a reader held it back is cut when it is next reset

_TABLES = """
CREATE TABLE records (
    key INTEGER PRIMARY KEY, kind INTEGER NOT NULL, rows INTEGER NOT NULL,
    ingested_at_us INTEGER NOT NULL, checksum INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE trimmed (partition INTEGER PRIMARY KEY, "end" INTEGER NOT NULL, ingested_at_us INTEGER NOT NULL);
"""
_ABOUT = "CREATE TABLE about (identity TEXT NOT NULL, bases TEXT NOT NULL)"
_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)"
_LAST = "SELECT key + 1, ingested_at_us FROM records WHERE key >= ? AND key < ? ORDER BY key DESC LIMIT 1"
_TRIMMED = 'SELECT "end", ingested_at_us FROM trimmed WHERE partition = ?'
_SELECT = (
    "SELECT key, kind, rows, ingested_at_us, checksum, payload FROM records WHERE key >= ? AND key < ? ORDER BY key"
)
_HEADER = Struct("<qqqq")

Row = tuple[int, int, int, int, int, bytes]
"""key, kind, rows, ingested_at_us, checksum, payload."""


def key(partition: int, offset: int) -> int:
    """The key of a record."""
    return partition << OFFSET_BITS | offset


def _offset(key_: int) -> int:
    return key_ & (1 << OFFSET_BITS) - 1


def create(path: Path, epoch: Epoch, bases: Mapping[int, int], ingested_at_us: int) -> None:
    """Make the file under another name and rename it: nobody ever opens half a database. One caller at a time.

    `bases` are those of `epoch` by number; ingestion times go on from `ingested_at_us`.
    """
    making = path.with_suffix(".making")
    for leftover in path.parent.glob(f"{making.name}*"):
        leftover.unlink()
    connection = sqlite3.connect(making, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_TABLES)
        put_identity(connection, epoch)
        rows = [(partition, base, ingested_at_us) for partition, base in bases.items()]
        connection.executemany("INSERT INTO trimmed VALUES (?, ?, ?)", rows)
    finally:
        connection.close()
    making.rename(path)
    for directory in (path.parent, path.parent.parent):
        sync_directory(directory)


def put_identity(connection: sqlite3.Connection, epoch: Epoch) -> None:
    """Name the file: a new one, or one that was made before files had names."""
    connection.execute(_ABOUT)
    connection.execute("INSERT INTO about VALUES (?, ?)", (epoch.log, json.dumps(dict(epoch.bases))))


def identity(connection: sqlite3.Connection) -> Epoch | None:
    """Whose file it is; None for one that has no name yet. Raises LogCorrupt for a file that is no log."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not there.issuperset(("records", "trimmed")):
        raise LogCorrupt("the file is not a log, or was overwritten")
    if "about" not in there:
        return None
    row = connection.execute("SELECT identity, bases FROM about").fetchone()
    if row is None:
        raise LogCorrupt("the file does not say which log it is")
    return Epoch(row[0], json.loads(row[1]))


def connect(path: Path, busy_s: float) -> sqlite3.Connection:
    """A connection that commits to the disk, and waits for SQLite's own locks for at most `busy_s`."""
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # not in the midst of an append: see StreamFile.checkpoint
    connection.execute("PRAGMA secure_delete = OFF")  # trimmed records need not be overwritten with zeros
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    return connection


def insert(connection: sqlite3.Connection, offset: int, ingested_at_us: int, entry: Entry) -> None:
    """Store one record, with its checksum."""
    key_, kind, rows = key(entry.partition, offset), int(entry.kind), entry.rows
    checksum = _checksum(key_, kind, rows, ingested_at_us, entry.payload)
    connection.execute(_INSERT, (key_, kind, rows, ingested_at_us, checksum, entry.payload))


def select(connection: sqlite3.Connection, partition: int, offset: int, max_bytes: int) -> list[Row]:
    """Rows of `partition` from `offset` on: one if there is any, more up to `max_bytes` of payload."""
    rows: list[Row] = []
    size = 0
    cursor = connection.execute(_SELECT, (key(partition, offset), key(partition + 1, 0)))
    for row in cursor:
        size += len(row[5])
        if rows and size > max_bytes:
            break
        rows.append(row)
    cursor.close()
    return rows


def record(row: Row) -> Record | None:
    """The record of a row; None if its checksum does not match."""
    key_, kind, rows, ingested_at_us, checksum, payload = row
    if checksum != _checksum(key_, kind, rows, ingested_at_us, payload):
        return None
    return Record(_offset(key_), Kind(kind), rows, ingested_at_us, payload)


def delete(connection: sqlite3.Connection, partition: int, before: int) -> None:
    """Delete the records of `partition` below `before`; what the next one goes on from is kept."""
    connection.execute("INSERT OR REPLACE INTO trimmed VALUES (?, ?, ?)", (partition, *end(connection, partition)))
    connection.execute("DELETE FROM records WHERE key >= ? AND key < ?", (key(partition, 0), key(partition, before)))


def end(connection: sqlite3.Connection, partition: int) -> tuple[int, int]:
    """(next offset, last ingestion time) of a partition, 0 before any."""
    if last := connection.execute(_LAST, (key(partition, 0), key(partition + 1, 0))).fetchone():
        return last[0] - key(partition, 0), last[1]
    trimmed = connection.execute(_TRIMMED, (partition,)).fetchone()
    return (int(trimmed[0]), int(trimmed[1])) if trimmed else (0, 0)


def bounds(connection: sqlite3.Connection, partition: int) -> Bounds:
    """The offsets of `partition` held, both ends of one moment."""
    first, last, trimmed = connection.execute(
        "SELECT (SELECT min(key) FROM records WHERE key >= ?1 AND key < ?2),"
        " (SELECT max(key) + 1 FROM records WHERE key >= ?1 AND key < ?2),"
        ' (SELECT "end" FROM trimmed WHERE partition = ?3)',
        (key(partition, 0), key(partition + 1, 0), partition),
    ).fetchone()
    if first is None:
        return Bounds(trimmed or 0, trimmed or 0)
    return Bounds(_offset(first), last - key(partition, 0))


def partitions(connection: sqlite3.Connection) -> int:
    """One more than the greatest partition that was ever written."""
    last, trimmed = connection.execute(
        "SELECT (SELECT max(key) FROM records), (SELECT max(partition) FROM trimmed)"
    ).fetchone()
    return 1 + max(-1 if last is None else last >> OFFSET_BITS, -1 if trimmed is None else trimmed)


def ingested_at_us(connection: sqlite3.Connection, partition: int, offset: int) -> int:
    """When a record was ingested; before all times if it is not there."""
    row = connection.execute("SELECT ingested_at_us FROM records WHERE key = ?", (key(partition, offset),)).fetchone()
    return int(row[0]) if row else -1


def _checksum(key_: int, kind: int, rows: int, ingested_at_us: int, payload: bytes | memoryview) -> int:
    header: int = xxhash.xxh3_64_intdigest(_HEADER.pack(key_, kind, rows, ingested_at_us))
    digest: int = xxhash.xxh3_64_intdigest(payload, seed=header)
    return digest - (1 << 63)  # SQLite's integers are signed
