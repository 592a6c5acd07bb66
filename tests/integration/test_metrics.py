"""docs/metrics.md against a running platform: each metric that is promised is there, and nothing else is."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from tests.running_platform import RunningPlatform

DOCUMENTED = Path(__file__).parents[2] / "docs" / "metrics.md"

# Each counts something that must go wrong, or a job that must be scheduled, before it is first seen.
WHEN_IT_HAPPENS = {
    "window_overflows_total",
    "window_snapshot_failures_total",
    "window_state_lost_total",
    "window_errors_total",
    "writer_restarts_total",
    "writer_errors_total",
    "commits_refused_total",
    "commits_unknown_total",
    "closings_delayed_total",
    "log_overtaken_records",
    "committer_errors_total",
    "job_runs_total",
    "job_last_success_seconds",
    "jobs_running",
    "job_files_broken",
    "job_late_seconds",
    "job_duration_seconds",
    "partition_handovers_total",
    "problems",
}
SUFFIXES = re.compile(r"_(bucket|count|sum|created)$")


def events(name: str, time: str) -> list[dict[str, object]]:
    """Enough of them that every partition gets some; each is there twice."""
    return 2 * [{"time": time, "id": f"{name}{number}", "s": "x", "n": 1} for number in range(40)]


BATCHES = [  # one by one, so that the last finds its window closed
    events("first", "2026-01-05T10:00:01Z"),
    [{"time": "no time", "id": "rejected"}],
    events("ahead", "2026-01-05T11:00:00Z"),
    events("late", "2026-01-05T10:00:03Z"),
]


def emitted(platform: RunningPlatform) -> dict[str, float]:
    """The largest value of each metric, by its name without prefix; histograms by their own name."""
    status, _, body = platform.request("GET", "/metrics")
    assert status == 200
    found: dict[str, float] = {}
    for line in body.decode().splitlines():
        if not line.startswith("#"):
            name = SUFFIXES.sub("", line.partition("{")[0].partition(" ")[0].removeprefix("eagleray_"))
            found[name] = max(found.get(name, 0.0), float(line.rpartition(" ")[2]))
    return found


def test_each_documented_metric_is_emitted_and_each_emitted_one_documented(platform: RunningPlatform) -> None:
    documented = set(re.findall(r"^\| `(\w+)`", DOCUMENTED.read_text(), re.MULTILINE))
    assert documented >= WHEN_IT_HAPPENS
    for batch in BATCHES:
        status, _ = platform.post("anything", json.dumps(batch).encode())
        assert status == 200
    expected = documented - WHEN_IT_HAPPENS
    deadline = time.monotonic() + 60
    while missing := expected - emitted(platform).keys():
        assert time.monotonic() < deadline, f"documented and never emitted: {sorted(missing)}"
        time.sleep(0.5)
    found = emitted(platform)
    assert found.keys() <= documented, "emitted and not documented"
    assert found["validate_fast_path"] == 1
    assert found["http_connections"] >= 1  # the one that asks
    assert found["http_in_flight_requests"] >= 1
