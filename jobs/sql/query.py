"""Read-only SQL on the lake: one statement, on one consistent set of snapshots, within limits of memory, time and size.

Used by `cluster.cli.sql` in its own process and by `jobs.sql.worker` in a confined one. Promise: the answer equals the
query over every row of the tables as of one instant, and nothing but these tables can be reached.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from cluster.config import Config
from cluster.errors import QueryFailed, QueryRejected
from cluster.lake.pin import open_snapshots
from cluster.lake.predicate import EVERYTHING, Predicate
from jobs.sql.engine import Answer, Deadline, Limits, bounded, connect, lock, run
from jobs.sql.guard import Approved, Guard, Reference, place
from jobs.sql.prune import predicates, prepare
from jobs.sql.tables import Declared

_TABLES_NAMED_MAX = 30  # in a message
_INTERNAL = ("internal", "fatal")  # a plan that DuckDB cannot write down; it may still run it


class Sql:
    """Runs queries on the lake of a configuration. Threads may share it; every query has a DuckDB of its own."""

    def __init__(self, config: Config, *, limits: Limits | None = None, temp_dir: Path | None = None) -> None:
        """`temp_dir` takes what does not fit into memory, in a directory per query; default: the system's."""
        self._limits = limits or Limits(config.lake.query_memory_max, threads=min(4, os.cpu_count() or 1))
        self._temp_dir = temp_dir
        self._lake = open_snapshots(config)
        self._guard = Guard()

    def __enter__(self) -> Sql:
        """Close at the end of a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the parser."""
        self._guard.close()

    def warm(self) -> None:
        """Load what the first query would load."""
        self.query("SELECT 1", timeout_s=60)

    def query(self, text: str, timeout_s: float) -> Answer:
        """The result of `text`; raises QueryRejected (not allowed, not valid) and QueryFailed (time, memory, size)."""
        deadline = Deadline(timeout_s)
        approved = self._guard.approve(text)
        if approved.kind == "show_tables":
            return Answer(pa.table({"name": pa.array(self._names(), pa.string())}), ("VARCHAR",))
        # 1. pin every table at once  # 2. find what each scan needs  # 3. plan the files  # 4. run on these alone
        tables = self._pin(approved.tables)
        if self._temp_dir:
            self._temp_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="eagleray-sql-", dir=self._temp_dir) as temp:
            needed = self._needed(approved, tables, temp, deadline)
            return self._run(approved, tables, needed, temp, deadline)

    def _pin(self, references: Iterable[Reference]) -> list[Declared]:
        wanted: dict[str, Reference] = {}
        for reference in references:
            wanted.setdefault(".".join(reference.names).lower(), reference)
        with _readable("the lake"):
            pinned = self._lake.pin([name for name in wanted if "." in name])
        for name, reference in wanted.items():
            if name not in pinned:
                raise QueryRejected(f"table {name} does not exist{reference.where}{self._candidates(name)}")
        return [Declared(pinned[name]) for name in wanted]

    def _names(self) -> list[str]:
        with _readable("the lake"):
            return self._lake.names()

    def _candidates(self, name: str) -> str:
        names = self._names()
        if not names:
            return "; the lake has no tables yet: `eagleray up` makes them"
        same = [known for known in names if known.split(".", 1)[1] == name]
        if close := same or get_close_matches(name, names, n=3, cutoff=0.5):
            return f"; did you mean {' or '.join(close)}?"
        more = "" if len(names) <= _TABLES_NAMED_MAX else ", … (SHOW TABLES lists all)"
        return f"; there are {', '.join(names[:_TABLES_NAMED_MAX])}{more}"

    def _needed(
        self, approved: Approved, tables: list[Declared], temp: str, deadline: Deadline
    ) -> dict[str, Predicate]:
        """What restricts each table; raises QueryRejected where names or types are wrong."""
        with closing(connect(self._limits, temp)) as connection, bounded(connection, self._limits, deadline):
            for table in tables:
                table.declare(connection)
            prepare(connection)
            lock(connection)
            columns = {table.pinned.name: table.prunable for table in tables}
            needed, error = predicates(connection, approved.select, columns)
        if error and error["error_type"] not in _INTERNAL:
            raise QueryRejected(_explained(approved.select, error, tables))
        return needed

    def _run(
        self,
        approved: Approved,
        tables: list[Declared],
        needed: dict[str, Predicate],
        temp: str,
        deadline: Deadline,
    ) -> Answer:
        with closing(connect(self._limits, temp)) as connection:
            files: list[str] = []
            for table in tables:
                files += self._attach(connection, table, needed.get(table.pinned.name, EVERYTHING), deadline)
            lock(connection, files)
            return run(connection, approved.text, self._limits, deadline)

    def _attach(
        self, connection: duckdb.DuckDBPyConnection, table: Declared, needed: Predicate, deadline: Deadline
    ) -> Iterable[str]:
        with _readable(table.pinned.name):
            plan = table.pinned.plan(needed)
        with bounded(connection, self._limits, deadline):
            return table.attach(connection, plan)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise QueryFailed(f"{what} cannot be read: {error}") from error


def _explained(text: str, error: dict[str, Any], tables: list[Declared]) -> str:
    message = f"{error['error_message']}{place(text, error.get('position'))}"
    if error.get("error_subtype") == "COLUMN_NOT_FOUND" and len(tables) == 1:
        message += f"\n{tables[0].pinned.name} has {', '.join(tables[0].names)}"
    return message
