"""Inputs and outputs of another engine's own tests: Arroyo's hourly counts of rides and its sessions of a counter."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.oracle import parse_us
from tests.running_platform import RunningPlatform, eventually

pytestmark = pytest.mark.platform
INPUTS, OUTPUTS = "golden/arroyo/inputs", "golden/arroyo/golden_outputs"


def test_rides_by_hour_equal_the_golden_output(
    platform: RunningPlatform, input_lines: Callable[[str], list[bytes]]
) -> None:
    lines = input_lines(f"{INPUTS}/cars.json")
    closing = {"timestamp": "2023-09-21T00:00:00Z", "driver_id": 1, "event_type": "closing", "location": "here"}
    platform.send("cars", lines, rows=600)
    platform.send("cars", [json.dumps(closing).encode()])
    golden = [json.loads(line) for line in input_lines(f"{OUTPUTS}/hourly_by_event_type.json")]
    eventually(lambda: platform.count("cars.hourly") >= len(golden))
    found = platform.sql("SELECT window_start, event_type, count FROM cars.hourly")
    assert sorted((parse_us(hour), kind, count) for hour, kind, count in found) == sorted(
        (parse_us(row["hour"]), row["event_type"], row["count"]) for row in golden
    )


def test_sessions_of_a_counter_equal_the_golden_output(
    platform: RunningPlatform, input_lines: Callable[[str], list[bytes]]
) -> None:
    events = [json.loads(line) for line in input_lines(f"{INPUTS}/impulse.json")]
    for event in events:
        event["user_id"] = 0 if event["counter"] % 10 == 0 else event["counter"]
    closing = {"timestamp": "2023-10-10T00:00:00Z", "counter": 0, "subtask_index": 0, "user_id": -1}
    platform.send("impulse", [json.dumps(event).encode() for event in [*events, closing]], rows=7)
    golden = [json.loads(line) for line in input_lines(f"{OUTPUTS}/session_window.json")]
    eventually(lambda: platform.count("impulse.sessions") >= len(golden))
    found = platform.sql('SELECT window_start, window_end, user_id, "rows" FROM impulse.sessions')
    assert sorted((parse_us(start), parse_us(end), user, rows) for start, end, user, rows in found) == sorted(
        (parse_us(row["start"]), parse_us(row["end"]), row["user_id"], row["rows"]) for row in golden
    )
