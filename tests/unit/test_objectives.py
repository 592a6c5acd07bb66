"""The history of objectives: exact over restarts of whoever counts or keeps it, bounded, and read as people read it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from eagleray.actors.committer import Committer
from eagleray.actors.objectives import HOUR_US, HOURS, MINUTE_US, PROCESSES_MAX, Objectives
from eagleray.cli.slo import rows
from eagleray.cluster.clock import ManualClock
from eagleray.cluster.sections import SloConfig
from eagleray.cluster.telemetry.histogram import Histogram
from tests.examples import examples
from tests.stream_project import TEXT, StreamProject

SLO = SloConfig()
NOW_US = 20_000 * 24 * HOUR_US


def counts(*latencies_us: int, target_us: int = 500_000) -> dict[str, tuple[int, int, dict[int, int]]]:
    histogram = Histogram()
    for one in latencies_us:
        histogram.record(one)
    slow = sum(one > target_us for one in latencies_us)
    return {"ack": (len(latencies_us), slow, histogram.sparse())}


@examples(60)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.lists(st.integers(0, 5_000_000), max_size=5), st.booleans()),
        max_size=20,
    )
)
def test_nothing_is_counted_twice_or_lost_whoever_starts_again(
    steps: Sequence[tuple[str, list[int], bool]],
) -> None:
    kept, lives, known, every = Objectives(SLO), {"a": 0, "b": 0}, {"a": [], "b": []}, []
    for process, latencies, ends in steps:
        known[process] += latencies
        every += latencies
        kept.see(f"{process} {lives[process]}", counts(*known[process]), NOW_US)
        if ends:  # the process, and who keeps the history
            lives[process] += 1
            known[process] = []
            kept = Objectives(SLO, kept.saved())
    found = kept.report(NOW_US)["ack"]
    for span in ("hour", "days_28"):
        assert (found[span]["events"], found[span]["missed"]) == (len(every), sum(one > 500_000 for one in every))
    if every:
        at = sorted(every)[max(0, -(-99 * len(every) // 100) - 1)]
        assert abs(found["hour"]["p99_ms"] * 1000 - at) <= at / 7 + 1


def test_an_hour_is_an_hour_and_28_days_are_28_days() -> None:
    kept = Objectives(SLO)
    for number in range(1, 11):
        kept.see("a", counts(*[600_000] * number), NOW_US + number * MINUTE_US)
    for later_us, in_hour, in_days in [
        (10 * MINUTE_US, 10, 10),
        (64 * MINUTE_US, 6, 10),
        (2 * HOUR_US, 0, 10),
        (HOURS * HOUR_US - 1, 0, 10),
        (HOURS * HOUR_US, 0, 0),
    ]:
        found = kept.report(NOW_US + later_us)["ack"]
        assert (found["hour"]["events"], found["days_28"]["events"]) == (in_hour, in_days)


def test_what_is_kept_is_bounded_whatever_the_load() -> None:
    kept, histogram = Objectives(SLO), Histogram()
    for hour in range(HOURS + 100):
        for number in range(60):
            histogram.record(1000 + 37 * hour * number, 1000)
        kept.see(f"a {hour // 3}", {"ack": (hour, 0, histogram.sparse())}, NOW_US + hour * HOUR_US)
    assert len(kept._hours) == HOURS and len(kept._minutes) == 1 and len(kept._seen) <= PROCESSES_MAX
    assert len(kept.saved()) < 200_000


def test_a_history_that_cannot_be_read_begins_anew() -> None:
    assert Objectives(SLO, "no such thing").report(NOW_US)["ack"]["hour"] == {"events": 0, "missed": 0}


def test_the_budget_is_what_the_target_still_allows() -> None:
    kept = Objectives(SLO)
    kept.see("edge 1", {"success": (100_000, 50, {}), "ack": (1000, 20, {1000: 1000})}, NOW_US)
    found = kept.report(NOW_US)
    assert abs(found["success"]["days_28"]["budget_left"] - 0.5) < 1e-9
    assert abs(found["ack"]["hour"]["budget_left"] + 1) < 1e-9
    shown = rows(found)
    assert any(row[0] == "success" and row[-1] == "50.0%" for row in shown)
    assert any(row[0] == "ack" and row[-1] == "missed -100.0%" for row in shown)


def test_each_life_of_a_worker_has_a_name_of_its_own_whatever_its_process_id(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT})
    lives = [asyncio.run(Committer(project.config, ManualClock(NOW_US)).judgements())[0] for _ in range(2)]
    assert lives[0] != lives[1]
