"""From a header's values and what a job reads to a Job, with messages that name file, line and key.

The one place where a wrong declaration becomes a ConfigError; used for SQL files and for functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eagleray.cluster.config import NAME, JobsConfig
from eagleray.cluster.errors import ConfigError, QueryRejected
from eagleray.jobs.model import Check, Job, Source
from eagleray.jobs.project.declared_checks import parse_check
from eagleray.jobs.project.header import Header
from eagleray.jobs.project.inputs import Inputs

BUILT_IN = frozenset({"compact", "expire", "orphans", "forget", "rebuild", "replay"})
"""Jobs that come with Eagleray; users cannot take their names."""

Key = tuple[str | int, ...]
"""A path into the header: `("checks", 0, "unique")`."""


@dataclass(frozen=True)
class Reader:
    """What all declarations of a project are read with."""

    defaults: JobsConfig
    stream_tables: Collection[str]
    inputs: Inputs

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
        return header.job(name, source, reads, tuple(checks), self.defaults)

    def _contradictions(
        self, name: str, header: Header, source: Source, reads: tuple[str, ...]
    ) -> Iterator[tuple[Key, str]]:
        if header.output in self.stream_tables:
            yield ("output",), f"{header.output} is a stream's table; expected a table of the job's own"
        if header.output in reads:
            yield ("output",), f"the job reads its own output: {name} → {name}"
        if source.sql is not None and header.engine == "ray":
            yield ("engine",), "ray runs Python functions; expected duckdb or daft for SQL"
        if header.mode == "incremental" and not reads:
            yield ("mode",), "incremental reads what arrived in its inputs, and there are none"

    def _check(self, entry: Any, output: str, before: list[Check]) -> Check:
        check = parse_check(entry, output, self.inputs)
        if any(check.name == other.name for other in before):
            raise ValueError(f"{check.name} is there twice")
        return check


def refused(file: Path, line: int, key: Key, problem: str) -> ConfigError:
    """The error for what is wrong on a line of a file."""
    return ConfigError(f"{file}:{line}" + (f": {'.'.join(map(str, key))}" if key else ""), problem)


def _first(error: ValidationError) -> tuple[Key, str]:
    """The first problem: where, and what was expected and found."""
    first = error.errors()[0]
    if first["type"] == "extra_forbidden":
        return first["loc"], f"unknown key; expected {', '.join(Header.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    found = "" if first["type"] in ("missing", "value_error") else f", found {first['input']!r}"
    return first["loc"], f"{message}{found}"
