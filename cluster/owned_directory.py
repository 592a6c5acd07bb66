"""Temporary directories that have an owner: those whose owner is gone (killed, or the machine went down) can be swept.

The owner holds a lock on the file `owner` for its life. The operating system lets go of it with the process, however
that ends, so a directory whose lock is free belongs to nobody.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

from eagleray.cluster.file_lock import lock, try_lock

PREFIX = "er-"  # of a Ray session's; short: the paths of its sockets may have 107 bytes
OWNER = "owner"


class Directory:
    """A directory of this process, until `remove` or the end of the process."""

    def __init__(self, root: Path | None = None, prefix: str = PREFIX) -> None:
        """Make it in `root` (default: the system's temporary directory) and lock it."""
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        # Locked under another name first: nobody may find the file while it is free.
        unlocked = self.path / f"{OWNER}.new"
        self._lock: IO[str] = unlocked.open("w")
        lock(self._lock)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()
        unlocked.rename(self.path / OWNER)

    def remove(self) -> None:
        """Delete it and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def sweep(root: Path | None = None, prefix: str = PREFIX) -> list[Path]:
    """Delete those directories in `root` whose owner is gone; returns them."""
    swept = []
    for owner in sorted((root or Path(tempfile.gettempdir())).glob(f"{prefix}*/{OWNER}")):
        try:
            with owner.open() as held:
                if not try_lock(held):  # its owner lives
                    continue
                shutil.rmtree(owner.parent, ignore_errors=True)
        except OSError:  # it is another user's
            continue
        swept.append(owner.parent)
    return swept
