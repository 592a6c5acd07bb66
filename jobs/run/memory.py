"""Ends a process whose attempt takes more memory than it may, and leaves word in its log: the last line.

DuckDB keeps to its limit by itself; a user's function, or a library in it, does not. Looks ten times a second at what
the process holds, so a fast allocation may go somewhat beyond before it is noticed.
"""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eagleray.cluster.descendants import leave
from eagleray.jobs.run.outcome import Failure

HEADROOM_BYTES = 512 << 20  # Python, libraries, batches on their way into Parquet
EVERY_S = 0.1
EXIT_CODE = 137  # as a shell reports the kernel's out-of-memory killer
_MARK = "eagleray: out of memory: "


@contextmanager
def limited(memory_bytes: int, log: Path) -> Iterator[None]:
    """Within the block, this process may hold `memory_bytes` + HEADROOM_BYTES more than now."""
    start = held_bytes()
    most = memory_bytes + HEADROOM_BYTES
    over = threading.Event()

    def look() -> None:
        while not over.wait(EVERY_S):
            if (held := held_bytes() - start) > most:
                with log.open("a") as file:
                    file.write(f"\n{_MARK}{held}\n")
                leave(EXIT_CODE)

    watcher = threading.Thread(target=look, name="memory", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def held_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def explained(log: Path, memory_bytes: int) -> Failure | None:
    """The failure of an attempt whose log ends with the word that `limited` leaves; None for any other end."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 200))
            last = file.read().decode(errors="replace").rstrip("\n").rpartition("\n")[2]
    except OSError:
        return None
    if not last.startswith(_MARK):
        return None
    held = int(last.removeprefix(_MARK))
    return out_of_memory(f"its process held {_mib(held)} and was ended", memory_bytes, retry=False)


def out_of_memory(what: str, memory_bytes: int, retry: bool) -> Failure:
    """The failure, and which setting to raise."""
    advice = f"raise the job's `memory` (now {_mib(memory_bytes)}), or let it hold less at once"
    return Failure("memory", f"out of memory: {what}; {advice}", retry)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
