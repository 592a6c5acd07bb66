"""Whether the periods of a job are whole partitions: what `overwrite_partitions` replaces must be nobody else's.

Used when a project is loaded, from the schedule alone, and again by `jobs.publish.publish`, which knows the columns'
types. A partition of an instant begins and ends in UTC, one of a date with the job's own days.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import islice

from eagleray.jobs.model import Schedule
from eagleray.jobs.period import Period, daily
from eagleray.jobs.schedule.ticks import ticks

_SAMPLED = 400  # periods: those of a year, so that the clocks change twice
_SINCE = datetime(2023, 12, 30, tzinfo=UTC)
_DAY = timedelta(days=1)
_HALF_A_YEAR = timedelta(days=183)


def whole(period: Period, transform: str, dates: bool) -> bool:
    """Whether partitions by `transform` (of time) of a date (`dates`) or an instant never reach beyond `period`."""
    if not dates:
        return transform == "identity" or all(_begins(at, transform) for at in (period.start, period.end))
    if period.label != period.day.isoformat():
        return False  # a part of a day
    days = round((period.end - period.start) / _DAY)  # a day may have 23 or 25 hours
    return all(_begins(_midnight(at), transform) for at in (period.day, period.day + timedelta(days=days)))


@lru_cache(maxsize=1024)
def reaching_beyond(schedule: Schedule | None, timezone: str, transform: str, dates: bool) -> Period | None:
    """A period of `schedule` that is no whole partition, if any; without one, of days in `timezone`."""
    if schedule is None:
        first = _SINCE.date()
        periods = (daily(first + timedelta(days=number), timezone) for number in range(_SAMPLED))
    else:
        begins = (_SINCE, _SINCE + _HALF_A_YEAR)  # clocks may differ by half an hour, and many ticks be few days
        periods = (tick.period for begin in begins for tick in islice(ticks(schedule, begin), _SAMPLED))
    return next((period for period in periods if not whole(period, transform, dates)), None)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _begins(at: datetime, transform: str) -> bool:
    """Whether a partition begins at `at`."""
    hour = at.minute == at.second == at.microsecond == 0
    day = hour and at.hour == 0
    month = day and at.day == 1
    return {"hour": hour, "month": month, "year": month and at.month == 1}.get(transform, day)
