"""DuckDB instances to plan on, kept from one query to the next: opening one takes 20 ms. Used by `sql.session`.

Nothing but empty tables is ever in them; each is locked from the start, and whoever borrows one has it alone.
"""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import duckdb

from eagleray.sql.engine import MIB, Limits, connect, identifier, lock
from eagleray.sql.prune import prepare

IDLE_MAX = 2  # as many queries as run at once in most processes
LIMITS = Limits(memory_bytes_max=256 * MIB, threads=1)

_idle: list[duckdb.DuckDBPyConnection] = []


@contextmanager
def planner(schemas: Iterable[str]) -> Iterator[duckdb.DuckDBPyConnection]:
    """An instance without tables; `schemas` that were made in it are dropped afterwards, or it is, where that fails."""
    connection = _borrowed()
    try:
        yield connection
        for schema in set(schemas):
            connection.execute(f"DROP SCHEMA IF EXISTS {identifier(schema)} CASCADE")
    except BaseException:
        connection.close()
        raise
    if len(_idle) < IDLE_MAX:
        _idle.append(connection)
    else:
        connection.close()


def _borrowed() -> duckdb.DuckDBPyConnection:
    try:
        return _idle.pop()
    except IndexError:
        connection = connect(LIMITS, tempfile.gettempdir())
        prepare(connection)
        lock(connection)
        return connection


@atexit.register
def _close() -> None:
    while _idle:
        _idle.pop().close()
