"""A wall clock that is set forward refuses appends; set back, or a machine that slept, changes no result."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eagleray.actors.committer import Committer
from eagleray.actors.retention import Retention
from eagleray.cluster.clock import ManualClock, SteadyClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ClockAhead
from eagleray.cluster.log.ingest_clock import SLACK_US, Anchor, IngestClock
from eagleray.cluster.log.memory import MemoryLog
from eagleray.cluster.log.protocol import Entry, Kind
from eagleray.jobs.run.history import History
from tests.acking_project import AckingProject

NOW_US = 1_767_312_000_000_000
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_US)


def append(log: MemoryLog, payload: bytes = b"x") -> int:
    return log.append("s", [Entry(0, Kind.EVENTS, 1, payload)])[0]


@pytest.mark.parametrize("step_us", [SLACK_US + 1, HOUR_US, 34 * DAY_US], ids=["slack", "1 h", "34 d"])
def test_a_step_forward_is_refused_until_the_clock_is_right_again(clock: ManualClock, step_us: int) -> None:
    log = MemoryLog(1, clock)
    append(log)
    clock.step(step_us)
    for _ in range(2):
        with pytest.raises(ClockAhead, match="ahead of the time that has passed"):
            append(log)
    assert isinstance(log.trouble("s"), ClockAhead)
    clock.step(-step_us)
    assert append(log) == 1 and log.trouble("s") is None
    assert log.newest_us("s", 0) == NOW_US


def test_time_that_passes_or_is_slept_through_is_no_step(clock: ManualClock) -> None:
    log = MemoryLog(1, clock)
    for _ in range(3):
        append(log)
        clock.advance(34 * DAY_US)  # CLOCK_BOOTTIME goes on in a laptop that sleeps
    assert log.newest_us("s", 0) == NOW_US + 2 * 34 * DAY_US


def test_small_steps_are_followed_and_do_not_add_up(clock: ManualClock) -> None:
    times = IngestClock(clock)
    for _ in range(1000):  # NTP slews: 500 ppm
        clock.advance(1_000_000)
        clock.step(500)
        times.now_us()
    clock.step(SLACK_US)
    times.now_us()
    with pytest.raises(ClockAhead):
        for _ in range(3):
            clock.advance(1_000_000)
            clock.step(SLACK_US // 2)
            times.now_us()


def test_an_hour_back_stands_still_and_an_hour_forward_again_is_ahead_of_nothing(clock: ManualClock) -> None:
    log = MemoryLog(1, clock)
    append(log)
    clock.step(-HOUR_US)
    append(log)
    clock.advance(1_000_000)
    append(log)
    clock.step(HOUR_US)
    append(log)
    times = [record.ingested_at_us for record in log.read("s", 0, 0, 1 << 20)]
    assert times == [NOW_US, NOW_US, NOW_US, NOW_US + 1_000_000]


def test_a_worker_that_starts_after_the_step_goes_by_what_up_found(clock: ManualClock) -> None:
    found = Anchor.now(clock)
    clock.step(34 * DAY_US)
    with pytest.raises(ClockAhead):
        IngestClock(clock, found).now_us()
    IngestClock(clock, Anchor("another boot", found.offset_us, found.elapsed_us)).now_us()
    IngestClock(clock, Anchor.now(clock)).now_us()  # `up` started anew


def test_an_id_that_is_sent_again_beside_steps_is_stored_once(tmp_path: Path, clock: ManualClock) -> None:
    project = AckingProject(tmp_path / "p", clock)
    project.up()
    committer = Committer(project.bound, clock)
    project.send(1, id="same")
    clock.step(34 * DAY_US)
    with pytest.raises(ClockAhead):
        project.send(2, id="same")
    (row,) = [r for r in asyncio.run(committer.status())["partitions"] if r["stream"] == "s"]
    assert row["problem"]["code"] == "clock_ahead"
    clock.step(-34 * DAY_US - HOUR_US)
    project.send(3, id="same")
    clock.step(HOUR_US)
    clock.advance(HOUR_US - 1)
    project.send(4, id="same")
    clock.advance(1)
    project.send(5, id="same")
    project.store()
    assert project.numbers() == [1, 5]
    project.down()


def test_retention_goes_by_recorded_times_and_never_cuts_inside_the_horizon(clock: ManualClock) -> None:
    log = MemoryLog(1, clock)
    retention = Retention(log, clock, 4 * HOUR_US)

    def trimmed(horizon_us: int = HOUR_US) -> int:
        end = log.bounds("s", 0).end
        return log.trim("s", 0, end, retention.older_than_us(("s", 0), end, horizon_us))

    for _ in range(10):
        append(log)
        clock.advance(HOUR_US)
    clock.step(34 * DAY_US)
    assert trimmed(100 * HOUR_US) == 0
    assert trimmed() == 5  # older than the newest by more than four hours
    clock.step(-34 * DAY_US)
    clock.advance(2 * HOUR_US)  # nothing comes any more
    assert trimmed() == 2
    clock.advance(DAY_US)
    assert trimmed() == 1 and log.bounds("s", 0).first == 8  # what the horizon needs


def test_leases_survive_steps_of_the_clock(tmp_path: Path, clock: ManualClock) -> None:
    config = Config(file=tmp_path / "e.yaml", data_dir=tmp_path)
    with_steps = [SteadyClock(tmp_path / "clock", clock) for _ in range(2)]
    begun = with_steps[0].now_us()
    clock.step(HOUR_US)
    assert [steady.now_us() for steady in with_steps] == [begun, begun]
    clock.advance(5)
    clock.step(-DAY_US)
    assert [steady.now_us() for steady in (*with_steps, SteadyClock(tmp_path / "clock", clock))] == [begun + 5] * 3
    history = History.open(config)
    assert abs(history.steady.now_us() - history.clock.now_us()) < 400 * DAY_US
    assert isinstance(history.steady, SteadyClock)
    history.close()
