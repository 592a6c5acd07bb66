"""Whether `overwrite_partitions` would replace rows of other periods: what is known when a project is loaded.

Called by `jobs.project.job_reader`. What needs the columns' types is seen later, before a row is written: by
`jobs.publish.publish`, and by `jobs.engines.own_days` where a statement takes days of UTC for the job's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from eagleray.jobs.alignment import reaching_beyond
from eagleray.jobs.model import Job, Schedule, Source
from eagleray.jobs.project.parameters import PARAMETERS, used
from eagleray.jobs.project.signature import arguments, statements

_TIMED = re.compile(r"(hour|day|month|year)\s*\((.*)\)", re.DOTALL)
_MIXED = re.compile(r"(bucket|truncate)\s*\(", re.DOTALL)
_LOOKS_BACK = re.compile(r"\$(start|date)\b\s*-", re.IGNORECASE)
_DATES = r"(\$date|::\s*date|\bas\s+date\s*\))\s*(as\s+)?\"?{}\b"  # `$date AS day`, `CAST(t AS DATE) AS day`


def shared_partitions(
    partition_by: Sequence[str], schedule: Schedule | None, timezone: str, source: Source, variables: Sequence[str]
) -> Iterator[tuple[int, str]]:
    """The fields whose partitions would hold rows of several periods, and why; nothing where none does."""
    fields = [field.strip() for field in partition_by]
    if fields and all(map(_MIXED.match, fields)) and _of_period(source, variables):
        yield (
            0,
            "the rows are those of a period, and every partition holds rows of all periods, of which a run would keep"
            " its own alone; expected a partition within a period as well, such as `$date AS day` and [day,"
            f" {fields[0]}], or mode merge",
        )
    for index, field in enumerate(fields):
        call = _TIMED.fullmatch(field)
        if call is None or call[2].strip() in fields:  # by itself as well: never beyond a day, if it is one
            continue
        if problem := _reaches_beyond(field, call[1], call[2].strip(), schedule, timezone, source):
            yield index, problem


def _of_period(source: Source, variables: Sequence[str]) -> bool:
    """Whether the job reads, or says, anything of its period."""
    if source.function is not None and any(one.table is None for one in arguments(source.function)):
        return True  # it takes the period itself
    texts = [source.sql or ""] if source.function is None else statements(source.function)
    return any(used(text, variables) & PARAMETERS.keys() for text in texts)


def about_its_period(job: Job) -> bool:
    """Whether the job reads, or says, anything of its period: else every run has the rows of all."""
    return _of_period(job.source, [name for name, _ in job.variables])


def reads_its_period_alone(job: Job) -> bool:
    """Whether a function's inputs end where its period does, so that its result is whole for no time outside."""
    assert job.source.function is not None
    texts = statements(job.source.function)
    names = [name for name, _ in job.variables]
    return any("start" in used(text, names) for text in texts) and not any(map(_LOOKS_BACK.search, texts))


def _reaches_beyond(
    field: str, transform: str, column: str, schedule: Schedule | None, timezone: str, source: Source
) -> str | None:
    period = reaching_beyond(schedule, timezone, transform, dates=False)
    known_date = source.sql is not None and re.search(_DATES.format(re.escape(column)), source.sql, re.IGNORECASE)
    if period is not None and (known_date or transform in ("month", "year")):
        period = reaching_beyond(schedule, timezone, transform, dates=True)
    if period is None:
        return None
    stretch = f"{period.start:%Y-%m-%d %H:%M} to {period.end:%Y-%m-%d %H:%M} UTC"
    return (
        f"{field} cuts at the {transform}s of UTC, and periods of the job do not, such as {stretch}: runs of adjacent"
        " periods would replace each other's rows; expected partitions within a period (a DATE, such as `$date AS day`,"
        f" may be partitioned by itself), a schedule whose periods are whole {transform}s, or mode merge"
    )
