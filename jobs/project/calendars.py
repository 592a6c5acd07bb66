"""Calendars of schedules: days of the week, less the holidays that a file lists. Read when the project is loaded."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import get_args
from zoneinfo import ZoneInfo

from cronsim import CronSim

from eagleray.cluster.near_names import instead
from eagleray.cluster.sections import CalendarConfig, JobsConfig, Weekday
from eagleray.jobs.model import Calendar

BUSINESS = "business"
"""There without a word in the configuration: Monday to Friday."""
LOOKED_AT = 1_000  # ticks that may all be on other days; a schedule with more is taken to have no day at all
_LINE = re.compile(r"(\d{4}-\d\d-\d\d)(?:[\s,;#].*)?")


def calendar_of(name: str, jobs: JobsConfig) -> Calendar:
    """The calendar `name` of the configuration; raises ValueError that says what is wrong."""
    config = jobs.calendars.get(name) or (CalendarConfig() if name == BUSINESS else None)
    if config is None:
        raise ValueError(f"jobs.calendars has no {name!r}{instead(name, {BUSINESS, *jobs.calendars})}")
    weekdays = frozenset(get_args(Weekday).index(day) for day in config.days)
    return Calendar(name, weekdays, frozenset(_holidays(config.holidays)) if config.holidays else frozenset())


def _holidays(file: Path) -> list[date]:
    """The dates of a file, one a line; empty lines and those that begin with `#` are skipped."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"holidays: {file} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not (text := line.strip()) or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        try:
            found.append(date.fromisoformat(match[1] if match else text))
        except ValueError:
            raise ValueError(f"holidays: {file}:{number}: expected a date such as 2026-12-25, found {text!r}") from None
    return found


def check_ticks(cron: str, timezone: str, calendar: Calendar) -> None:
    """Raise ValueError where the schedule never ticks on a day of the calendar."""
    first = datetime(2024, 1, 1, tzinfo=UTC).astimezone(ZoneInfo(timezone))
    if not any(at.date() in calendar for at in islice(CronSim(cron, first), LOOKED_AT)):
        raise ValueError(f"the schedule {cron} ticks on no day of the calendar {calendar.name}")
