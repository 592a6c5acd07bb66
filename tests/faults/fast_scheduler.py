"""A scheduler whose clock runs thirty times as fast as the machine's, over a project's folder. For test_jobs_kills."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import load_config
from eagleray.jobs.run.local import LocalWorkers
from eagleray.jobs.schedule.scheduler import Scheduler

SPEED = 30


class FastClock:
    """All processes agree on it: it is a function of the machine's clock."""

    def now_us(self) -> int:
        """Microseconds since the epoch, as if each second took a thirtieth."""
        return SystemClock().now_us() % (10**15) * SPEED


if __name__ == "__main__":
    config = load_config(Path(sys.argv[1]) / "eagleray.yaml")
    scheduler = Scheduler(config, FastClock(), lambda: LocalWorkers(config))
    while True:
        threading.Event().wait(0.2)
        scheduler.look()
