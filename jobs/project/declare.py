"""How users declare a job in Python: `@job(...)` on a function whose arguments default to `table(...)`.

Nothing is checked here, so that a wrong option is reported with the others of its file: `jobs.project.python_jobs`
reads what these two leave behind. Re-exported by `eagleray`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from eagleray.jobs.model import EngineName, Mode

F = TypeVar("F", bound=Callable[..., Any])
MARK = "__eagleray_job__"
"""The attribute under which a decorated function keeps its options."""


@dataclass(frozen=True)
class TableInput:
    """A table that an argument reads: some columns, the rows for which the SQL condition `where` holds."""

    name: str
    columns: tuple[str, ...] | None = None
    where: str | None = None


def listed(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Names of columns as they may be given: one without brackets is a list of one."""
    return (names,) if isinstance(names, str) else None if names is None else tuple(names)


def table(name: str, *, columns: str | Sequence[str] | None = None, where: str | None = None) -> Any:
    """The default of an argument that reads the table `name`; in `where`, `$start`, `$end` and `$date` are the run's.

    The argument's annotation says in which form the rows come: pyarrow Table or RecordBatchReader, polars DataFrame or
    LazyFrame, pandas DataFrame, duckdb DuckDBPyRelation, daft DataFrame, ray.data Dataset.
    """
    return TableInput(name, listed(columns), where)


def job(
    *,
    output: str,
    mode: Mode | None = None,
    engine: EngineName | None = None,
    key: str | Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    vars: Mapping[str, Any] | None = None,
    include: str | Sequence[str] | None = None,
    partition_by: str | Sequence[str] | None = None,
    sort_by: str | Sequence[str] | None = None,
    schedule: str | None = None,
    timezone: str | None = None,
    catch_up: bool | None = None,
    overlap: bool | None = None,
    calendar: str | None = None,
    wait_for: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None,
    sla: str | None = None,
    notify: str | Sequence[str] | None = None,
    checks: Sequence[Mapping[str, Any]] | None = None,
    retries: int | None = None,
    backoff: str | None = None,
    timeout: str | None = None,
    memory: str | int | None = None,
    cpus: float | None = None,
    description: str | None = None,
) -> Callable[[F], F]:
    """Make a job of a function: named like it, its inputs its arguments, its result the rows of `output`.

    The options are those of a SQL file's header, and `columns`: the result's, each with its SQL type, for results that
    may be empty or without values at first. The function itself stays as it is and can be called in a test.
    """
    given = {name: value for name, value in locals().items() if value is not None}

    def mark(function: F) -> F:
        setattr(function, MARK, given)
        return function

    return mark
