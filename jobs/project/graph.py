"""Which job needs which: derived from the tables that jobs read and write. Pure; made by `jobs.project.load`."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.near_names import instead
from eagleray.jobs.model import Job

_NAMED_MAX = 30  # tables in a message


class Graph:
    """Jobs and the jobs whose output they read. Immutable; always without cycles."""

    def __init__(self, needs: Mapping[str, Collection[str]]) -> None:
        """`needs` has every job, and for each the jobs that have to run before it; raises ValueError for a cycle."""
        self._needs = {name: frozenset(before) for name, before in needs.items()}
        self._feeds: dict[str, set[str]] = {name: set() for name in needs}
        for name, before in self._needs.items():
            for other in before:
                self._feeds[other].add(name)
        self._order = self._sorted()

    def __len__(self) -> int:
        """The number of jobs."""
        return len(self._needs)

    def order(self) -> list[str]:
        """All jobs, each after those that it needs; among equals by name."""
        return list(self._order)

    def needs(self, name: str) -> set[str]:
        """The jobs whose output `name` reads itself."""
        return set(self._needs[name])

    def feeds(self, name: str) -> set[str]:
        """The jobs that read the output of `name` themselves."""
        return set(self._feeds[name])

    def upstream(self, name: str) -> set[str]:
        """All jobs that have to run before `name`."""
        return self._reached(name, self._needs)

    def downstream(self, name: str) -> set[str]:
        """All jobs that have to run after `name`."""
        return self._reached(name, self._feeds)

    def subgraph(self, names: Iterable[str]) -> Graph:
        """These jobs alone; needs of others count as met."""
        kept = set(names)
        return Graph({name: before & kept for name, before in self._needs.items() if name in kept})

    def _reached(self, name: str, along: Mapping[str, Collection[str]]) -> set[str]:
        found: set[str] = set()
        stack = list(along[name])
        while stack:
            if (other := stack.pop()) not in found:
                found.add(other)
                stack.extend(along[other])
        return found

    def _sorted(self) -> list[str]:
        missing = {name: len(before) for name, before in self._needs.items()}
        ready = [name for name, count in missing.items() if not count]
        heapq.heapify(ready)
        order = []
        while ready:
            name = heapq.heappop(ready)
            order.append(name)
            for after in self._feeds[name]:
                missing[after] -= 1
                if not missing[after]:
                    heapq.heappush(ready, after)
        if len(order) < len(self._needs):
            raise ValueError(f"the jobs need one another: {' → '.join(self._cycle(set(order)))}")
        return order

    def _cycle(self, sorted_: set[str]) -> list[str]:
        """A cycle in the direction of data, beginning and ending with its first name."""
        at = min(self._needs.keys() - sorted_)
        path: dict[str, None] = {}
        while at not in path:
            path[at] = None
            at = min(self._needs[at] - sorted_)
        cycle = list(path)[list(path).index(at) :][::-1]
        first = cycle.index(min(cycle))
        return [*cycle[first:], *cycle[:first], cycle[first]]


class OutOfGraph(ConfigError):
    """`jobs` cannot be in a graph with the others; the others may be."""

    def __init__(self, where: str, problem: str, jobs: Iterable[str]) -> None:
        """As ConfigError."""
        super().__init__(where, problem)
        self.jobs = frozenset(jobs)

    def __reduce__(self) -> tuple[type[OutOfGraph], tuple[str, str, frozenset[str]]]:  # type: ignore[override]
        """As ConfigError, with the jobs."""
        return type(self), (self.where, self.problem, self.jobs)


def check_not_lost(jobs: Mapping[str, Job], lost: Mapping[str, Path]) -> None:
    """Raise OutOfGraph for a job that reads a table which a broken file makes; `lost` has the file by table."""
    for name, job in jobs.items():
        for table in _reads(job):
            if table in lost:
                raise OutOfGraph(_where(job), f"table {table} is made by {lost[table]}, which is broken", [name])


def build_graph(jobs: Mapping[str, Job], stream_tables: Collection[str], lake_tables: Callable[[], list[str]]) -> Graph:
    """The graph of `jobs`; raises OutOfGraph for cycles, with their path, and for tables that nobody makes.

    `lake_tables` is asked only for tables that neither a job nor a stream makes.
    """
    makers = {job.output: job.name for job in jobs.values()}
    reads = {name: _reads(job) for name, job in jobs.items()}
    known = {*makers, *stream_tables}
    if any(not known.issuperset(tables) for tables in reads.values()):
        known.update(lake_tables())
    for name, tables in reads.items():
        for table in tables:
            if table not in known:
                problem = f"table {table} does not exist{_candidates(table, known)}"
                raise OutOfGraph(_where(jobs[name]), problem, [name])
    needs = {name: {makers[table] for table in tables if table in makers} - {name} for name, tables in reads.items()}
    try:
        return Graph(needs)
    except ValueError as error:
        cycle = str(error).partition(": ")[2].split(" → ")
        raise OutOfGraph(_where(jobs[cycle[0]]), str(error), cycle) from None


def _reads(job: Job) -> list[str]:
    """Inputs, and what the checks compare with."""
    return [*job.inputs, *(table for check in job.checks for table in check.tables)]


def _where(job: Job) -> str:
    return f"{job.source.place}: {job.name}"


def _candidates(table: str, known: Collection[str]) -> str:
    if not known:
        return "; there are no tables yet"
    return instead(table, known)
