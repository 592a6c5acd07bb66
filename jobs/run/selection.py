"""Which jobs and periods a run is about: from the user's words to a plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from eagleray.cluster.clock import Clock
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.near_names import instead
from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.jobs.project.graph import Graph
from eagleray.jobs.project.load import Project
from eagleray.jobs.run.plan import Plan, periods_on, plan
from eagleray.jobs.schedule.ticks import last_period

DAYS_MAX = 10_000  # of one backfill


@dataclass(frozen=True)
class Selection:
    """Jobs by name, or all; with what they need, or with what needs them."""

    names: tuple[str, ...] = ()
    all: bool = False
    upstream: bool = False
    downstream: bool = False

    @property
    def what(self) -> str:
        """The selection in words, the same for the same selection."""
        words = ["--all"] if self.all else sorted(self.names)
        return " ".join([*words, *(["--upstream"] if self.upstream else []), *(["--downstream"] * self.downstream)])

    def jobs(self, project: Project) -> set[str]:
        """The names of the selected jobs; raises ConfigError for unknown ones and for none."""
        if self.all == bool(self.names):
            raise ConfigError("job run", "expected names of jobs, or --all")
        if self.all:
            if not project.jobs and not project.broken:
                raise ConfigError("--all", "the project has no jobs; `eagleray docs jobs` shows how to write one")
            return set(project.jobs)
        for name in self.names:
            known(project, name)
        found = set(self.names)
        for name in self.names:
            found |= project.graph.upstream(name) if self.upstream else set()
            found |= project.graph.downstream(name) if self.downstream else set()
        return found


def known(project: Project, name: str) -> Job:
    """The job called `name`; raises ConfigError with what is wrong with its file, or with the nearest names."""
    jobs = project.jobs
    if name in jobs:
        return jobs[name]
    for one in project.broken:
        if one.file.stem == name or f": {name}" in one.error.where:
            raise one.error
    hint = instead(name, jobs)
    if project.broken:
        hint += f". Files that are broken: {', '.join(sorted({one.file.name for one in project.broken}))}"
    raise ConfigError("NAME", f"no job is called {name!r}{hint}")


def plan_day(project: Project, selection: Selection, day: date | None, clock: Clock, timezone: str) -> Plan:
    """The plan of a run for the date `day`; None: for the last period of each job that is over."""
    names = selection.jobs(project)
    jobs = [project.jobs[name] for name in names]
    if day is not None:
        of_day = {job.name: periods_on(job, day, timezone) for job in jobs}
        return _plan(project, names, of_day, selection.what, day.isoformat())
    now = datetime.fromtimestamp(clock.now_us() / 1e6, UTC)
    periods = {job.name: [last_period(job.schedule, now, timezone)] for job in jobs}
    return _plan(project, names, periods, selection.what, last_period(None, now, timezone).label)


def plan_days(project: Project, selection: Selection, first: date, last: date, timezone: str) -> Plan:
    """The plan of a backfill from `first` to `last`, both included; raises ConfigError where there is no day."""
    count = (last - first).days + 1
    if not 1 <= count <= DAYS_MAX:
        raise ConfigError("--to", f"expected a date from {first} on, at most {DAYS_MAX} days later, found {last}")
    names = selection.jobs(project)
    days = [first + timedelta(days=number) for number in range(count)]
    periods = {name: _unique(_of(project.jobs[name], days, timezone)) for name in names}
    return _plan(project, names, periods, selection.what, f"{first}..{last}")


def _of(job: Job, days: Iterable[date], timezone: str) -> Iterable[Period]:
    return (period for day in days for period in periods_on(job, day, timezone))


def _unique(periods: Iterable[Period]) -> list[Period]:
    """A week's period is that of seven days."""
    return list({period.label: period for period in periods}.values())


def _plan(project: Project, names: Collection[str], periods: Mapping[str, list[Period]], what: str, label: str) -> Plan:
    graph: Graph = project.graph.subgraph(names)
    return plan(graph, project.jobs, periods, what, label)
