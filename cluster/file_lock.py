"""Locks between processes, on open files. The kernel releases one when its holder dies or closes the file.

`lock` waits, `try_lock` does not; both belong to the open file, so that threads which share one share the lock.
`locked_beside` is for files whose makers take turns.
`FileLock` waits for a bounded time: `flock` itself knows no limit, so a thread waits in the kernel and the caller waits
for the thread. Nobody polls, and a holder that is stopped hangs nobody.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Open = int | IO[Any]
"""An open file, or its descriptor."""


def lock(file: Open, *, shared: bool = False) -> None:
    """Take the lock, alone or `shared`, and wait for it; one that this open file has is exchanged. Raises OSError."""
    fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def try_lock(file: Open, *, shared: bool = False) -> bool:
    """Take the lock unless somebody else has it; raises OSError where the file cannot be locked at all."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(file: Open) -> None:
    """Let the next one in."""
    fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def locked_beside(file: Path) -> Iterator[None]:
    """Hold the lock of `file` by `FILE.lock`, for makers of a file that take turns; waits for it. Raises OSError."""
    with file.with_name(f"{file.name}.lock").open("w") as beside:
        lock(beside)
        yield


class FileLock:
    """An exclusive lock on `path`. Threads of one process must take turns by a lock of their own around it."""

    def __init__(self, path: Path) -> None:
        """Open (and create) the side file; raises OSError."""
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        self._waiter: _Waiter | None = None

    def acquire(self, timeout_s: float) -> bool:
        """Take the lock, or return False after `timeout_s`."""
        if self._waiter is None:
            if try_lock(self._fd):
                return True
            self._waiter = _Waiter(self._fd)
        granted, finished = self._waiter.wait(timeout_s)
        if finished:
            self._waiter = None
        return granted or (finished and self.acquire(timeout_s))

    def release(self) -> None:
        """Let the next one in."""
        unlock(self._fd)

    def close(self) -> None:
        """Give up the file; the lock must not be held. A thread still waiting closes the file when it is done."""
        if self._waiter is None or self._waiter.leave():
            os.close(self._fd)


class _Waiter:
    """One thread blocked in `flock`. If nobody waits for it any more, it gives the lock back at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._guard = threading.Lock()
        self._done = threading.Event()
        self._wanted = True
        self._granted = False
        self._closing = False
        threading.Thread(target=self._block, name="log-lock", daemon=True).start()

    def wait(self, timeout_s: float) -> tuple[bool, bool]:
        """(lock granted, thread finished)."""
        with self._guard:
            self._wanted = True
        self._done.wait(timeout_s)
        with self._guard:
            self._wanted = False
            return self._granted, self._done.is_set()

    def leave(self) -> bool:
        """Nobody will wait again; True if the thread is through with the file."""
        with self._guard:
            self._closing = True
            return self._done.is_set()

    def _block(self) -> None:
        lock(self._fd)
        with self._guard:
            self._granted = self._wanted
            if not self._granted:
                unlock(self._fd)
            if self._closing:
                os.close(self._fd)
            self._done.set()
