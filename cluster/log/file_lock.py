"""A lock between processes on a side file: blocking, woken at once, and yet bounded in time. Used by `stream_file`.

The kernel releases it when its holder dies. `flock` itself knows no time limit, so when the lock is taken a thread
waits in the kernel and the caller waits for the thread: no polling, and a stopped holder cannot hang anybody.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path


class FileLock:
    """An exclusive lock on `path`. Threads of one process must take turns by a lock of their own around it."""

    def __init__(self, path: Path) -> None:
        """Open (and create) the side file; raises OSError."""
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        self._waiter: _Waiter | None = None

    def acquire(self, timeout_s: float) -> bool:
        """Take the lock, or return False after `timeout_s`."""
        if self._waiter is None:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                self._waiter = _Waiter(self._fd)
        granted, finished = self._waiter.wait(timeout_s)
        if finished:
            self._waiter = None
        return granted or (finished and self.acquire(timeout_s))

    def release(self) -> None:
        """Let the next one in."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

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
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        with self._guard:
            self._granted = self._wanted
            if not self._granted:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            if self._closing:
                os.close(self._fd)
            self._done.set()
