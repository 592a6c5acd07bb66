"""Directories of sessions in the system's temporary directory: each has an owner; those whose owner is gone go.

The owner holds a lock on the file `owner` for its life. The operating system lets go of it with the process, however
that ends, so a directory whose lock is free belongs to nobody.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

PREFIX = "er-"  # short: the paths of Ray's sockets may have 107 bytes
OWNER = "owner"


class Directory:
    """A session's directory, until `remove` or the end of this process."""

    def __init__(self) -> None:
        """Make it and lock it."""
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Locked under another name first: nobody may find the file while it is free.
        unlocked = self.path / f"{OWNER}.new"
        self._lock: IO[str] = unlocked.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()
        unlocked.rename(self.path / OWNER)

    def remove(self) -> None:
        """Delete it and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def sweep(root: Path | None = None) -> list[Path]:
    """Delete directories of sessions whose owner is gone (killed, or the machine went down); returns them."""
    swept = []
    for owner in sorted((root or Path(tempfile.gettempdir())).glob(f"{PREFIX}*/{OWNER}")):
        try:
            with owner.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(owner.parent, ignore_errors=True)
        except OSError:  # its owner lives, or it is another user's
            continue
        swept.append(owner.parent)
    return swept
