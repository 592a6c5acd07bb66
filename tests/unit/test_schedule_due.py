"""Which periods are due: catching up or skipping, no overlap, the first tick after a job was first seen."""

from __future__ import annotations

from datetime import UTC, datetime

from eagleray.jobs.model import Job, Schedule
from eagleray.jobs.schedule.due import MISSED_MAX, claim_of, due, due_since, find, next_tick_us
from eagleray.jobs.schedule.ticks import ticks
from tests.job_work import make_job


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1e6)


def nightly(catch_up: bool = False, overlap: bool = False) -> Job:
    return make_job("nightly", schedule=Schedule("0 2 * * *", "Europe/Berlin", catch_up, overlap))


def labels(job: Job, since: str, now: str, busy: tuple[str, ...] = ()) -> list[str]:
    return [one.period.label for one in due([job], {job.name: us(since)}, busy, us(now))]


def test_a_tick_is_due_from_its_instant_on_and_once() -> None:
    assert labels(nightly(), "2026-03-27T12:00", "2026-03-28T00:59:59") == []
    assert labels(nightly(), "2026-03-27T12:00", "2026-03-28T01:00") == ["2026-03-27"]
    assert labels(nightly(), "2026-03-28T01:00", "2026-03-28T12:00") == []


def test_after_a_pause_the_latest_period_runs_or_all_of_them() -> None:
    assert labels(nightly(), "2026-03-26T01:00", "2026-03-30T12:00") == ["2026-03-29"]
    every = ["2026-03-26", "2026-03-27", "2026-03-28", "2026-03-29"]
    assert labels(nightly(catch_up=True), "2026-03-26T01:00", "2026-03-30T12:00") == every


def test_a_long_pause_is_caught_up_with_in_parts() -> None:
    minutely = make_job("minutely", schedule=Schedule("* * * * *", catch_up=True))
    assert len(labels(minutely, "2026-01-01", "2026-03-01")) == MISSED_MAX


def test_a_job_that_runs_waits_unless_it_may_overlap() -> None:
    assert labels(nightly(), "2026-03-27T12:00", "2026-03-28T12:00", ("nightly",)) == []
    assert labels(nightly(overlap=True), "2026-03-27T12:00", "2026-03-28T12:00", ("nightly",)) == ["2026-03-27"]


def test_a_job_never_seen_before_runs_no_past() -> None:
    assert due([nightly()], {}, (), us("2026-03-28T12:00")) == []


def test_a_claim_is_found_again_unless_the_schedule_has_changed() -> None:
    job = nightly()
    assert job.schedule
    tick = next(ticks(job.schedule, datetime(2026, 10, 24, 12, tzinfo=UTC)))
    found = find(job, claim_of(job, tick))
    assert found is not None and found.period == tick.period
    changed = make_job("nightly", schedule=Schedule("0 3 * * *"))
    assert find(changed, claim_of(job, tick)) is None


def test_the_next_tick_is_the_soonest_of_all() -> None:
    jobs = [nightly(), make_job("hourly", schedule=Schedule("0 * * * *")), make_job("manual")]
    assert next_tick_us(jobs, us("2026-03-28T00:30")) == us("2026-03-28T01:00")
    assert next_tick_us([make_job("manual")], 0) is None


def test_a_job_is_late_since_its_oldest_period_that_is_due_and_has_not_ended() -> None:
    job = nightly()
    since = {job.name: us("2026-03-28T01:00")}

    def late(now: str, **running: int) -> int | None:
        return due_since([job], since, running, us(now))[job.name]

    assert late("2026-03-28T12:00") is None
    assert late("2026-03-28T12:00", nightly=us("2026-03-28T01:00")) == us("2026-03-28T01:00")  # it runs
    assert late("2026-03-31T12:00") == us("2026-03-29T01:00")  # nobody has claimed it
    assert late("2026-03-31T12:00", nightly=us("2026-03-28T01:00")) == us("2026-03-28T01:00")
    assert due_since([job], {}, {}, us("2026-03-31T12:00")) == {}  # not seen yet
