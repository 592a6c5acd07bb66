"""What a job is: plain frozen values. Made by `jobs.project` from SQL files and functions, read by everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

Mode = Literal["full", "overwrite_partitions", "append", "merge", "incremental", "history"]
"""How a result goes into its table; each is one atomic commit, and the same again changes nothing.

`full` replaces all rows. `overwrite_partitions` replaces the partitions that the result has rows in, and those of the
period. `append` adds rows, and replaces what an earlier run of the same period added. `merge` replaces the rows whose
key is in the result. `history` keeps every version of a row: what changed is closed and added anew (SCD2).
`incremental` reads what arrived in its input since its last successful run, and appends it or,
where the job has a key, merges it.
"""
EngineName = Literal["duckdb", "daft", "ray"]
CheckKind = Literal["not_null", "unique", "accepted_values", "relationships", "row_count", "freshness", "sql"]


@dataclass(frozen=True)
class Source:
    """Where a job is written. `line` (1-based) is where the statement or the function starts."""

    file: Path
    line: int
    sql: str | None = None  # the statement, without the header
    function: Callable[..., Any] | None = None

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Check:
    """A condition on the output table as readers would see it; it fails with the rows that break it.

    `options` by kind: not_null, unique `columns`; accepted_values `column`, `values`, and `texts`, how
    these are written; relationships `column`, `to` (table), `field`; row_count `min`, `max`; freshness `column`,
    `within_us`; sql `query`, which returns bad rows and names the table as `{table}`.
    """

    kind: CheckKind
    options: Mapping[str, Any]
    name: str  # unique within the job, such as `unique(day, channel)`
    tables: tuple[str, ...] = ()  # read besides the output


@dataclass(frozen=True)
class Calendar:
    """The days of a schedule: ticks on others are left out, and the next period reaches over them."""

    name: str
    weekdays: frozenset[int]  # 0: Monday
    holidays: frozenset[date] = frozenset()

    def __contains__(self, day: date) -> bool:
        """Whether jobs run on this day."""
        return day.weekday() in self.weekdays and day not in self.holidays


@dataclass(frozen=True)
class Condition:
    """What a scheduled period waits for. `$date`, `$start` and `$end` in `what` are the period's."""

    kind: Literal["table", "file", "url"]
    what: str
    every_us: int = 60_000_000  # between looks


@dataclass(frozen=True)
class Schedule:
    """When a job runs by itself: five cron fields in a time zone."""

    cron: str
    timezone: str = "UTC"
    catch_up: bool = False  # after a pause: every missed period, or only the latest
    overlap: bool = False  # may a period start while an earlier one of the same job runs?
    calendar: Calendar | None = None
    waits: tuple[Condition, ...] = ()  # all of them, before a period starts
    sla_us: int | None = None  # from the tick on: not done by then, it is late


@dataclass(frozen=True)
class Limits:
    """What a run of a job may use, and how often it is tried."""

    memory_bytes: int = 1 << 30  # reserved on the node; DuckDB spills above it
    timeout_us: int = 3_600_000_000
    retries: int = 2  # further attempts after a failure that another attempt may mend
    backoff_us: int = 2_000_000  # before the first retry; doubled with each
    cpus: float = 1.0


@dataclass(frozen=True)
class Job:
    """A job: inputs, a statement or function, an output table."""

    name: str
    output: str  # "namespace.table"
    mode: Mode
    source: Source
    inputs: tuple[str, ...] = ()  # tables read, in order of first use; never the output unless `mode` reads it
    engine: EngineName = "duckdb"
    key: tuple[str, ...] = ()  # merge, incremental: columns that identify a row
    variables: tuple[tuple[str, str], ...] = ()  # `$name` and its SQL constant
    columns: tuple[tuple[str, str], ...] = ()  # of a function's result: name and SQL type; empty: as they come
    partition_by: tuple[str, ...] = ()  # as `streams.*.lake.partition_by`
    sort_by: tuple[str, ...] = ()
    schedule: Schedule | None = None
    checks: tuple[Check, ...] = ()
    limits: Limits = field(default_factory=Limits)
    description: str = ""
    notify: tuple[str, ...] | None = None  # of jobs.notify, by name; None: those whose `jobs` names this one
