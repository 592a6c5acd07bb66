"""What a statement gives and what it needs, by DuckDB's plan of it: no file is opened. Used by `jobs.engines.daft`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from eagleray.cluster.lake.predicate import Predicate
from eagleray.jobs.engines.duckdb import read
from eagleray.jobs.engines.table_types import table_schema
from eagleray.sql.engine import Deadline, renderable
from eagleray.sql.guard import shared_guard
from eagleray.sql.planner import LIMITS
from eagleray.sql.session import declared, restrictions
from eagleray.sql.tables import Declared

PLANNING_S = 60.0  # takes milliseconds


@dataclass(frozen=True)
class Outline:
    """A statement that may run: its columns as a table has them, and by table which of the rows can matter to it."""

    text: str
    schema: pa.Schema
    needed: Mapping[str, Predicate]


def outline(text: str, tables: Iterable[Declared]) -> Outline:
    """Plan a statement on some of `tables`; raises QueryRejected for one that is not allowed or not valid."""
    statement, tables = shared_guard().approve(text), list(tables)
    with declared(tables, LIMITS, Deadline(PLANNING_S)) as connection:
        needed = restrictions(connection, statement, tables)
        relation = connection.sql(f"SELECT * FROM ({text}\n) LIMIT 0")
        renderable(relation)
        return Outline(text, table_schema(read(relation).schema), needed)
