"""The processes below this one: adopts those whose parents end, and ends all of them, or those below another.

Used by `eagleray up` and by `cluster.child_process`, whose children host users' code. A process group is not enough to
end such a one whole: a session of its own leaves it. So the tree is walked, and a process that adopts what its children
leave behind has it whole while it lives. Linux alone tells the tree and hands orphans to a subreaper; elsewhere they
are init's, and the group alone ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from eagleray.cluster.errors import EaglerayError

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.02
_ROUNDS_MAX = 20  # looks at a tree that grows while it is stopped


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends; kept through an exec."""
    with suppress(AttributeError, OSError):  # another system
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(but: Collection[int] = ()) -> None:
    """Take note of ended orphans, which else stay zombies; children in `but` have somebody who waits for them."""
    mine = os.getpid()
    for pid, parent, state in _processes():
        if parent == mine and state == "Z" and pid not in but:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def end_all(timeout_s: float) -> None:
    """Kill every descendant, stopped ones too, and wait until none is left.

    Raises EaglerayError where some are left after `timeout_s`: the kernel holds them (a disk that does not answer).
    """
    deadline = time.monotonic() + timeout_s
    while found := descendants(os.getpid()):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        if time.monotonic() > deadline:
            raise EaglerayError(f"processes of the session do not end: {', '.join(map(str, sorted(found)))}")
        time.sleep(_LOOK_S)


def start_ticks() -> int:
    """When this process began, in the kernel's ticks since boot: with its id the name of one process, kept by exec."""
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


def _processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent, state) of every process there is."""
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.isdigit():
            with suppress(OSError, IndexError):
                words = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                yield int(entry), int(words[1]), words[0]


def descendants(pid: int) -> set[int]:
    """The processes below `pid`; none where the system does not tell."""
    children: dict[int, list[int]] = {}
    for one, parent, _ in _processes():
        children.setdefault(parent, []).append(one)
    found: set[int] = set()
    look = [pid]
    while look:
        below = [one for one in children.get(look.pop(), ()) if one not in found]
        found.update(below)
        look += below
    return found


def end_tree(pid: int) -> None:
    """Kill `pid`, which is the leader of its own process group and not waited for yet, and all that is below it."""
    _signal(pid, signal.SIGSTOP)
    _end_below(pid)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # also what a process that is gone already has left in its group
    _signal(pid, signal.SIGKILL)


def leave(code: int) -> None:
    """End this process at once, and before it all that is below it; never returns."""
    _end_below(os.getpid())
    os._exit(code)


def _end_below(pid: int) -> None:
    """Kill everything below a process: stopped first, so that nothing new is started meanwhile."""
    stopped: set[int] = set()
    for _ in range(_ROUNDS_MAX):
        new = descendants(pid) - stopped
        if not new:
            break
        for one in new:
            _signal(one, signal.SIGSTOP)
        stopped |= new
    for one in stopped:
        _signal(one, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
