"""What this machine has for jobs: cores and memory, or those of the container."""

from __future__ import annotations

import os
from pathlib import Path

from eagleray.cluster.config import Config
from eagleray.jobs.run.run_state import Capacity

MEMORY_SHARE = 0.8  # the rest is for the system and for what processes need besides their reservation


def machine_capacity(config: Config) -> Capacity:
    """As many attempts at once as there are cores, or `jobs.concurrency`; memory as reserved, not as used."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    nodes = config.jobs.concurrency or cores
    return Capacity(nodes, float(max(cores, nodes)), int(_memory_bytes() * MEMORY_SHARE))


def _memory_bytes() -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such limit, or `max`
        return machine
