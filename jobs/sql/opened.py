"""A locked DuckDB with the tables that statements need, and of these only the files that they can need.

What `jobs.sql.query` and `jobs.engines` share: statements that the guard let through and tables that are pinned come
in, a connection on which the statements can be run goes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any as Json

import duckdb

from cluster.errors import QueryFailed, QueryRejected
from cluster.lake.predicate import EVERYTHING, Any, Predicate
from jobs.sql.engine import Deadline, Limits, bounded, connect, lock
from jobs.sql.guard import Approved, place
from jobs.sql.prune import predicates, prepare
from jobs.sql.tables import Declared

_INTERNAL = ("internal", "fatal")  # a plan that DuckDB cannot write down; it may still run it


@contextmanager
def opened(
    statements: Sequence[Approved], tables: Sequence[Declared], limits: Limits, temp: str, deadline: Deadline
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The connection; raises QueryRejected where names or types are wrong, QueryFailed where files cannot be read."""
    # 1. find what each scan needs  # 2. plan the files  # 3. nothing else can be reached
    needed = _needed(statements, tables, limits, temp, deadline)
    with closing(connect(limits, temp)) as connection:
        files: list[str] = []
        for table in tables:
            if table.pinned.name in needed:
                files += _attach(connection, table, needed[table.pinned.name], limits, deadline)
        lock(connection, files)
        yield connection


def _needed(
    statements: Sequence[Approved], tables: Sequence[Declared], limits: Limits, temp: str, deadline: Deadline
) -> dict[str, Predicate]:
    """What restricts each table that a statement reads."""
    with closing(connect(limits, temp)) as connection, bounded(connection, limits, deadline):
        for table in tables:
            table.declare(connection)
        prepare(connection)
        lock(connection)
        columns = {table.pinned.name: table.prunable for table in tables}
        found: dict[str, list[Predicate]] = {}
        for statement in statements:
            needed, error = predicates(connection, statement.select, columns)
            if error and error["error_type"] not in _INTERNAL:
                raise QueryRejected(_explained(statement.select, error, tables))
            for name in {".".join(reference.names).lower() for reference in statement.tables}:
                found.setdefault(name, []).append(needed.get(name, EVERYTHING))
    return {name: parts[0] if len(parts) == 1 else Any(tuple(parts)) for name, parts in found.items()}


def _attach(
    connection: duckdb.DuckDBPyConnection, table: Declared, needed: Predicate, limits: Limits, deadline: Deadline
) -> Iterable[str]:
    with readable(table.pinned.name):
        plan = table.plan(needed)
    with bounded(connection, limits, deadline):
        return table.attach(connection, plan)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Raise what cannot be read as QueryFailed."""
    try:
        yield
    except OSError as error:
        raise QueryFailed(f"{what} cannot be read: {error}") from error


def _explained(text: str, error: dict[str, Json], tables: Sequence[Declared]) -> str:
    message = f"{error['error_message']}{place(text, error.get('position'))}"
    if error.get("error_subtype") == "COLUMN_NOT_FOUND" and len(tables) == 1:
        message += f"\n{tables[0].pinned.name} has {', '.join(tables[0].names)}"
    return message
