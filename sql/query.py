"""Read-only SQL on the lake: one statement, on one consistent set of snapshots, within limits of memory, time and size.

Used by `cli.sql` in its own process and by `sql.worker` in a confined one. Promise: the answer equals the
query over every row of the tables as of one instant, and nothing but these tables can be reached.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa

from eagleray.cluster.config import Config
from eagleray.cluster.errors import QueryRejected
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.sql.engine import Answer, Deadline, Limits, run
from eagleray.sql.guard import Approved, Guard, Reference
from eagleray.sql.session import Vanished, opened, readable
from eagleray.sql.tables import Declared

PINS_MAX = 5  # a snapshot may expire between pinning and planning, where commits come quickly and few are kept
_TABLES_NAMED_MAX = 30  # in a message


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
        for _ in range(PINS_MAX - 1):
            with suppress(Vanished):
                return self._answer(approved, deadline)
        return self._answer(approved, deadline)

    def _answer(self, approved: Approved, deadline: Deadline) -> Answer:
        # 1. pin every table at once  # 2. open the files that can be needed  # 3. run on these alone
        tables = self._pin(approved.tables)
        if self._temp_dir:
            self._temp_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="eagleray-sql-", dir=self._temp_dir) as temp:
            with opened([approved], tables, self._limits, temp, deadline) as connection:
                return run(connection, approved.text, self._limits, deadline)

    def _pin(self, references: Iterable[Reference]) -> list[Declared]:
        wanted: dict[str, Reference] = {}
        for reference in references:
            wanted.setdefault(".".join(reference.names).lower(), reference)
        with readable("the lake"):
            pinned = self._lake.pin([name for name in wanted if "." in name])
        for name, reference in wanted.items():
            if name not in pinned:
                raise QueryRejected(f"table {name} does not exist{reference.where}{self._candidates(name)}")
        return [Declared(pinned[name]) for name in wanted]

    def _names(self) -> list[str]:
        with readable("the lake"):
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
