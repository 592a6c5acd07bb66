"""Ticks of a schedule and their periods: no gap, no overlap, each once, whatever the clocks do."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.sections import CalendarConfig, JobsConfig
from eagleray.jobs.model import Schedule
from eagleray.jobs.project.calendars import calendar_of
from eagleray.jobs.project.load import load_project
from eagleray.jobs.schedule.ticks import last_period, periods_of_day, ticks, ticks_between, whole_days
from tests.examples import examples
from tests.jobs_project import make_project, sql_file

BERLIN = "Europe/Berlin"
ZONES = ["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu"]
HOUR = timedelta(hours=1)
CRONS = st.one_of(
    st.builds("{} {} * * *".format, st.integers(0, 59), st.integers(0, 23)),
    st.builds("{} */{} * * *".format, st.integers(0, 59), st.integers(1, 6)),
    st.builds("*/{} * * * *".format, st.integers(5, 59)),
    st.builds("{} {} * * {}".format, st.integers(0, 59), st.integers(0, 23), st.integers(0, 6)),
    st.builds("{} {} {} * *".format, st.integers(0, 59), st.integers(0, 23), st.integers(1, 31)),
    st.builds("{} 1,2,3 * * *".format, st.sampled_from(["0", "30", "0,30"])),
)
AFTER = st.integers(0, 270 * 24 * 60).map(lambda minutes: datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=minutes))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@examples(100)
@given(cron=CRONS, zone=st.sampled_from(ZONES), after=AFTER)
def test_periods_follow_one_another_without_gap_or_overlap(cron: str, zone: str, after: datetime) -> None:
    found = list(islice(ticks(Schedule(cron, zone), after), 12))
    assert all(tick.at > after and tick.period.start < tick.period.end <= tick.at for tick in found)
    assert all(a.at < b.at and a.period.end == b.period.start for a, b in pairwise(found))
    assert len({tick.period.label for tick in found}) == len(found)


@examples(70)
@given(cron=CRONS, zone=st.sampled_from(ZONES), after=AFTER, ahead=st.integers(1, 20_000))
def test_ticks_are_the_same_from_wherever_one_looks(cron: str, zone: str, after: datetime, ahead: int) -> None:
    schedule = Schedule(cron, zone)
    middle = after + timedelta(minutes=ahead)
    end = middle + timedelta(days=3)
    whole = ticks_between(schedule, after, end)
    assert whole == ticks_between(schedule, after, middle) + ticks_between(schedule, middle, end)


@examples(70)
@given(cron=CRONS, zone=st.sampled_from(ZONES), day=st.dates(date(2026, 3, 1), date(2026, 11, 30)))
def test_a_days_periods_are_those_that_the_schedule_makes(cron: str, zone: str, day: date) -> None:
    schedule = Schedule(cron, zone)
    start = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    made = {tick.period for tick in ticks_between(schedule, start - timedelta(days=40), start + timedelta(days=70))}
    found = periods_of_day(schedule, day, "UTC")
    assert set(found) <= made
    if whole_days(cron):
        assert len(found) == 1 and found[0].start <= start < found[0].end
    else:
        assert all(period.day == day for period in found)


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_a_day_on_which_the_clocks_change_is_one_period(day: str, hours: int) -> None:
    schedule = Schedule("0 2 * * *", BERLIN)
    (period,) = periods_of_day(schedule, date.fromisoformat(day), "UTC")
    assert (period.label, period.end - period.start) == (day, hours * HOUR)


def test_a_local_time_that_is_skipped_ticks_once_after_the_gap() -> None:
    found = ticks_between(Schedule("30 2 * * *", BERLIN), utc("2026-03-28T12:00"), utc("2026-03-30T12:00"))
    assert [(tick.at, tick.period.label) for tick in found] == [
        (utc("2026-03-29T01:00"), "2026-03-28"),
        (utc("2026-03-30T00:30"), "2026-03-29"),
    ]


def test_a_local_time_that_is_repeated_ticks_once_the_first_time() -> None:
    found = ticks_between(Schedule("30 2 * * *", BERLIN), utc("2026-10-24T12:00"), utc("2026-10-26T12:00"))
    assert [(tick.at, tick.period.label) for tick in found] == [
        (utc("2026-10-25T00:30"), "2026-10-24"),
        (utc("2026-10-26T01:30"), "2026-10-25"),
    ]


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_an_hourly_job_runs_once_for_each_hour_there_is(day: str, hours: int) -> None:
    found = periods_of_day(Schedule("0 * * * *", BERLIN), date.fromisoformat(day), "UTC")
    assert [period.end - period.start for period in found] == [HOUR] * hours
    assert len({period.label for period in found}) == hours


def test_two_skipped_times_are_one_tick() -> None:
    found = ticks_between(Schedule("0,30 2 * * *", BERLIN), utc("2026-03-28T12:00"), utc("2026-03-29T12:00"))
    assert [tick.at for tick in found] == [utc("2026-03-29T01:00")]


@pytest.mark.parametrize(
    ("cron", "at", "label", "days"),
    [
        ("0 2 * * *", "2026-05-02T02:00", "2026-05-01", 1),
        ("0 0 * * *", "2026-05-02T00:00", "2026-05-01", 1),
        ("59 23 * * *", "2026-05-02T23:59", "2026-05-01", 1),
        ("0 3 * * 1", "2026-05-04T03:00", "2026-04-27", 7),
        ("0 4 1 * *", "2026-05-01T04:00", "2026-04-01", 30),
    ],
)
def test_a_tick_is_about_the_days_that_are_over(cron: str, at: str, label: str, days: int) -> None:
    tick = next(ticks(Schedule(cron), utc(at) - HOUR))
    assert (tick.at, tick.period.label) == (utc(at), label)
    assert tick.period.end - tick.period.start == timedelta(days=days)
    assert last_period(Schedule(cron), utc(at), "UTC") == tick.period
    assert last_period(Schedule(cron), utc(at) - HOUR, "UTC").end == tick.period.start


def test_without_a_schedule_the_last_period_is_yesterday_in_the_projects_zone() -> None:
    assert last_period(None, utc("2026-05-02T23:00"), BERLIN).label == "2026-05-02"
    assert last_period(None, utc("2026-05-02T23:00"), "UTC").label == "2026-05-01"
    assert [period.label for period in periods_of_day(None, date(2026, 5, 2), BERLIN)] == ["2026-05-02"]


def test_days_that_are_not_in_the_calendar_have_no_tick_and_the_next_period_reaches_over_them(tmp_path: Path) -> None:
    (tmp_path / "holidays").write_text("# of 2026\n2026-04-03 Good Friday\n\n2026-04-06\tEaster Monday\n")
    jobs = JobsConfig(calendars={"de": CalendarConfig(holidays=tmp_path / "holidays")})
    schedule = Schedule("0 2 * * *", "Europe/Berlin", calendar=calendar_of("de", jobs))
    found = list(islice(ticks(schedule, datetime(2026, 4, 1, 12, tzinfo=UTC)), 3))
    assert [(tick.at.date().isoformat(), tick.period.label) for tick in found] == [
        ("2026-04-02", "2026-04-01"),
        ("2026-04-07", "2026-04-02"),  # Thursday to Monday in one
        ("2026-04-08", "2026-04-07"),
    ]
    assert all(one.period.end == other.period.start for one, other in pairwise(found))
    assert calendar_of("business", JobsConfig()).weekdays == frozenset(range(5))


@pytest.mark.parametrize(
    ("name", "text", "cron", "problem"),
    [
        ("nope", "", "0 2 * * *", "jobs.calendars has no 'nope'; there are business, de"),
        ("de", "2026-13-01", "0 2 * * *", "holidays:1: expected a date such as 2026-12-25"),
        ("de", "", "0 2 * * 0", "ticks on no day of the calendar de"),
    ],
)
def test_wrong_calendars_are_refused(tmp_path: Path, name: str, text: str, cron: str, problem: str) -> None:
    (tmp_path / "holidays").write_text(text)
    jobs = {"calendars": {"de": {"holidays": tmp_path / "holidays"}}}
    header = sql_file("SELECT 1 AS a", schedule=f'"{cron}"', calendar=name)
    with pytest.raises(ConfigError, match=re.escape(problem)):
        load_project(make_project(tmp_path, {"a.sql": header}, jobs=jobs))


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"sla": "1h"}, "sla goes with schedule"),
        ({"schedule": "@daily", "wait_for": "{}"}, "one of table, file and url"),
        ({"schedule": "@daily", "wait_for": "{table: x}"}, "wait_for"),
        ({"notify": "nobody"}, "jobs.notify has no 'nobody'; there are none"),
    ],
)
def test_wrong_words_about_waiting_and_telling_are_refused(tmp_path: Path, more: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_project(make_project(tmp_path, {"a.sql": sql_file("SELECT 1 AS a", **more)}))
