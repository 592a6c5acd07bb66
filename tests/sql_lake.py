"""Lakes to ask: tables of tests.lake_tables with several commits, and a Sql on them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from eagleray.cluster.lake.lake import Lake
from eagleray.sql.query import Sql
from tests.lake_tables import EVENTS


def land(lake: Lake, *batches: pa.Table, table: str = EVENTS) -> None:
    """Commit every batch on its own."""
    for rows in batches:
        at = lake.progress(table).get("p0", 0)
        lake.commit(table, lake.write(table, rows), {"p0": at}, {"p0": at + 1})


def rows(sql: Sql, text: str, timeout_s: float = 60) -> list[dict[str, Any]]:
    """The result as dicts."""
    found: list[dict[str, Any]] = sql.query(text, timeout_s).table.to_pylist()
    return found
