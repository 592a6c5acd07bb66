"""Ends what a process has started when that process dies: for one that others may kill, such as a worker of Ray's.

`guarded()` starts this file as a process of its own for the time of a block (`python -I -S guardian.py PID`). It notes
what is below the process, and when that is gone kills what is left of it.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LOOK_S = 0.5


@contextmanager
def guarded() -> Iterator[None]:
    """Within the block, whatever this process starts dies with it, however it dies."""
    if not hasattr(os, "pidfd_open"):
        yield
        return
    guardian = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guardian.kill()
        guardian.wait()


def main(pid: int) -> None:
    """Watch `pid` until it ends."""
    process = os.pidfd_open(pid)
    known: dict[int, str] = {}  # and when each began, for ids are given again
    while not select.select([process], [], [], _LOOK_S)[0]:
        known |= {one: began for one in _below(pid) if (began := _began(one)) is not None}
    for one, began in known.items():
        if _began(one) == began:
            for also in [*_below(one), one]:
                with suppress(OSError):
                    os.kill(also, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """The processes below `pid`, but for this one."""
    found: list[int] = []
    stack = [pid]
    while stack:
        at = stack.pop()
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{at}/task"):
                with open(f"/proc/{at}/task/{thread}/children") as children:
                    below = [int(word) for word in children.read().split() if int(word) != os.getpid()]
                found += below
                stack += below
    return found


def _began(pid: int) -> "str | None":
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[19]
    except OSError:
        return None


if __name__ == "__main__":
    main(int(sys.argv[1]))
