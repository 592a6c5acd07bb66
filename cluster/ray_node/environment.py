"""The environment of every process of a session of our own: Ray's settings, in one place.

Ray reads its settings once, when its library is loaded. So `prepare` comes before the first `import ray` of a process,
and this module imports nothing of Ray.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

# Some of Ray's servers listen on the node's address alone. Ray replaces 127.0.0.1 by the one that others reach.
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
FIRST_JOB = "01000000"  # the number of a new cluster's first driver, which is `eagleray up`

SESSION = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "DAFT_ANALYTICS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",  # /metrics is ours
    # Ray's own metrics of these two are open to anybody on every address; no port, no server.
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
    "RAY_event_stats": "0",  # Ray's own notes on every event and task: 5 % of the processor
    "RAY_task_events_report_interval_ms": "0",
    "RAY_max_direct_call_object_size": str(2 << 20),  # a micro-batch travels in its call
    "MALLOC_ARENA_MAX": "2",  # glibc gives each of many threads memory of its own: 5 % more in all
    "RAY_worker_niceness": "0",  # Ray's 15 lets any other process of the machine starve ours
    "RAY_prestart_worker_first_driver": "0",  # a driver would wait for as many workers as cores
}


def defaults() -> None:
    """Set what is not set yet."""
    for name, value in SESSION.items():
        os.environ.setdefault(name, value)


def prepare(keeper_pid: int, token: Mapping[str, str]) -> None:
    """Load Ray so that children forked from this process can be workers of the node that `keeper_pid` keeps.

    A worker belongs to the job, and ends with the process, that the environment named when Ray was loaded; so both are
    in it for that long. Raises RuntimeError where Ray is loaded already.
    """
    if "ray._raylet" in sys.modules:
        raise RuntimeError("Ray was imported before its environment was prepared")
    defaults()
    named = {"RAY_JOB_ID": FIRST_JOB, "RAY_RAYLET_PID": str(keeper_pid)}
    os.environ.update({**token, **named})
    try:
        import ray  # noqa: F401
    finally:
        for name in named:
            del os.environ[name]
