"""Reads a project's jobs: every SQL file and every `@job` function in its folder, and the graph of what needs what.

Files whose names begin with `_` or `.` hold what others import. Promise: nothing is run but the Python files
themselves, and what is wrong anywhere is a ConfigError that names file, line and what was expected. `load_project` is
for a command, which should stop there; `read_project` for who goes on without what is broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.cluster.masking import Mask
from eagleray.cluster.near_names import instead
from eagleray.jobs.model import Job
from eagleray.jobs.project.graph import Graph, OutOfGraph, build_graph, check_not_lost
from eagleray.jobs.project.inputs import Inputs
from eagleray.jobs.project.job_reader import Reader, refused
from eagleray.jobs.project.python_jobs import read_functions
from eagleray.jobs.project.sql_jobs import read_sql_file

_OUTPUT = re.compile(r"""^\s*(?:@job\(.*?)?['"]?output['"]?\s*[:=]\s*['"]?([a-z0-9_]+\.[a-z0-9_]+)""", re.MULTILINE)

STREAM_TABLES = ("events", "dead_letters", "late")
"""What every stream has besides its windows, as in `cluster.lake.stream_tables`, without reading any schema."""


@dataclass(frozen=True)
class Broken:
    """A file, or a job of it, that cannot be part of the project, and why."""

    file: Path
    error: ConfigError

    @property
    def outputs(self) -> frozenset[str]:
        """The tables that the file makes, as far as its text tells."""
        try:
            return frozenset(_OUTPUT.findall(self.file.read_text(encoding="utf-8", errors="replace")))
        except OSError:
            return frozenset()


@dataclass(frozen=True)
class Project:
    """The jobs by name, and their graph; `broken` is what is left out of both."""

    jobs: Mapping[str, Job]
    graph: Graph
    broken: tuple[Broken, ...] = ()


def load_project(config: Config) -> Project:
    """Read `config.jobs_folder`; one that does not exist has no jobs. Raises ConfigError for what is wrong first."""
    project = read_project(config)
    if project.broken:
        raise project.broken[0].error
    return project


def read_project(config: Config, given: Mapping[str, str] = MappingProxyType({})) -> Project:
    """The same without what is wrong: a broken file takes along its own jobs, and those that read their tables.

    `given`: variables of the command line; raises ConfigError for one that no job has.
    """
    streams = stream_tables(config)
    jobs: dict[str, Job] = {}
    makers: dict[str, Job] = {}
    broken: list[Broken] = []
    with Inputs() as inputs:
        for job in _declared(
            config.jobs_folder, Reader(config.jobs, streams, inputs, config.jobs_folder, given), broken
        ):
            for other, what in ((jobs.get(job.name), f"job {job.name}"), (makers.get(job.output), job.output)):
                if other:
                    there = f"{other.source.file}:{other.source.line}"
                    problem = f"{what} is made twice, first by {there}"
                    broken.append(Broken(job.source.file, refused(job.source.file, job.source.line, (), problem)))
                    break
            else:
                jobs[job.name] = makers[job.output] = job
    known = {name for job in jobs.values() for name, _ in job.variables}
    if unknown := sorted(given.keys() - known) if not broken else []:
        raise ConfigError("--var", f"no job has a variable {unknown[0]!r} (`vars`){instead(unknown[0], known)}")
    graph = _graph(config, jobs, streams, broken)
    return Project(MappingProxyType(jobs), graph, _masked(broken, config) if broken else ())


def _masked(broken: Sequence[Broken], config: Config) -> tuple[Broken, ...]:
    """The same without secrets: a Python file that raises while it is loaded may say anything."""
    mask = Mask(config.secret_values())
    return tuple(
        Broken(one.file, ConfigError(one.error.where, mask(one.error.problem)))
        if type(one.error) is ConfigError
        else one
        for one in broken
    )


def _graph(config: Config, jobs: dict[str, Job], streams: frozenset[str], broken: list[Broken]) -> Graph:
    """The graph of `jobs` that can be in one; the others move from `jobs` to `broken`."""
    lost = {table: one.file for one in broken for table in one.outputs} if broken else {}
    lost = {table: file for table, file in lost.items() if all(job.output != table for job in jobs.values())}
    while True:
        try:
            check_not_lost(jobs, lost)
            return build_graph(jobs, streams, lambda: _lake_tables(config))
        except OutOfGraph as error:
            for name in sorted(error.jobs):
                job = jobs.pop(name)
                broken.append(Broken(job.source.file, error))
                lost[job.output] = job.source.file


def stream_tables(config: Config) -> frozenset[str]:
    """The tables of all configured streams."""
    streams = config.streams.items()
    return frozenset(f"{name}.{table}" for name, stream in streams for table in (*STREAM_TABLES, *stream.windows))


def _declared(folder: Path, reader: Reader, broken: list[Broken]) -> Iterator[Job]:
    """The jobs of every file, one after another; a file that cannot be read goes to `broken`."""
    for file in sorted(folder.rglob("*")):
        if any(part.startswith(("_", ".")) for part in file.relative_to(folder).parts):
            continue
        try:
            yield from _jobs_of(file, folder, reader)
        except ConfigError as error:
            broken.append(Broken(file, error))


def _jobs_of(file: Path, folder: Path, reader: Reader) -> list[Job]:
    match file.suffix:
        case ".sql":
            return [read_sql_file(file, reader)]
        case ".py":
            return list(read_functions(folder, file, reader))
        case suffix if suffix.lower() in (".sql", ".py"):
            raise refused(file, 1, (), f"the file's name ends with {suffix}; expected {suffix.lower()}")
    return []


def _lake_tables(config: Config) -> list[str]:
    try:
        return open_snapshots(config).names()
    except OSError as error:
        raise ConfigError(f"{config.file}: lake", f"cannot be read: {error}") from error
