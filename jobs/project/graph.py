"""Which job needs which: derived from the tables that jobs read and write. Pure; made by `jobs.project.load`."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches

from eagleray.cluster.errors import ConfigError
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


def build_graph(jobs: Mapping[str, Job], stream_tables: Collection[str], lake_tables: Callable[[], list[str]]) -> Graph:
    """The graph of `jobs`; raises ConfigError for cycles, with their path, and for tables that nobody makes.

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
                raise ConfigError(_where(jobs[name]), f"table {table} does not exist{_candidates(table, known)}")
    needs = {name: {makers[table] for table in tables if table in makers} for name, tables in reads.items()}
    try:
        return Graph(needs)
    except ValueError as error:
        first = str(error).partition(": ")[2].partition(" → ")[0]
        raise ConfigError(_where(jobs[first]), str(error)) from None


def _reads(job: Job) -> list[str]:
    """Inputs, and what the checks compare with."""
    return [*job.inputs, *(table for check in job.checks for table in check.tables)]


def _where(job: Job) -> str:
    return f"{job.source.file}:{job.source.line}: {job.name}"


def _candidates(table: str, known: Collection[str]) -> str:
    if not known:
        return "; there are no tables yet"
    same = sorted(name for name in known if name.partition(".")[2] == table.partition(".")[2])
    if close := same or get_close_matches(table, sorted(known), n=3, cutoff=0.5):
        return f"; did you mean {' or '.join(close[:3])}?"
    more = ", …" if len(known) > _NAMED_MAX else ""
    return f"; there are {', '.join(sorted(known)[:_NAMED_MAX])}{more}"
