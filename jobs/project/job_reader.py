"""From a header's values and what a job reads to a Job, with messages that name file, line and key.

The one place where a wrong declaration becomes a ConfigError; used for SQL files and for functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eagleray.cluster.errors import ConfigError, QueryRejected
from eagleray.cluster.near_names import instead
from eagleray.cluster.sections import NAME, JobsConfig
from eagleray.jobs.model import Check, Job, Schedule, Source
from eagleray.jobs.project.declared_checks import parse_check
from eagleray.jobs.project.header import Header
from eagleray.jobs.project.inputs import Inputs
from eagleray.jobs.project.partition_rules import shared_partitions
from eagleray.jobs.project.variables import constants

BUILT_IN = frozenset({"compact", "expire", "orphans", "forget", "rebuild", "replay", "retention", "scrub"})
"""Jobs that come with Eagleray; users cannot take their names."""

Key = tuple[str | int, ...]
"""A path into the header: `("checks", 0, "unique")`."""


@dataclass(frozen=True)
class Reader:
    """What all declarations of a project are read with."""

    defaults: JobsConfig
    stream_tables: Collection[str]
    inputs: Inputs
    folder: Path = Path("jobs")
    given: Mapping[str, str] = field(default_factory=dict)  # variables of the command line

    def variables(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """Every variable that a job with the options `written` has, with its declared value."""
        own = written.get("vars")
        return {**self.defaults.vars, **(own if isinstance(own, dict) else {})}

    def job(
        self,
        name: str,
        source: Source,
        written: Mapping[str, Any],
        reads: tuple[str, ...],
        line: Callable[[Key], int],
    ) -> Job:
        """The job `name` with the options `written`, which reads the tables `reads`; raises ConfigError.

        `line` tells on which line of the file an option stands.
        """
        if not re.fullmatch(NAME, name):
            raise refused(source.file, source.line, (), f"job {name!r}: expected a name of a-z, 0-9 and _")
        if name in BUILT_IN:
            raise refused(source.file, source.line, (), f"job {name} comes with Eagleray; expected another name")
        try:
            header = Header.model_validate(written)
        except ValidationError as error:
            key, problem = _first(error)
            raise refused(source.file, line(key), key, problem) from None
        for key, problem in self._contradictions(name, header, source, reads):
            raise refused(source.file, line(key), key, problem)
        checks: list[Check] = []
        for index, entry in enumerate(header.checks):
            key = ("checks", index)
            try:
                check = self._check(entry, header.output, checks)
            except ValidationError as error:
                inner, problem = _first(error)
                key = (*key, *(str(kind) for kind in entry), *inner)
                raise refused(source.file, line(key), key, problem) from None
            except (ValueError, QueryRejected) as error:
                raise refused(source.file, line(key), key, str(error)) from None
            checks.append(check)
        try:
            variables = constants(self.variables(written), self.given)
        except ValueError as error:
            raise refused(source.file, line(("vars",)), ("vars",), str(error)) from None
        try:
            return header.job(name, source, reads, tuple(checks), self.defaults, variables)
        except ValueError as error:
            raise refused(source.file, line(("calendar",)), ("calendar",), str(error)) from None

    def _contradictions(
        self, name: str, header: Header, source: Source, reads: tuple[str, ...]
    ) -> Iterator[tuple[Key, str]]:
        if unknown := sorted(set(header.notify or ()) - {one.name for one in self.defaults.notify}):
            there = instead(unknown[0], (one.name for one in self.defaults.notify))
            yield ("notify",), f"jobs.notify has no {unknown[0]!r}{there}"
        if header.output in self.stream_tables:
            yield ("output",), f"{header.output} is a stream's table; expected a table of the job's own"
        if header.output in reads:
            if not header.columns:
                wanted = "expected `columns`, which it has before the first run"
                yield ("output",), f"the job reads its own output: {name} → {name}; {wanted}"
            if header.mode == "incremental":
                yield (
                    ("mode",),
                    "a job that reads its own output reads all of it; expected another mode than incremental",
                )
        if source.sql is not None and header.engine == "ray":
            yield ("engine",), "ray runs Python functions; expected duckdb or daft for SQL"
        yield from self._about_rows(header, source, reads)
        if header.mode == "incremental" and not reads:
            yield ("mode",), "incremental reads what arrived in its inputs, and there are none"

    def _about_rows(self, header: Header, source: Source, reads: tuple[str, ...]) -> Iterator[tuple[Key, str]]:
        if header.mode == "overwrite_partitions":
            timezone = self.defaults.timezone
            schedule = Schedule(header.schedule, header.timezone or timezone) if header.schedule else None
            variables = list(self.variables({"vars": header.vars}))
            for index, shared in shared_partitions(header.partition_by or (), schedule, timezone, source, variables):
                yield ("partition_by", index), shared
        if source.sql is not None and header.columns and header.output not in reads:
            yield ("columns",), "a statement says the types of its columns itself; expected a CAST in it"
        for column, kind in (header.columns or {}).items():
            if problem := _no_type(kind, self.inputs):
                yield ("columns", column), problem

    def _check(self, entry: Any, output: str, before: list[Check]) -> Check:
        check = parse_check(entry, output, self.inputs)
        if any(check.name == other.name for other in before):
            raise ValueError(f"{check.name} is there twice")
        return check


def _no_type(kind: str, inputs: Inputs) -> str | None:
    """Why `kind` is no SQL type; None: it is one."""
    try:
        chosen = inputs.parse(f"SELECT CAST(NULL AS {kind})")["select_list"]
    except QueryRejected:
        chosen = []
    one = len(chosen) == 1 and chosen[0].get("type") == "OPERATOR_CAST" and not chosen[0].get("alias")
    return None if one else f"{kind!r} is no type of SQL; expected one such as BIGINT, VARCHAR or DECIMAL(12, 2)"


def refused(file: Path, line: int, key: Key, problem: str) -> ConfigError:
    """The error for what is wrong on a line of a file."""
    return ConfigError(f"{file}:{line}" + (f": {'.'.join(map(str, key))}" if key else ""), problem)


def _first(error: ValidationError) -> tuple[Key, str]:
    """The first problem: where, and what was expected and found."""
    first = error.errors()[0]
    if first["type"] == "extra_forbidden":
        near = instead(str(first["loc"][0]), Header.model_fields) if len(first["loc"]) == 1 else ""
        return first["loc"], f"unknown key{near}"
    message = first["msg"].removeprefix("Value error, ")
    found = "" if first["type"] in ("missing", "value_error") else f", found {first['input']!r}"
    return first["loc"], f"{message}{found}"
