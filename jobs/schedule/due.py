"""Which periods of which jobs are due, by schedule, clock and what was claimed before. Pure.

A job that was never claimed begins with the first tick after the scheduler saw it: declaring a job runs no past.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.jobs.schedule.claims import Claim
from eagleray.jobs.schedule.ticks import Tick, ticks, ticks_between

MISSED_MAX = 1000  # periods of one job that are caught up with at once; the rest comes when these are done


@dataclass(frozen=True)
class Due:
    """A period of a job that is to run."""

    job: Job
    period: Period
    claim: Claim


def due(jobs: Iterable[Job], since: Mapping[str, int], busy: Collection[str], now_us: int) -> list[Due]:
    """What is to run at `now_us`. `since`: by job, the tick that was last claimed, or when the job was first seen.

    A job in `busy` waits until its running period is over, unless it may overlap. Of several missed periods a job that
    catches up runs all, in order; another runs the latest only.
    """
    found = []
    for job in jobs:
        if job.schedule is None or job.name not in since or (job.name in busy and not job.schedule.overlap):
            continue
        missed = ticks_between(job.schedule, _time(since[job.name]), _time(now_us))
        chosen = missed[:MISSED_MAX] if job.schedule.catch_up else missed[-1:]
        found += [Due(job, tick.period, claim_of(job, tick)) for tick in chosen]
    return found


def next_tick_us(jobs: Iterable[Job], after_us: int) -> int | None:
    """When the next job starts by its schedule."""
    times = [next(ticks(job.schedule, _time(after_us))).at for job in jobs if job.schedule]
    return int(min(times).timestamp() * 1e6) if times else None


def due_since(
    jobs: Iterable[Job], since: Mapping[str, int], running: Mapping[str, int], now_us: int
) -> dict[str, int | None]:
    """By job, the tick (microseconds) of its oldest period that is due and has not ended; None: it is not late.

    `since` as for `due`; `running`: by job, the oldest tick whose claim is open.
    """
    found: dict[str, int | None] = {}
    for job in jobs:
        if job.schedule is None or job.name not in since:
            continue
        following = int(next(ticks(job.schedule, _time(since[job.name]))).at.timestamp() * 1e6)
        waiting = [tick_us for tick_us in (running.get(job.name, following), following) if tick_us <= now_us]
        found[job.name] = min(waiting, default=None)
    return found


def find(job: Job, claim: Claim) -> Due | None:
    """A claim made earlier, by the schedule as it is now; None where the schedule no longer has such a period."""
    if job.schedule is None:
        return None
    for tick in ticks_between(job.schedule, _time(claim.tick_us - 1), _time(claim.tick_us)):
        if tick.period.label == claim.period:
            return Due(job, tick.period, claim)
    return None


def claim_of(job: Job, tick: Tick) -> Claim:
    """The claim of a tick."""
    return Claim(job.name, tick.period.label, round(tick.at.timestamp() * 1e6))


def _time(time_us: int) -> datetime:
    seconds, micros = divmod(time_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)
