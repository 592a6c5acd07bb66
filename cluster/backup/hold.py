"""While a backup is taken, nothing that it may still have to copy is deleted: log records, old snapshots, orphans.

Whoever deletes takes the hold for sharing, at once or not at all; the backup takes it alone and waits for the others.
The kernel lets go of it when its holder dies, so that a killed backup holds nobody up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.file_lock import lock, try_lock

NAME = "deletions.lock"


@contextmanager
def deleting(data_dir: Path) -> Iterator[bool]:
    """Whether deletions are allowed now; while the block runs, no backup begins."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / NAME).open("a") as deletions:
        yield try_lock(deletions, shared=True)


@contextmanager
def nothing_deleted(data_dir: Path) -> Iterator[None]:
    """Nothing is deleted while the block runs; waits for deletions under way. Raises EaglerayError beside a backup."""
    with (data_dir / f"{NAME}.backup").open("a") as alone, (data_dir / NAME).open("a") as deletions:
        if not try_lock(alone):
            raise EaglerayError(f"another backup of {data_dir} is under way; wait for its end")
        lock(deletions)
        yield
