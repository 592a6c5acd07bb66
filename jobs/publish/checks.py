"""Quality checks: each becomes a SELECT of the rows that break it. Run by `publish` on the staged snapshot.

All checks of a job run on one DuckDB over one set of snapshots, within the job's limits.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import duckdb

from eagleray.cluster.clock import iso
from eagleray.cluster.errors import QueryRejected
from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.engines.duckdb import limits_of
from eagleray.jobs.model import Check, CheckKind, Job
from eagleray.jobs.project.declared_checks import TABLE_MARK
from eagleray.jobs.publish.modes import SAMPLE_ROWS
from eagleray.jobs.publish.scratch_duckdb import ENGINE_SHARE
from eagleray.sql.engine import Deadline, bounded, identifier, literal
from eagleray.sql.guard import Guard
from eagleray.sql.session import opened
from eagleray.sql.tables import Declared

Failures = list[tuple[str, int, list[dict[str, Any]]]]


def broken(lake: Lake, job: Job, branch: str, now_us: int) -> Failures:
    """The checks that the output does not pass as it is at `branch`: name, rows that break it, some of these.

    Raises QueryRejected for a check that is no query or names what is not there, QueryFailed for one beyond the limits.
    """
    # 1. the output as it would be, other tables as they are
    tables = {job.output: Declared(lake.pin(job.output, branch))}
    for other in sorted({table for check in job.checks for table in check.tables} - {job.output}):
        if lake.find(other) is None:
            raise QueryRejected(f"a check of job {job.name} reads {other}, which does not exist yet")
        tables[other] = Declared(lake.pin(other))
    # 2. every check as a query, let through like any query
    texts = {check.name: breaking(check, job.output, now_us, _types(tables)) for check in job.checks}
    with closing(Guard(chars_max=None)) as guard:
        statements = []
        for name, text in texts.items():
            try:
                statements.append(guard.approve(text))
            except QueryRejected as error:
                raise QueryRejected(f"check {name} of job {job.name}: {error}") from None
    scratch = lake.config.jobs_dir / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="checks-", dir=scratch) as temp:
        limits = limits_of(job.limits.memory_bytes // ENGINE_SHARE, job.limits.cpus, temp, "memory")
        deadline = Deadline(job.limits.timeout_us / 1_000_000)
        # 3. count, and look at some where there are any
        with opened(statements, list(tables.values()), limits, temp, deadline) as connection:
            with bounded(connection, limits, deadline):
                return [(n, count, rows) for n, text in texts.items() for count, rows in _found(connection, text)]


def _found(connection: duckdb.DuckDBPyConnection, text: str) -> list[tuple[int, list[dict[str, Any]]]]:
    ((count,),) = connection.execute(f"SELECT count(*) FROM (\n{text}\n)").fetchall()
    if not count:
        return []
    return [(count, connection.sql(f"SELECT * FROM (\n{text}\n) LIMIT {SAMPLE_ROWS}").to_arrow_table().to_pylist())]


Types = Mapping[tuple[str, str], str]
"""SQL's types of columns, by table and by name in lower case."""


def _types(tables: Mapping[str, Declared]) -> Types:
    return {
        (name, column.casefold()): kind
        for name, table in tables.items()
        for column, kind in zip(table.names, table.types, strict=True)
    }


def breaking(check: Check, output: str, now_us: int, types: Types) -> str:
    """The SELECT of the rows of `output` that break `check`; `types` of the tables that it reads."""
    if check.kind == "accepted_values":
        return _accepted(check.options, _table(output), types.get((output, check.options["column"].casefold()), ""))
    if check.kind == "relationships":
        return _relationships(check.options, output, types)
    return _BREAKING[check.kind](check.options, _table(output), now_us)


def _table(name: str) -> str:
    return ".".join(map(identifier, name.split(".", 1)))


def _not_null(options: Mapping[str, Any], table: str, _: int) -> str:
    return f"SELECT * FROM {table} WHERE {' OR '.join(f'{identifier(c)} IS NULL' for c in options['columns'])}"


def _unique(options: Mapping[str, Any], table: str, _: int) -> str:
    columns = [identifier(column) for column in options["columns"]]
    listed, known = ", ".join(columns), " AND ".join(f"{column} IS NOT NULL" for column in columns)
    return f"SELECT {listed}, count(*) AS rows FROM {table} WHERE {known} GROUP BY {listed} HAVING count(*) > 1"


def _accepted(options: Mapping[str, Any], table: str, kind: str) -> str:
    """Text is compared as text: DuckDB would make `t` and `1` the same as `true`, and `01` the same as `1`."""
    constant = _text if kind == "VARCHAR" else _constant
    column, values = identifier(options["column"]), ", ".join(map(constant, options["values"]))
    return f"SELECT * FROM {table} WHERE {column} IS NOT NULL AND {column} NOT IN ({values})"


def _relationships(options: Mapping[str, Any], output: str, types: Types) -> str:
    """Of text and something else, both are compared as text: `01` is not 1."""
    sides = (f"t.{identifier(options['column'])}", f"r.{identifier(options['field'])}")
    kinds = {types.get((output, options["column"].casefold())), types.get((options["to"], options["field"].casefold()))}
    if "VARCHAR" in kinds and len(kinds) > 1:
        sides = (f"CAST({sides[0]} AS VARCHAR)", f"CAST({sides[1]} AS VARCHAR)")
    other = f"SELECT 1 FROM {_table(options['to'])} AS r WHERE {sides[1]} = {sides[0]}"
    return f"SELECT t.* FROM {_table(output)} AS t WHERE {sides[0]} IS NOT NULL AND NOT EXISTS ({other})"


def _row_count(options: Mapping[str, Any], table: str, _: int) -> str:
    low, high = options.get("min"), options.get("max")
    parts = [f"count(*) < {low}"] * (low is not None) + [f"count(*) > {high}"] * (high is not None)
    return f"SELECT count(*) AS rows FROM {table} HAVING {' OR '.join(parts)}"


def _freshness(options: Mapping[str, Any], table: str, now_us: int) -> str:
    newest = f"max({identifier(options['column'])})"
    oldest = f"TIMESTAMPTZ '{iso(now_us - options['within_us'])}'"
    return f"SELECT {newest} AS newest FROM {table} HAVING {newest} IS NULL OR CAST({newest} AS TIMESTAMPTZ) < {oldest}"


def _sql(options: Mapping[str, Any], table: str, _: int) -> str:
    query: str = options["query"]
    return query.replace(TABLE_MARK, table).strip().rstrip(";")


def _constant(value: str | bool | int | float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"CAST('{value}' AS DOUBLE)"
    return literal(value) if isinstance(value, str) else str(value)


def _text(value: str | bool | int | float) -> str:
    """As it stands in the header."""
    return literal(str(value).lower() if isinstance(value, bool) else str(value))


_BREAKING: Mapping[CheckKind, Callable[[Mapping[str, Any], str, int], str]] = {
    "not_null": _not_null,
    "unique": _unique,
    "row_count": _row_count,
    "freshness": _freshness,
    "sql": _sql,
}
