"""Pools that grow and shrink, and keys that do not share: whatever the work is spread over, the tables are the same."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults.trial import Trial
from tests.running_platform import RunningPlatform, eventually, running

pytestmark = [pytest.mark.platform, pytest.mark.faults]

PROJECT = Path(__file__).parent / "project"
HOT = 7  # the producer with nine tenths of all events
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SIZE_S, EVERY_S = 10, 2


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with running(RunningPlatform(tmp_path_factory.mktemp("scaling"), PROJECT)) as started:
        yield started


def resize(platform: RunningPlatform, size: int) -> None:
    """Every pool, and wait until its workers are there."""
    for pool in ("validate", "window", "writer"):
        body = json.dumps({"size": size}).encode()
        status, _, answer = platform.request(
            "POST", f"/v1/admin/pools/{pool}", body, {"Content-Type": "application/json"}
        )
        assert status == 200, answer
    for pool in ("validate", "window", "writer"):
        eventually(lambda pool=pool: len(platform.pids(pool)) == size, 180)


def test_pools_scaled_up_and_down_under_load_give_the_same_tables(scaled: RunningPlatform, tmp_path: Path) -> None:
    trial = Trial(scaled, tmp_path / "notes")
    trial.begin(patience_s=180)
    for size in (8, 2, 3, 2):
        resize(scaled, size)
        trial.assert_progress()
    trial.end()
    trial.close_windows()
    trial.assert_safe(120)


def hot_orders(count: int) -> list[dict[str, Any]]:
    """Orders over a minute, in the order of their times; nine tenths are of one producer."""
    rng = random.Random(38)
    producers = [HOT if rng.random() < 0.9 else rng.randrange(100, 200) for _ in range(count)]
    return [
        {
            "id": f"hot-{n}",
            "producer": producer,
            "seq": n,
            "time": (NOON + timedelta(seconds=60 * n / count)).isoformat().replace("+00:00", "Z"),
            "kind": "buy",
            "amount": rng.randrange(1000),
        }
        for n, producer in enumerate(producers)
    ]


def test_one_key_with_nine_tenths_of_all_events_is_counted_exactly(scaled: RunningPlatform) -> None:
    orders = hot_orders(30_000)
    assert 0.89 < Counter(order["producer"] for order in orders)[HOT] / len(orders) < 0.91
    scaled.send("hot", [json.dumps(order).encode() for order in orders])
    ahead = {**orders[0], "id": "ahead", "producer": 0, "time": "2026-06-01T12:30:00Z"}
    scaled.send("hot", [json.dumps(ahead).encode()])
    events, amounts = defaultdict(int), defaultdict(int)
    for order in orders:
        second = int((datetime.fromisoformat(order["time"]) - NOON).total_seconds())
        last = second // EVERY_S * EVERY_S
        for start in range(last, last - SIZE_S, -EVERY_S):
            events[start, order["producer"]] += 1
            amounts[start, order["producer"]] += order["amount"]
    expected = sorted((*at, events[at], amounts[at]) for at in events)
    query = f"""
        SELECT (epoch_us(window_start) - epoch_us(TIMESTAMPTZ '{NOON.isoformat()}')) // 1000000 AS start,
            producer, events, amount
        FROM hot.producers WHERE producer > 0 ORDER BY ALL"""
    eventually(lambda: len(scaled.sql(query)) >= len(expected), 120)
    assert [tuple(map(int, row)) for row in scaled.sql(query)] == expected
    assert scaled.count("hot.late") == 0
    stored = scaled.sql("SELECT seq FROM hot.events WHERE producer = 7 ORDER BY _partition, _offset, _row")
    assert [seq for (seq,) in stored] == [order["seq"] for order in orders if order["producer"] == HOT]
