"""What scheduled periods wait for: a table, a file, an address. Looked at in threads, never in the scheduler's own.

Used by `scheduler`: `met` answers at once with what the last look found, and has the next one made when it is time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from urllib.parse import quote, urlsplit

from eagleray.cluster.client.http import Client
from eagleray.cluster.config import Config
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.jobs.model import Condition, Job
from eagleray.jobs.period import Period

logger = logging.getLogger(__name__)

LOOKS_AT_ONCE = 4
TIMEOUT_S = 10.0
KEPT_MAX = 10_000  # answers that are remembered; above, all are looked at anew


class Sensors:
    """Looks at conditions, each at its interval."""

    def __init__(self, config: Config, wake: Callable[[], None]) -> None:
        """`wake` is called when something has come true."""
        self._config = config
        self._wake = wake
        self._pool = ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="sensor")
        self._mutex = threading.Lock()
        self._met: set[tuple[str, str]] = set()
        self._next_s: dict[tuple[str, str], float] = {}

    def close(self) -> None:
        """Look no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def met(self, job: Job, period: Period) -> bool:
        """Whether everything that this period waits for is there, as far as is known; once met, a period stays so."""
        waits = job.schedule.waits if job.schedule else ()
        return all([self._is_met(one, period) for one in waits])  # a list: all are looked at side by side

    def _is_met(self, condition: Condition, period: Period) -> bool:
        key = (f"{condition.kind} {filled(condition, period)}", period.label)
        with self._mutex:
            if key in self._met:
                return True
            now_s = time.monotonic()
            if now_s < self._next_s.get(key, 0.0):
                return False
            if len(self._next_s) + len(self._met) > KEPT_MAX:
                self._next_s.clear()
                self._met.clear()
            self._next_s[key] = now_s + TIMEOUT_S + condition.every_us / 1e6  # until the look has ended
        self._pool.submit(self._look, key, condition, period)
        return False

    def _look(self, key: tuple[str, str], condition: Condition, period: Period) -> None:
        try:
            found = there(self._config, condition, period)
        except Exception as error:
            logger.info("waiting for %s: %s", key[0], error)
            found = False
        with self._mutex:
            self._next_s[key] = time.monotonic() + condition.every_us / 1e6
            if found:
                self._met.add(key)
                self._next_s.pop(key)
        if found:
            self._wake()


def filled(condition: Condition, period: Period) -> str:
    """What is waited for, with the period's `$date`, `$start` and `$end` in it; in an address they are quoted."""
    text = condition.what
    values = {"$date": period.day.isoformat(), "$start": f"{period.start:%Y-%m-%dT%H:%M:%SZ}"}
    values["$end"] = f"{period.end:%Y-%m-%dT%H:%M:%SZ}"
    for name, value in values.items():
        text = text.replace(name, quote(value, safe="") if condition.kind == "url" else value)
    return text


def there(config: Config, condition: Condition, period: Period) -> bool:
    """Whether it is there now; raises what looking at it raises."""
    what = filled(condition, period)
    if condition.kind == "file":
        return bool(glob(what, root_dir=config.file.parent, recursive=True))
    if condition.kind == "table":
        commits = [commit for table in open_snapshots(config).pin([what]).values() for commit in table.commits()]
        return any(at_us >= period.end.timestamp() * 1e6 for _, at_us, _ in commits)
    parts = urlsplit(what)
    with Client(f"{parts.scheme}://{parts.netloc}", timeout_s=TIMEOUT_S) as client:
        reply = client.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    return 200 <= reply.status < 300
