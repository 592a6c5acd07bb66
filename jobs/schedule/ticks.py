"""When a schedule ticks, and which period each tick is about. Pure functions over aware times in UTC.

A tick starts the period that ended at it. A schedule that ticks at most once a day is about whole calendar days in its
time zone, whatever the hour: `0 2 * * *` at two o'clock is about yesterday, `0 4 1 * *` about the month before. One
that ticks several times a day is about the time between two ticks. Where the clocks change, a day has 23 or 25 hours;
a local time that is skipped ticks once, at the end of the gap; one that is repeated ticks once, the first time.
On days that are not in the schedule's calendar nothing ticks, and the period of the next tick begins where the last one
ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim

from eagleray.jobs.model import Schedule
from eagleray.jobs.period import Period, daily

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, order=True)
class Tick:
    """An instant at which a job starts, and the period that it is about."""

    at: datetime
    period: Period


def whole_days(cron: str) -> bool:
    """Whether the schedule ticks at most once a day, and so is about calendar days."""
    parsed = _parsed(cron)
    return len(parsed.minutes) == 1 and len(parsed.hours) == 1


def ticks(schedule: Schedule, after: datetime) -> Iterator[Tick]:
    """Every tick later than `after`, in order; their periods follow one another without gap or overlap."""
    zone = ZoneInfo(schedule.timezone)
    before = _before(schedule, after + _INSTANT, zone)
    for at in _instants(schedule, after, zone):
        yield Tick(at, _period(schedule, before, at, zone))
        before = at


def ticks_between(schedule: Schedule, after: datetime, until: datetime) -> list[Tick]:
    """The ticks in (after, until], in order."""
    found = []
    for tick in ticks(schedule, after):
        if tick.at > until:
            break
        found.append(tick)
    return found


def periods_of_day(schedule: Schedule | None, day: date, timezone: str) -> list[Period]:
    """What a run for the calendar date `day` is about: the day itself, where there is no schedule, in `timezone`.

    Of a schedule with several ticks a day all periods that begin on it; of one with fewer the period that has it.
    """
    if schedule is None:
        return [daily(day, timezone)]
    whole = daily(day, schedule.timezone)
    if whole_days(schedule.cron):  # the tick that ends the period comes on a later day
        return [next(ticks(schedule, whole.end - _INSTANT)).period]
    found = []
    for tick in ticks(schedule, whole.start):
        if tick.period.start >= whole.end:
            break
        if tick.period.start >= whole.start:
            found.append(tick.period)
    return found


def period_called(schedule: Schedule | None, label: str, timezone: str) -> Period | None:
    """The period with that label; None where the schedule has none."""
    begin = datetime.fromisoformat(label.replace("Z", "+00:00")).date()
    days = (begin + timedelta(days=number) for number in (-1, 0, 1))  # a label in UTC may be of another local date
    found = (period for day in days for period in periods_of_day(schedule, day, timezone))
    return next((period for period in found if period.label == label), None)


def last_period(schedule: Schedule | None, now: datetime, timezone: str) -> Period:
    """The newest period that is over at `now`: yesterday, where there is no schedule."""
    if schedule is None:
        return daily(now.astimezone(ZoneInfo(timezone)).date() - timedelta(days=1), timezone)
    zone = ZoneInfo(schedule.timezone)
    at = _before(schedule, now + _INSTANT, zone)
    return _period(schedule, _before(schedule, at, zone), at, zone)


@lru_cache(maxsize=1024)
def _parsed(cron: str) -> CronSim:
    return CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))


def _instants(schedule: Schedule, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    # cronsim counts local minutes, so it starts an hour early and what is not later than `after` is dropped: local
    # time may have been turned back in between. Two skipped times may tick at one instant, which is one tick.
    last = after
    for local in CronSim(schedule.cron, (after - timedelta(hours=3)).astimezone(zone)):
        if schedule.calendar is not None and local.date() not in schedule.calendar:
            continue
        if (at := local.astimezone(UTC)) > last:
            last = at
            yield at


def _before(schedule: Schedule, at: datetime, zone: ZoneInfo) -> datetime:
    """The last tick before `at`."""
    for days in (0.2, 2, 40, 800, 4000, 20000):
        found = None
        for instant in _instants(schedule, at - timedelta(days=days), zone):
            if instant >= at:
                break
            found = instant
        if found is not None:
            return found
    return at - timedelta(days=1)  # a schedule that has never ticked before


def _period(schedule: Schedule, before: datetime, at: datetime, zone: ZoneInfo) -> Period:
    if not whole_days(schedule.cron):
        day = before.astimezone(zone).date()
        return Period(before, at, day, before.strftime("%Y-%m-%dT%H:%MZ"))
    first, last = before.astimezone(zone).date(), at.astimezone(zone).date()
    start, end = (datetime.combine(day, time(), zone).astimezone(UTC) for day in (first, last))
    return Period(start, end, first, first.isoformat())
