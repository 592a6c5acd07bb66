"""Reads a project's jobs: every SQL file and every `@job` function in its folder, and the graph of what needs what.

Files whose names begin with `_` or `.` hold what others import. Promise: nothing is run but the Python files
themselves, and what is wrong anywhere is a ConfigError that names file, line and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.jobs.model import Job
from eagleray.jobs.project.graph import Graph, build_graph
from eagleray.jobs.project.inputs import Inputs
from eagleray.jobs.project.job_reader import Reader, refused
from eagleray.jobs.project.python_jobs import read_functions
from eagleray.jobs.project.sql_jobs import read_sql_file

STREAM_TABLES = ("events", "dead_letters", "late")
"""What every stream has besides its windows, as in `cluster.lake.stream_tables`, without reading any schema."""


@dataclass(frozen=True)
class Project:
    """The jobs by name, and their graph."""

    jobs: Mapping[str, Job]
    graph: Graph


def load_project(config: Config) -> Project:
    """Read `config.jobs_folder`; one that does not exist has no jobs. Raises ConfigError."""
    streams = stream_tables(config)
    jobs: dict[str, Job] = {}
    makers: dict[str, Job] = {}
    with Inputs() as inputs:
        for job in _declared(config.jobs_folder, Reader(config.jobs, streams, inputs)):
            for other, what in ((jobs.get(job.name), f"job {job.name}"), (makers.get(job.output), job.output)):
                if other:
                    there = f"{other.source.file}:{other.source.line}"
                    raise refused(job.source.file, job.source.line, (), f"{what} is made twice, first by {there}")
            jobs[job.name] = makers[job.output] = job
    graph = build_graph(jobs, streams, lambda: _lake_tables(config))
    return Project(MappingProxyType(jobs), graph)


def stream_tables(config: Config) -> frozenset[str]:
    """The tables of all configured streams."""
    streams = config.streams.items()
    return frozenset(f"{name}.{table}" for name, stream in streams for table in (*STREAM_TABLES, *stream.windows))


def _declared(folder: Path, reader: Reader) -> Iterator[Job]:
    for file in sorted(folder.rglob("*")):
        if any(part.startswith(("_", ".")) for part in file.relative_to(folder).parts):
            continue
        if file.suffix == ".sql":
            yield read_sql_file(file, reader)
        elif file.suffix == ".py":
            yield from read_functions(folder, file, reader)


def _lake_tables(config: Config) -> list[str]:
    try:
        return open_snapshots(config).names()
    except OSError as error:
        raise ConfigError(f"{config.file}: lake", f"cannot be read: {error}") from error
