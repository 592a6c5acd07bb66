"""Events that end the process judging them, by what users' models really can do: found, and everything else stored."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running_platform import RunningPlatform, eventually, running

pytestmark = [pytest.mark.platform, pytest.mark.faults]

PROJECT = Path(__file__).parent / "crash_project"
TIME = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with running(RunningPlatform(tmp_path_factory.mktemp("crash"), PROJECT)) as started:
        yield started


def order(n: int, note: str = "") -> bytes:
    return json.dumps({"time": TIME, "n": n, "note": note}).encode()


def until_acked(platform: RunningPlatform, body: bytes, stream: str = "orders") -> Any:
    """Send again and again, as any client does, without anything that tells a repetition; the answer."""

    def acked() -> Any:
        status, answer = platform.post(stream, body, "application/x-ndjson")
        return answer if status == 200 else None

    return eventually(acked, 120)


def numbers(platform: RunningPlatform, stream: str = "orders") -> list[int]:
    return [n for (n,) in platform.sql(f"SELECT n FROM {stream}.events ORDER BY n")]


def test_an_event_that_crashes_the_validator_goes_to_the_dead_letters_alone(crashing: RunningPlatform) -> None:
    lines = [order(n, "abort" if n in (123, 124, 400) else "") for n in range(500)]
    answer = until_acked(crashing, b"\n".join(lines))
    assert answer["accepted"] == 497
    assert [(bad["index"], bad["reason"]) for bad in answer["rejected"]] == [(n, "crash") for n in (123, 124, 400)]
    assert "SIGABRT" in answer["rejected"][0]["detail"]
    eventually(lambda: len(numbers(crashing)) >= 497)
    assert numbers(crashing) == [n for n in range(500) if n not in (123, 124, 400)]  # none twice, without any id
    letters = crashing.sql("SELECT original, reason FROM orders.dead_letters ORDER BY _row")
    assert {reason for _, reason in letters} == {"crash"} and len(letters) == 3


@pytest.mark.parametrize("note", ["segfault", "exit"])
def test_the_next_ones_cost_no_worker(crashing: RunningPlatform, note: str) -> None:
    until_acked(crashing, order(1000, "abort"))  # whoever was lost before: now the stream is watched
    eventually(lambda: len(crashing.pids("validate")) == 2)
    before = crashing.pids("validate")
    status, answer = crashing.post("orders", b"[" + order(1001, note) + b"," + order(1002) + b"]")
    assert status == 200 and answer["accepted"] == 1
    assert [(bad["index"], bad["reason"]) for bad in answer["rejected"]] == [(0, "crash")]
    assert crashing.pids("validate") == before


def test_other_streams_are_not_harmed(crashing: RunningPlatform) -> None:
    stop = threading.Event()
    wrong: list[Any] = []

    def poison() -> None:
        while not stop.is_set():
            status, answer = crashing.post("orders", order(2000, "abort"))
            if status == 200 and answer["accepted"]:
                wrong.append(answer)

    thread = threading.Thread(target=poison)
    thread.start()
    try:
        for n in range(50):
            assert until_acked(crashing, order(n), "others") == {"accepted": 1, "rejected": []}
    finally:
        stop.set()
        thread.join()
    assert not wrong
    eventually(lambda: set(numbers(crashing, "others")) == set(range(50)))
