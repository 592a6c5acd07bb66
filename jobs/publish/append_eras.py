"""Which rows of a table an appended period replaces, also where the job had another schedule when they came.

Rows say the label of their period, and a label alone does not say how long it is: `2015-09-12` may be a day or a week.
So the table keeps under which schedule its runs were, by `_run_number`. Used by `jobs.publish.modes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from eagleray.cluster.errors import ConfigError
from eagleray.jobs.model import Job, Schedule
from eagleray.jobs.period import Period
from eagleray.jobs.schedule.ticks import period_called
from eagleray.sql.engine import literal

ERAS_PROPERTY = "eagleray.append_schedules"


@dataclass(frozen=True)
class Era:
    """Runs from number `first` on were for periods of `cron` in `timezone`; without `cron`, for days."""

    first: int
    cron: str | None
    timezone: str

    def period(self, label: str) -> Period | None:
        """The period that such a run called `label`; None where the schedule has none."""
        return period_called(Schedule(self.cron, self.timezone) if self.cron else None, label, self.timezone)


def eras(properties: Mapping[str, str], job: Job, timezone: str, number: int) -> list[Era]:
    """The eras of a table in order, the present one last, which begins with run `number` if it is new.

    Rows from before eras were kept count as of the present one.
    """
    cron = job.schedule.cron if job.schedule else None
    zone = job.schedule.timezone if job.schedule else timezone
    found = [Era(*entry) for entry in json.loads(properties.get(ERAS_PROPERTY, "[]"))]
    if not found:
        return [Era(1, cron, zone)]
    if (found[-1].cron, found[-1].timezone) != (cron, zone):
        found.append(Era(number, cron, zone))
    return found


def written(found: Iterable[Era]) -> str:
    """Eras as the property has them."""
    return json.dumps([[one.first, one.cron, one.timezone] for one in found])


def replaced(found: list[Era], runs: Iterable[tuple[str, int, int]], job: Job, period: Period) -> str | None:
    """The SQL condition over `t` for the rows of earlier runs that `period` replaces; None where there are none.

    `runs`: label, least and greatest number of the runs that the table has rows of. Raises ConfigError where one
    reaches beyond `period`: neither can its rows go nor stay.
    """
    conditions = []
    for label, least, greatest in runs:
        for era, following in zip(found, [*found[1:], None], strict=True):
            last = greatest if following is None else min(greatest, following.first - 1)
            first = max(least, era.first)
            if first > last:
                continue
            there = era.period(label)
            if label != period.label and (there is None or there.end <= period.start or period.end <= there.start):
                continue
            if there is not None and not (period.start <= there.start and there.end <= period.end):
                stretch = f"{there.start:%Y-%m-%d %H:%M} to {there.end:%Y-%m-%d %H:%M} UTC"
                problem = (
                    f"{job.output} has rows of {stretch}, appended under the schedule {era.cron or 'of days'!r}; a run"
                    f" for {period.label} would add a part of them again: go back to that schedule for such a period"
                )
                raise ConfigError(f"{job.source.place}: schedule", problem)
            conditions.append(f"(t._run = {literal(label)} AND t._run_number BETWEEN {first} AND {last})")
    return " OR ".join(conditions) or None
