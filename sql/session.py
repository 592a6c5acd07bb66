"""A locked DuckDB with the tables that statements need, and of these only the files that they can need.

What `sql.query` and `jobs.engines` share: statements that the guard let through and tables that are pinned come
in, a connection on which the statements can be run goes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any as Json

import duckdb

from eagleray.cluster.errors import QueryFailed, QueryRejected
from eagleray.cluster.lake.damage import ADVICE, missing
from eagleray.cluster.lake.predicate import EVERYTHING, Any, Predicate
from eagleray.cluster.lake.scan import ScanPlan
from eagleray.sql.engine import Deadline, Limits, bounded, connect, lock
from eagleray.sql.guard import NO_COLUMN, NO_FUNCTION, Approved, place
from eagleray.sql.planner import planner
from eagleray.sql.prune import predicates
from eagleray.sql.tables import Declared

_STATES = {"COLUMN_NOT_FOUND": NO_COLUMN, "NO_MATCHING_FUNCTION": NO_FUNCTION, "MISSING_ENTRY": NO_FUNCTION}
_INTERNAL = ("internal", "fatal")  # a plan that DuckDB cannot write down; it may still run it


Plans = Sequence[tuple[Declared, ScanPlan]]


@contextmanager
def opened(
    statements: Sequence[Approved], tables: Sequence[Declared], limits: Limits, temp: str, deadline: Deadline
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The connection; raises QueryRejected where names or types are wrong, QueryFailed where files cannot be read."""
    with attached(planned(statements, tables, limits, deadline), limits, temp, deadline) as connection:
        yield connection


def planned(statements: Sequence[Approved], tables: Sequence[Declared], limits: Limits, deadline: Deadline) -> Plans:
    """Those of `tables` that the statements read, each with the files that they can need; raises as `opened` does."""
    needed: dict[str, list[Predicate]] = {}
    with declared(tables, limits, deadline) as connection:
        for statement in statements:
            for name, predicate in restrictions(connection, statement, tables).items():
                needed.setdefault(name, []).append(predicate)
    return [(table, _plan(table, needed[table.pinned.name])) for table in tables if table.pinned.name in needed]


@contextmanager
def declared(tables: Sequence[Declared], limits: Limits, deadline: Deadline) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection on which statements can be planned: it has `tables`, without rows."""
    with planner(table.schema for table in tables) as connection, bounded(connection, limits, deadline):
        for table in tables:
            table.declare(connection)
        yield connection


def restrictions(
    connection: duckdb.DuckDBPyConnection, statement: Approved, tables: Sequence[Declared]
) -> dict[str, Predicate]:
    """For each table that the statement reads, which of its rows can matter; raises QueryRejected where it is wrong."""
    found, error = predicates(connection, statement.select, {table.pinned.name: table.prunable for table in tables})
    if error and error["error_type"] not in _INTERNAL:
        state = _STATES.get(error.get("error_subtype", ""), "")
        raise QueryRejected(_explained(statement.select, error, tables), state)
    names = {".".join(reference.names).lower() for reference in statement.tables}
    return {name: found.get(name, EVERYTHING) for name in names}


def _plan(table: Declared, needed: Sequence[Predicate]) -> ScanPlan:
    with readable(table.pinned.name):
        return table.plan(needed[0] if len(needed) == 1 else Any(tuple(needed)))


@contextmanager
def attached(plans: Plans, limits: Limits, temp: str, deadline: Deadline) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that has the planned files as tables, and can reach nothing else."""
    with closing(connect(limits, temp)) as connection:
        files: list[str] = []
        with bounded(connection, limits, deadline):
            for table, plan in plans:
                with readable(table.pinned.name):
                    files += table.attach(connection, plan)
        lock(connection, files)
        yield connection


class Vanished(QueryFailed):
    """A file of a pinned snapshot is not there: the snapshot expired before it was planned, or the lake is damaged."""


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Raise what cannot be read as QueryFailed, what is not there as Vanished."""
    try:
        yield
    except FileNotFoundError as error:
        raise Vanished(f"{what} cannot be read: {missing(error)}; {ADVICE}") from error
    except OSError as error:
        raise QueryFailed(f"{what} cannot be read: {error}") from error


def _explained(text: str, error: dict[str, Json], tables: Sequence[Declared]) -> str:
    message = f"{error['error_message']}{place(text, error.get('position'))}"
    if error.get("error_subtype") == "COLUMN_NOT_FOUND" and len(tables) == 1:
        message += f"\n{tables[0].pinned.name} has {', '.join(tables[0].names)}"
    return message
