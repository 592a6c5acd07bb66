"""What a partition's SQLite file looks like: its tables and every statement on them. Used by `partition` alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from struct import Struct

import xxhash

from cluster.durable import sync_directory
from cluster.log.protocol import Bounds, Entry, Kind, Record

# 8 KiB: a one-event record rewrites two pages; larger ones gain nothing for 50 KB records (benchmarks/log.py)
PAGE_BYTES = 8192
WAL_LIMIT_BYTES = 256 << 20  # a WAL that outgrew this while a reader held it back is cut when it is next reset

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
_HEADER = Struct("<qqqq")

Row = tuple[int, int, int, int, int, bytes]
"""offset, kind, rows, ingested_at_us, checksum, payload."""


def create(path: Path) -> None:
    """Make the file under another name and rename it: nobody ever opens half a database. One caller at a time."""
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
        sync_directory(directory)


def connect(path: Path, busy_s: float) -> sqlite3.Connection:
    """A connection that commits to the disk, and waits for SQLite's own locks for at most `busy_s`."""
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # not in the midst of an append: see PartitionFile.checkpoint
    connection.execute("PRAGMA secure_delete = OFF")  # trimmed records need not be overwritten with zeros
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    return connection


def insert(connection: sqlite3.Connection, offset: int, ingested_at_us: int, entry: Entry) -> None:
    """Store one record, with its checksum."""
    kind, rows = int(entry.kind), entry.rows
    checksum = _checksum(offset, kind, rows, ingested_at_us, entry.payload)
    connection.execute(_INSERT, (offset, kind, rows, ingested_at_us, checksum, entry.payload))


def select(connection: sqlite3.Connection, offset: int, max_bytes: int) -> list[Row]:
    """Rows from `offset` on: one if there is any, more up to `max_bytes` of payload."""
    rows: list[Row] = []
    size = 0
    cursor = connection.execute(_SELECT, (offset,))
    for row in cursor:
        size += len(row[5])
        if rows and size > max_bytes:
            break
        rows.append(row)
    cursor.close()
    return rows


def record(row: Row) -> Record | None:
    """The record of a row; None if its checksum does not match."""
    offset, kind, rows, ingested_at_us, checksum, payload = row
    if checksum != _checksum(offset, kind, rows, ingested_at_us, payload):
        return None
    return Record(offset, Kind(kind), rows, ingested_at_us, payload)


def delete(connection: sqlite3.Connection, before: int) -> None:
    """Delete the records below `before`; what the next one goes on from is kept."""
    connection.execute("INSERT OR REPLACE INTO trimmed VALUES (1, ?, ?)", end(connection))
    connection.execute('DELETE FROM records WHERE "offset" < ?', (before,))


def end(connection: sqlite3.Connection) -> tuple[int, int]:
    """(next offset, last ingestion time), 0 before any."""
    row = connection.execute(_LAST).fetchone() or connection.execute(_TRIMMED).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def bounds(connection: sqlite3.Connection) -> Bounds:
    """The offsets held, both ends of one moment."""
    first, last, trimmed = connection.execute(
        'SELECT (SELECT min("offset") FROM records), (SELECT max("offset") + 1 FROM records),'
        ' (SELECT "end" FROM trimmed)'
    ).fetchone()
    return Bounds(first, last) if first is not None else Bounds(trimmed or 0, trimmed or 0)


def ingested_at_us(connection: sqlite3.Connection, offset: int) -> int:
    """When a record was ingested; before all times if it is not there."""
    row = connection.execute('SELECT ingested_at_us FROM records WHERE "offset" = ?', (offset,)).fetchone()
    return int(row[0]) if row else -1


def _checksum(offset: int, kind: int, rows: int, ingested_at_us: int, payload: bytes | memoryview) -> int:
    header: int = xxhash.xxh3_64_intdigest(_HEADER.pack(offset, kind, rows, ingested_at_us))
    digest: int = xxhash.xxh3_64_intdigest(payload, seed=header)
    return digest - (1 << 63)  # SQLite's integers are signed
