"""Which process holds something, and whether it still lives: what a killed process held is free at once."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


def this_process() -> str:
    """A name that no other process has ever had, or will have."""
    pid = os.getpid()
    return f"{_machine()}|{pid}|{birth(pid)}"


def surely_dead(owner: str) -> bool:
    """Whether `owner` was a process of this machine that is gone. One of another machine may live: False."""
    machine, pid, began = owner.split("|")
    return machine == _machine() and str(birth(int(pid))) != began


@cache
def _machine() -> str:
    """Host, boot and process namespace: containers on one host share its boot, not its process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def birth(pid: int) -> int | None:
    """When the process `pid` started, in clock ticks since boot; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
