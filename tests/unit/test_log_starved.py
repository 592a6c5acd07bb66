"""A process that gets no more memory says so of the log, in whatever words SQLite says it."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

from eagleray.cluster.errors import LogUnavailable
from eagleray.cluster.machine_errors import starved

CHILD = """
import resource, sys
from pathlib import Path
from eagleray.cluster.errors import LogUnavailable
from eagleray.cluster.log.embedded import EmbeddedLog
from eagleray.cluster.log.protocol import Entry, Kind

directory = Path(sys.argv[1])
first = EmbeddedLog(directory, partitions=1)
first.append("s", [Entry(0, Kind.EVENTS, 1, b"x")])
second = EmbeddedLog(directory, partitions=1)
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
taken = []
for size in (1 << 20, 1 << 16, 1 << 12):
    try:
        while True:
            taken.append(bytearray(size))
    except MemoryError:
        pass
try:
    second.bounds("s", 0)
    said = "read"
except MemoryError as error:
    said = "LogStarved" if isinstance(error, LogUnavailable) else "MemoryError"
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(said, second.bounds("s", 0).end)
"""


def test_a_log_that_finds_no_memory_is_starved_and_can_be_read_when_there_is_some(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout in ("LogStarved 1\n", "MemoryError 1\n"), done.stdout + done.stderr[-2000:]


def test_what_sqlite_calls_a_disk_error_may_be_want_of_memory() -> None:
    mapped, disk = sqlite3.OperationalError("disk I/O error"), sqlite3.OperationalError("disk I/O error")
    mapped.sqlite_errorcode, disk.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMMAP, sqlite3.SQLITE_IOERR_WRITE
    assert starved(mapped) and not starved(disk)
    assert starved(MemoryError()) and starved(OSError(errno.ENOMEM, "no")) and not starved(OSError(errno.EIO, "no"))
    assert not starved(LogUnavailable("away")) and not starved(None)
