"""What a run will do: jobs for periods, and which has to come before which. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import blake2b

from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.jobs.project.graph import Graph
from eagleray.jobs.schedule.ticks import periods_of_day


@dataclass(frozen=True)
class Node:
    """A job for a period. `key` is its name within the run."""

    job: Job
    period: Period
    needs: frozenset[str] = frozenset()  # keys of nodes that have to succeed before

    @property
    def key(self) -> str:
        """`job@period`."""
        return key_of(self.job.name, self.period)


@dataclass(frozen=True)
class Plan:
    """The nodes of a run in an order that runs. `what` is the selection in the user's words, such as `--all`."""

    what: str
    date: str
    nodes: Sequence[Node]
    done: Mapping[str, str] = field(default_factory=dict)  # key → the run that did it: not run again
    blocked: Mapping[str, str] = field(default_factory=dict)  # key → why it cannot run, nor what needs it


def key_of(job: str, period: Period) -> str:
    """A node's name within its run."""
    return f"{job}@{period.label}"


def plan(graph: Graph, jobs: Mapping[str, Job], periods: Mapping[str, Iterable[Period]], what: str, date: str) -> Plan:
    """Nodes for `periods` of each job: each after those of the jobs it needs that overlap it in time.

    Periods of an incremental job, of a history and of a job that reads its own output run in order, since each goes on
    from where the one before has read to.
    """
    nodes: dict[str, list[Node]] = {}
    for name in graph.order():
        if name not in periods:
            continue
        nodes[name] = []
        for period in sorted(periods[name]):
            needs = {node.key for other in graph.needs(name) for node in _before(nodes.get(other, ()), period)}
            if _goes_on(jobs[name]) and nodes[name]:
                needs.add(nodes[name][-1].key)
            nodes[name].append(Node(jobs[name], period, frozenset(needs)))
    return Plan(what, date, [node for name in graph.order() for node in nodes.get(name, ())])


def _goes_on(job: Job) -> bool:
    """Whether a run builds on what the one before has left."""
    return job.mode in ("incremental", "history") or job.output in job.inputs


def _before(nodes: Sequence[Node], period: Period) -> Sequence[Node]:
    """Those of a job's nodes, in order of time, that something of `period` reads the results of."""
    found = [node for node in nodes if node.period.start < period.end and period.start < node.period.end]
    if not found and nodes and nodes[0].job.mode == "full":  # `periods_on` left its earlier periods to a later one
        return [node for node in nodes if node.period.start >= period.end][:1]
    return found


def periods_on(job: Job, day: date, timezone: str) -> list[Period]:
    """What a run of `job` for the date `day` is about; of a table that is made anew each time, the end of it alone."""
    found = periods_of_day(job.schedule, day, timezone)
    return found[-1:] if job.mode == "full" else found


def fingerprint(job: Job) -> str:
    """Changes whenever the job as written does: a result of another fingerprint is not this job's."""
    text = job.source.sql if job.source.sql is not None else job.source.file.read_text()
    parts = (
        text,
        job.output,
        job.mode,
        job.engine,
        job.inputs,
        job.key,
        job.partition_by,
        job.sort_by,
        *job.columns,
        job.variables,
    )
    return blake2b(repr((parts, [check.name for check in job.checks])).encode(), digest_size=8).hexdigest()
