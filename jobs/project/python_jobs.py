"""Reads the Python jobs of a file: its functions that are decorated with `@job`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FunctionType

from eagleray.cluster.errors import QueryRejected
from eagleray.jobs.model import Job, Source
from eagleray.jobs.project.declare import MARK
from eagleray.jobs.project.inputs import TABLE
from eagleray.jobs.project.job_reader import Key, Reader, refused
from eagleray.jobs.project.signature import Argument, arguments
from eagleray.jobs.project.user_module import UserFunction, load_file


def read_functions(folder: Path, file: Path, reader: Reader) -> Iterator[Job]:
    """The jobs in `file` of the jobs' `folder`; raises ConfigError, also for what the file itself raises."""
    module = load_file(folder, file)
    for name, value in vars(module).items():
        if isinstance(value, FunctionType) and hasattr(value, MARK) and value.__module__ == module.__name__:
            function = UserFunction(folder, file, name)
            source = Source(file, value.__code__.co_firstlineno, function=function)
            reads = _reads(function, source, reader, tuple(reader.variables(getattr(value, MARK))))
            yield reader.job(name, source, getattr(value, MARK), reads, partial(_line, source))


def _line(source: Source, _: Key) -> int:
    return source.line


def _reads(function: UserFunction, source: Source, reader: Reader, variables: tuple[str, ...]) -> tuple[str, ...]:
    tables: dict[str, None] = {}
    try:
        for argument in arguments(function):
            if argument.table is not None:
                tables |= dict.fromkeys(_tables(argument, reader, variables))
    except ValueError as error:
        raise refused(source.file, source.line, (function.name,), str(error)) from None
    return tuple(tables)


def _tables(argument: Argument, reader: Reader, variables: tuple[str, ...]) -> tuple[str, ...]:
    assert argument.table is not None
    if not re.fullmatch(TABLE, argument.table.name):
        raise ValueError(f"{argument.name}: {argument.table.name!r} is no table; expected namespace.table")
    try:
        return reader.inputs.of(argument.statement, variables)
    except QueryRejected as error:
        raise ValueError(f"{argument.name}: in {argument.statement!r}: {error}") from None
