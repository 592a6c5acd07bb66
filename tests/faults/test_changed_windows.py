"""Changed windows on the whole platform: killed at once, started with another configuration, with its state deleted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.running_platform import RunningPlatform, eventually, running

SCHEMA = {
    "type": "object",
    "properties": {"t": {"type": "string", "format": "date-time"}, "id": {"type": "string"}, "k": {"type": "string"}},
    "required": ["t"],
}
COUNT: dict[str, Any] = {"group_by": ["k"], "aggregate": {"n": "count()"}}


def configure(directory: Path, windows: dict[str, Any], **settings: Any) -> None:
    stream = {"schema": "s.json", "time": "t", "id": "id", "key": "k", "idle_timeout": "2s", "windows": windows}
    whole = {
        "edge": {"auth": "off"},
        "log": {"partitions": 1},
        "lake": {"commit_interval_s": 0.5},
        "streams": {"s": stream | settings},
    }
    (directory / "s.json").write_text(json.dumps(SCHEMA))
    (directory / "eagleray.yaml").write_text(yaml.safe_dump(whole))


def send(platform: RunningPlatform, *times: str) -> None:
    for time in times:
        event = {"t": f"2026-01-01T{time}Z", "id": time, "k": "a"}
        status, answer = platform.post("s", json.dumps(event).encode())
        assert (status, answer["accepted"]) == (200, 1)


def rows(platform: RunningPlatform, window: str) -> list[tuple[str, int]]:
    found = platform.sql(f"SELECT window_start, n FROM s.{window} ORDER BY ALL")
    return [(str(start)[11:19], n) for start, n in found]


def test_changed_windows_are_applied_after_a_kill_and_lost_state(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    configure(project, {"w": COUNT | {"tumble": "5m"}, "hour": COUNT | {"tumble": "1h"}})
    with running(RunningPlatform(tmp_path / "run", project)) as platform:
        send(platform, "12:00:05", "12:01:05", "12:07:00")
        eventually(lambda: rows(platform, "w") == [("12:00:00", 2)])
        send(platform, "12:08:00")
        platform.kill()  # with an event that nobody may have counted
        shutil.rmtree(platform.data / "state", ignore_errors=True)
        windows = {"w": COUNT | {"tumble": "1m"}, "hour": COUNT | {"tumble": "1h"}, "new": COUNT | {"tumble": "1m"}}
        configure(platform.directory, windows, allowed_lateness="1m")
        platform.start()
        said = (platform.directory / "up.stderr").read_text()
        assert (
            "windows.w: tumble 5m → tumble 1m, allowed_lateness 30s → 1m; counts from 2026-01-01T12:10:00Z on" in said
        )
        assert "windows.new: added; counts from 2026-01-01T12:09:00Z on" in said
        send(platform, "12:09:00", "12:10:30", "12:11:30", "13:30:00")
        eventually(lambda: rows(platform, "hour") == [("12:00:00", 7)])
        assert rows(platform, "w") == [("12:00:00", 2), ("12:05:00", 3), ("12:10:00", 1), ("12:11:00", 1)]
        assert rows(platform, "new") == [("12:09:00", 1), ("12:10:00", 1), ("12:11:00", 1)]
        assert platform.stop() == 0
