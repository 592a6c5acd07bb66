"""Quality checks: each becomes a SELECT of the rows that break it. Run by `publish` on the staged snapshot.

All checks of a job run on one DuckDB over one set of snapshots, within the job's limits.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import duckdb

from eagleray.cluster.clock import iso
from eagleray.cluster.errors import QueryFailed, QueryRejected
from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.engines.duckdb import limits_of
from eagleray.jobs.model import Check, CheckKind, Job
from eagleray.jobs.project.declared_checks import TABLE_MARK
from eagleray.jobs.publish.modes import SAMPLE_ROWS
from eagleray.jobs.publish.scratch_duckdb import ENGINE_SHARE
from eagleray.sql.engine import Deadline, bounded, identifier, literal
from eagleray.sql.guard import Guard
from eagleray.sql.session import declared, opened, restrictions
from eagleray.sql.tables import Declared
from eagleray.sql.tokens import statements

_PLAIN = re.compile(r"-?\d+(\.\d+)?")
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
    types = _types(tables)
    with closing(Guard(chars_max=None)) as guard:
        texts, approved = {}, []
        for check in job.checks:
            with _naming(check.name, job):
                texts[check.name] = text = breaking(check, job.output, now_us, types)
                approved.append(guard.approve(text))
    scratch = lake.config.jobs_dir / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="checks-", dir=scratch) as temp:
        limits = limits_of(job.limits.memory_bytes // ENGINE_SHARE, job.limits.cpus, temp, "memory")
        deadline = Deadline(job.limits.timeout_us / 1_000_000)
        with declared(list(tables.values()), limits, deadline) as planning:
            for name, statement in zip(texts, approved, strict=True):
                with _naming(name, job):
                    restrictions(planning, statement, list(tables.values()))  # names and types, before a file is opened
        # 3. count, and look at some where there are any
        with opened(approved, list(tables.values()), limits, temp, deadline) as connection:
            failures: Failures = []
            for name, text in texts.items():
                with _naming(name, job), bounded(connection, limits, deadline):
                    failures += ((name, count, rows) for count, rows in _found(connection, text))
            return failures


@contextmanager
def _naming(check: str, job: Job) -> Iterator[None]:
    """Raise what is wrong with a check with its name."""
    try:
        yield
    except (QueryRejected, QueryFailed) as error:
        raise type(error)(f"check {check} of job {job.name}: {error}", error.sqlstate) from None


def _found(connection: duckdb.DuckDBPyConnection, text: str) -> list[tuple[int, list[dict[str, Any]]]]:
    ((count,),) = connection.execute(f"SELECT count(*) FROM (\n{text}\n)").fetchall()
    if not count:
        return []
    return [(count, connection.sql(f"SELECT * FROM (\n{text}\n) LIMIT {SAMPLE_ROWS}").to_arrow_table().to_pylist())]


_TIMES = ("", "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "VARCHAR")
"""What may be fresh; empty: of no known type, or not there, which the query says better."""

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
    if check.kind == "freshness":
        kind = types.get((output, check.options["column"].casefold()), "")
        if kind not in _TIMES:
            raise QueryRejected(f"the column {check.options['column']} is {kind}; expected a date or a time")
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
    """Text is compared as text: DuckDB would make `t` and `1` the same as `true`, and `01` the same as `1`.

    Raises QueryRejected for values that a column of another type cannot have.
    """
    column, values = identifier(options["column"]), options["values"]
    pairs = list(zip(values, options.get("texts") or map(_text, values), strict=True))
    if kind == "VARCHAR":
        listed = [literal(text) for _, text in pairs]
    else:
        with closing(duckdb.connect()) as casting:
            unfit = next((text for value, text in pairs if not _fits(value, kind, casting)), None)
        if unfit is not None:
            raise QueryRejected(f"the column {options['column']} is {kind}, which cannot be {unfit}")
        listed = [_constant(value, text) for value, text in pairs]
    return f"SELECT * FROM {table} WHERE {column} IS NOT NULL AND {column} NOT IN ({', '.join(listed)})"


def _fits(value: str | bool | int | float, kind: str, casting: duckdb.DuckDBPyConnection) -> bool:
    """Whether a column of type `kind` (empty: not known) can have such a value: 1 is not true, whatever SQL says."""
    if not kind:
        return True
    if not isinstance(value, str):
        return (kind == "BOOLEAN") if isinstance(value, bool) else _number(kind)
    if kind.endswith(("]", ")")) and not kind.startswith("DECIMAL"):
        return False
    ((fits,),) = casting.execute(f"SELECT TRY_CAST(? AS {kind}) IS NOT NULL", [value]).fetchall()
    return bool(fits)


def _number(kind: str) -> bool:
    return kind.startswith("DECIMAL") or kind in ("INTEGER", "BIGINT", "FLOAT", "DOUBLE")


def _relationships(options: Mapping[str, Any], output: str, types: Types) -> str:
    """Of text, or true and false, and something else, both are compared as text: `01` is not 1."""
    sides = (f"t.{identifier(options['column'])}", f"r.{identifier(options['field'])}")
    kinds = {types.get((output, options["column"].casefold())), types.get((options["to"], options["field"].casefold()))}
    if kinds & {"VARCHAR", "BOOLEAN"} and len(kinds) > 1:
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
    query: str = options["query"].replace(TABLE_MARK, table)
    found = statements(query)
    return found[0][0] if len(found) == 1 else query  # without a semicolon, and what stands behind it


def _constant(value: str | bool | int | float, text: str) -> str:
    """As it is written where that is SQL: a number of 20 digits is no longer the same as a float."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"CAST('{value}' AS DOUBLE)"
    if isinstance(value, str):
        return literal(value)
    return text if _PLAIN.fullmatch(text) else str(value)


def _text(value: str | bool | int | float) -> str:
    """As a header would have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


_BREAKING: Mapping[CheckKind, Callable[[Mapping[str, Any], str, int], str]] = {
    "not_null": _not_null,
    "unique": _unique,
    "row_count": _row_count,
    "freshness": _freshness,
    "sql": _sql,
}
