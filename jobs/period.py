"""Logical dates: the stretch of time that a run of a job is about, whenever it really runs. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True, order=True)
class Period:
    """[start, end), aware times in UTC. `label` is its name everywhere: `2015-09-12`, or to the minute.

    In SQL: `$start` and `$end` are TIMESTAMPTZ, `$date` is the DATE of the start in the job's time zone.
    """

    start: datetime
    end: datetime
    day: date
    label: str


def daily(day: date, timezone: str = "UTC") -> Period:
    """The period of a calendar day in `timezone`: 23 or 25 hours long where the clocks change."""
    zone = ZoneInfo(timezone)
    start = datetime.combine(day, time(), zone)
    end = datetime.combine(day + timedelta(days=1), time(), zone)
    return Period(start.astimezone(UTC), end.astimezone(UTC), day, day.isoformat())
