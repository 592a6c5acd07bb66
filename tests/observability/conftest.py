"""One platform under a steady trickle of events, with Prometheus and Alertmanager as deploy/prometheus configures them.

Only times are shortened, tenfold, in rules and routes, and those of jobs sixtyfold: what fires is what is shipped.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.running_platform import RunningPlatform, running
from tests.servers.prometheus import Alertmanager, Prometheus, Told, webhook

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "deploy" / "prometheus"
FASTER = 10
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DISK = "256m"
SLOW_JOB = """
import time

import pyarrow as pa

from eagleray import job


@job(output="reports.slow", mode="full", schedule="* * * * *")
def slow() -> pa.Table:
    time.sleep(45)
    return pa.table({"a": [1]})
"""


def shortened(text: str) -> str:
    """Rules whose windows, waits and thresholds in seconds are a tenth."""

    def shorter(match: re.Match[str]) -> str:
        seconds = int(match[2]) * SECONDS[match[3]] / FASTER
        return f"{match[1]}{max(1, round(seconds))}s{match[4]}"

    text = re.sub(r"(\[)(\d+)([smhd])(\])", shorter, text)
    text = re.sub(r"(for: )(\d+)([smhd])(\s)", shorter, text)
    text = re.sub(r"(job_late_seconds\) > )1800", r"\g<1>30", text)
    return re.sub(r"(_seconds:(?:max|events)\S* > )(\d+)", lambda m: f"{m[1]}{int(m[2]) // FASTER}", text)


@dataclass
class Trickle:
    """Sends events all the time; `bad` of ten are wrong."""

    platform: RunningPlatform
    bad: int = 0
    sent: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until `stopped`; what is refused is sent again as something else."""
        while not self.stopped.wait(0.25):
            now = datetime.now(UTC)  # noqa: TID251
            times = [now - timedelta(hours=2), *[now] * (9 - self.bad)]  # one is late, where windows have begun
            events = [{"time": at.isoformat(), "id": f"{self.sent}-{n}", "user": "u"} for n, at in enumerate(times)]
            body = "\n".join(map(json.dumps, events)) + "\nnot an event" * self.bad
            with contextlib.suppress(OSError, AssertionError):
                self.platform.post("clicks", body.encode(), "application/x-ndjson")
            self.sent += 1


@dataclass
class Seen:
    """Everything that a test looks at."""

    platform: RunningPlatform
    prometheus: Prometheus
    told: Told
    trickle: Trickle
    own_disk: bool

    def eagleray(self, *words: str) -> str:
        """The output of a command, as a section of docs/OPERATIONS.md names it."""
        command = [str(Path(sys.executable).parent / "eagleray"), *words]
        ran = subprocess.run(command, cwd=self.platform.directory, capture_output=True, text=True, timeout=120)
        return ran.stdout + ran.stderr


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """A disk of its own at `place`, where we may mount one."""
    place.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], capture_output=True)
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Platform, Prometheus, Alertmanager, a webhook, and events."""
    place = tmp_path_factory.mktemp("seen")
    with ExitStack() as stack:
        own_disk = stack.enter_context(small_disk(place / "platform" / "data"))
        made = RunningPlatform(place / "platform", HERE / "project")
        (made.directory / "jobs").mkdir()
        (made.directory / "jobs" / "slow.py").write_text(SLOW_JOB)
        platform = stack.enter_context(running(made))
        port, told = stack.enter_context(webhook())
        routes = (SHIPPED / "alertmanager.yml").read_text().replace("127.0.0.1:9999", f"127.0.0.1:{port}")
        routes = routes.replace("group_wait: 10s", "group_wait: 1s\n  group_interval: 1s")
        (place / "alertmanager.yml").write_text(routes)
        alertmanager = Alertmanager(place / "alertmanager.yml", place / "am", place / "am.log")
        stack.callback(alertmanager.kill)
        alertmanager.start()
        for file in ("recording.yml", "alerts.yml"):
            (place / file).write_text(shortened((SHIPPED / file).read_text()))
        asked = (SHIPPED / "prometheus.yml").read_text().replace("15s", "1s")
        asked = asked.replace("127.0.0.1:9093", f"127.0.0.1:{alertmanager.port}")
        asked = asked.replace("127.0.0.1:8080", platform.url.removeprefix("http://"))
        (place / "prometheus.yml").write_text(asked)
        prometheus = Prometheus(place / "prometheus.yml", place / "tsdb", place / "prometheus.log")
        stack.callback(prometheus.kill)
        prometheus.start()
        trickle = Trickle(platform)
        sender = threading.Thread(target=trickle.run, daemon=True)
        sender.start()
        stack.callback(sender.join)
        stack.callback(trickle.stopped.set)
        yield Seen(platform, prometheus, told, trickle, own_disk)
