"""What the machine refused, in one sentence: which file, what happened, what to do.

Used by `cli.app` for whatever nobody caught, and by those who open databases. For errors of disks and databases only:
any other exception that nobody expected is a fault of ours, and keeps its traceback.
"""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

_FULL = "free some space there, then run it again; nothing that was acked is lost"
_CLOSED = "make it writable for this user, or use another data_dir"
DIRECTORY = "a directory is in the place of a file: move it away, and restore the file from a backup"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _CLOSED,
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.ENOENT: "restore it from a backup (`eagleray restore`), or see `eagleray doctor`",
    errno.EISDIR: DIRECTORY,
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run it again",
}
_DATABASE = (
    ("readonly", _CLOSED),
    ("unable to open", _CLOSED),
    ("full", _FULL),
    ("disk I/O error", "see whether the disk is full or broken, then run it again"),
    ("not a database", "restore the file from a backup (`eagleray restore`)"),
    ("malformed", "restore the file from a backup (`eagleray restore`)"),
    ("locked", "another process holds it: wait for it, then run it again"),
)

_STARVED = {
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR_NOMEM,
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_MMAP,
}


def sentence(error: Exception) -> str | None:
    """The error as one line with what to do; None where it is not the machine's."""
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        said = f"{place}{error.strerror}" if error.strerror else str(error)
    else:
        cause = getattr(error, "orig", error)  # SQLAlchemy wraps what the database said
        if not isinstance(cause, sqlite3.Error):
            return None
        said = str(cause)
    line = " ".join(said.split())
    what = advice(error)
    return f"{line}; {what}" if what else line


def starved(error: BaseException | None) -> bool:
    """Whether the error is for want of memory; SQLite, which maps files, says `disk I/O error` then."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    cause = getattr(error, "orig", error)  # SQLAlchemy wraps what the database said
    return isinstance(error, MemoryError) or getattr(cause, "sqlite_errorcode", None) in _STARVED


def advice(error: BaseException | None, file: Path | None = None) -> str:
    """What to do about an error of a disk or a database; nothing where that is not known. `file`: the database."""
    if file is not None and file.is_dir():
        return DIRECTORY
    if isinstance(error, OSError):
        return _ADVICE.get(error.errno or 0, "")
    cause = getattr(error, "orig", error)
    if not isinstance(cause, sqlite3.Error):
        return ""
    return next((what for sign, what in _DATABASE if sign in str(cause)), "")
