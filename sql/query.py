"""Read-only SQL on the lake: one statement, on one consistent set of snapshots, within limits of memory, time and size.

Used by `cli.sql` in its own process and by `sql.worker` in a confined one. Promise: the answer equals the
query over every row of the tables as of one instant, and nothing but these tables can be reached.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import pyarrow as pa
from duckdb import DuckDBPyConnection

from eagleray.cluster.access import EVERYTHING, TableAccess
from eagleray.cluster.config import Config
from eagleray.cluster.errors import QueryRejected
from eagleray.cluster.lake.glance import Glance
from eagleray.cluster.lake.pin import Instant, open_snapshots
from eagleray.cluster.lake.scan import Pinned
from eagleray.cluster.near_names import NAMED_MAX, instead
from eagleray.sql.cursor import Cursor
from eagleray.sql.engine import Answer, Deadline, Limits, run
from eagleray.sql.guard import NO_TABLE, Approved, Guard, Reference
from eagleray.sql.session import Vanished, declared, opened, readable
from eagleray.sql.spool import room
from eagleray.sql.tables import Declared

PINS_MAX = 5  # a snapshot may expire between pinning and planning, where commits come quickly and few are kept
T = TypeVar("T")


class Sql:
    """Runs queries on the lake of a configuration. Threads may share it; every query has a DuckDB of its own."""

    def __init__(self, config: Config, *, limits: Limits | None = None, temp_dir: Path | None = None) -> None:
        """`temp_dir` takes what does not fit into memory, in a directory per query; default: the system's."""
        lake, threads = config.lake, min(4, os.cpu_count() or 1)
        self._limits = limits or Limits(lake.query_memory_max, lake.query_spill_max, threads=threads)
        self._temp_dir = temp_dir
        self._lake = open_snapshots(config)
        self.guard = Guard()

    def __enter__(self) -> Sql:
        """Close at the end of a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the parser."""
        self.guard.close()

    def warm(self) -> None:
        """Load what the first query would load."""
        self.query("SELECT 1", timeout_s=60)

    def query(
        self,
        text: str,
        timeout_s: float,
        access: TableAccess = EVERYTHING,
        pinned: Mapping[str, Pinned] = MappingProxyType({}),
    ) -> Answer:
        """The result of `text`, of tables that `access` opens; those in `pinned` are read as they are there.

        Raises QueryRejected (not allowed, not valid), QueryForbidden (another table), QueryFailed (time, memory, size).
        """
        deadline = Deadline(timeout_s)
        approved = self.guard.approve(text, access)
        if approved.kind == "show_tables":
            return Answer(pa.table({"name": pa.array(self._names(access), pa.string())}), ("VARCHAR",))
        for _ in range(PINS_MAX - 1):
            with suppress(Vanished):
                return self._answer(approved, access, deadline, pinned)
        return self._answer(approved, access, deadline, pinned)

    def glance(self) -> dict[str, Glance]:
        """Every table of the lake by name, without its files; raises QueryFailed."""
        with readable("the lake"):
            return self._lake.glance()

    def commits(self, table: str) -> Sequence[tuple[int, int, Mapping[str, int]]]:
        """The kept snapshots of a table, oldest first: id, when it was committed (µs), how far it reached."""
        with readable(table):
            pinned = self._lake.pin([table])
        return pinned[table].commits() if table in pinned else ()

    def stream(self, approved: Approved, access: TableAccess, timeout_s: float, at: Instant | None = None) -> Cursor:
        """As `query`, of what the guard let through: the rows come as they are read. `at`: of these snapshots."""
        deadline = Deadline(timeout_s)
        for _ in range(PINS_MAX - 1):
            with suppress(Vanished):
                return self._stream(approved, access, deadline, at)
        return self._stream(approved, access, deadline, at)

    def _stream(self, approved: Approved, access: TableAccess, deadline: Deadline, at: Instant | None) -> Cursor:
        tables = self._pin(approved.tables, access, at)
        with ExitStack() as stack:
            limits, temp = self._room(stack)
            connection = stack.enter_context(opened([approved], tables, limits, temp, deadline))
            return Cursor(connection, approved.text, limits, deadline, stack.pop_all())

    def outline(
        self, approved: Approved, access: TableAccess, timeout_s: float, look: Callable[[DuckDBPyConnection], T]
    ) -> T:
        """What `look` finds on a connection that has the statement's tables without rows. Raises as `query` does."""
        with declared(self._pin(approved.tables, access), self._limits, Deadline(timeout_s)) as connection:
            return look(connection)

    def _room(self, stack: ExitStack) -> tuple[Limits, str]:
        """The limits of one query, and its directory, which goes with `stack`."""
        if self._temp_dir:
            self._temp_dir.mkdir(parents=True, exist_ok=True)
        temp = stack.enter_context(tempfile.TemporaryDirectory(prefix="eagleray-sql-", dir=self._temp_dir))
        # half of what is free: two queries may run at once
        return replace(self._limits, temp_bytes_max=min(self._limits.temp_bytes_max, room(Path(temp)) // 2)), temp

    def _answer(
        self, approved: Approved, access: TableAccess, deadline: Deadline, given: Mapping[str, Pinned]
    ) -> Answer:
        # 1. pin every table at once  # 2. open the files that can be needed  # 3. run on these alone
        tables = [
            Declared(given[one.pinned.name]) if one.pinned.name in given else one
            for one in self._pin(approved.tables, access)
        ]
        with ExitStack() as stack:
            limits, temp = self._room(stack)
            with opened([approved], tables, limits, temp, deadline) as connection:
                return run(connection, approved.text, limits, deadline)

    def _pin(self, references: Iterable[Reference], access: TableAccess, at: Instant | None = None) -> list[Declared]:
        wanted: dict[str, Reference] = {}
        for reference in references:
            wanted.setdefault(".".join(reference.names).lower(), reference)
        with readable("the lake"):
            pinned = self._lake.pin([name for name in wanted if "." in name], at)
        for name, reference in wanted.items():
            if name not in pinned:
                problem = f"table {name} does not exist{reference.where}{self._candidates(name, access)}"
                raise QueryRejected(problem, NO_TABLE)
        return [Declared(pinned[name]) for name in wanted]

    def _names(self, access: TableAccess) -> list[str]:
        with readable("the lake"):
            return [name for name in self._lake.names() if access.may_read(name)]

    def _candidates(self, name: str, access: TableAccess) -> str:
        names = self._names(access)
        if not names:
            return "; the lake has no tables yet: `eagleray up` makes them"
        found = instead(name, names)
        return found if len(names) <= NAMED_MAX or "did you" in found else f"{found} (SHOW TABLES lists all)"
