"""Holds a process to its memory and time where DuckDB alone does not.

DuckDB counts its blocks against memory_limit, not the strings a function builds (`repeat('x', 4000000000)`), and an
interrupt waits for such a function to end. Used by `sql.child` and `cli.sql` on their own process.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HEADROOM_BYTES = 512 << 20  # thread stacks, the result, Python
GRACE_S = 2.0  # between the interrupt and the end of the process


def limit_memory(query_bytes_max: int) -> None:
    """From here on this process can have `query_bytes_max` + HEADROOM_BYTES more of private memory. Linux only."""
    held = private_bytes()
    if not held:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = held + query_bytes_max + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


@contextmanager
def limited_memory(query_bytes_max: int) -> Iterator[None]:
    """`limit_memory` for the block alone: what comes after it, in a process that goes on, has the limit of before."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit_memory(query_bytes_max)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def private_bytes() -> int:
    """What RLIMIT_DATA counts of this process; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[5]) * resource.getpagesize() if statm.exists() else 0


@contextmanager
def last_resort(timeout_s: float, leave: Callable[[], None]) -> Iterator[None]:
    """End the process, after `leave`, if the body is not done GRACE_S after `timeout_s`."""

    def end() -> None:
        leave()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    timer = threading.Timer(timeout_s + GRACE_S, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
