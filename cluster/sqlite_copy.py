"""Copies a SQLite database as it is at one instant, whoever writes to it meanwhile. Used by the log and by backups."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from eagleray.cluster.durable import sync_directory


def copy_database(source: sqlite3.Connection, target: Path) -> None:
    """Put the database of `source` at `target`, checked and durable; there whole or not at all.

    One read transaction: writers go on (in WAL mode) and are not in the copy. Raises sqlite3.Error, OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    making = target.with_name(f"{target.name}.making")
    for part in ("", "-wal", "-shm", "-journal"):
        making.with_name(making.name + part).unlink(missing_ok=True)
    os.close(os.open(making, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(making, isolation_level=None)) as copy:
        source.backup(copy, pages=-1)
        ((found,),) = copy.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise sqlite3.DatabaseError(f"{target.name}: {found}")
    descriptor = os.open(making, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    making.rename(target)
    sync_directory(target.parent)
