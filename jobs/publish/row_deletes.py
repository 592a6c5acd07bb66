"""Takes rows out of files: which files of a plan hold them, and new files of the rows that stay.

Used for what a merge or an append replaces, for forgetting a person and for rebuilt windows. A file without such a row
stays as it is; one with nothing else goes without being read a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.replace import LakeFile
from eagleray.cluster.lake.scan import Pinned, ScanPlan
from eagleray.jobs.publish.scratch_duckdb import FILE, Desk
from eagleray.sql.engine import identifier
from eagleray.sql.remote_files import original
from eagleray.sql.tables import readable


@dataclass(frozen=True)
class Taken:
    """`removed` are files that hold rows to go, `added` hold what stays of them; `rows` went."""

    removed: Sequence[LakeFile] = ()
    added: Sequence[LakeFile] = ()
    rows: int = 0


def take_rows(lake: Lake, table: str, pinned: Pinned, plan: ScanPlan, on: Desk, condition: str) -> Taken:
    """Take the rows of `plan` for which the SQL `condition` over `t` is true out of their files; nothing is committed.

    `condition` may name views of the desk; where it is null the row stays.
    """
    if not plan.files:
        return Taken()
    old = on.view("old", pinned, plan)
    if readable(plan):
        found = on.rows(f"SELECT t.{FILE}, count(*) FROM {old.sql_name} AS t WHERE {condition} GROUP BY ALL")
        going: dict[str, int] = {original(name): count for name, count in found}
        touched = plan.only(lambda file: going.get(_local(file.file_path), 0) > 0)
        partial = touched.only(lambda file: going[_local(file.file_path)] < file.record_count)
        rows = sum(going.values())
    else:
        ((rows,),) = on.rows(f"SELECT count(*) FROM {old.sql_name} AS t WHERE {condition}")
        touched = partial = plan.only(lambda _: rows > 0)
    added: list[LakeFile] = []
    if partial.files:
        stay = on.view("partial", pinned, partial)
        added = write_rows(lake, table, on.stream(stay, f"WHERE ({condition}) IS NOT TRUE"))
    return Taken(touched.data_files, added, rows)


def write_rows(lake: Lake, table: str, batches: Iterator[pa.RecordBatch]) -> list[LakeFile]:
    """New files of these rows."""
    with lake.stream(table) as out:
        out.write_all(batches)
        return out.finish()


def matches(columns: Sequence[str], view: str) -> str:
    """The condition that a row of `t` has the key of some row of `view`; null equals null."""
    same = " AND ".join(f"t.{identifier(c)} IS NOT DISTINCT FROM n.{identifier(c)}" for c in columns)
    return f"EXISTS (SELECT 1 FROM {view} AS n WHERE {same})"


def _local(location: str) -> str:
    return location.removeprefix("file://") if location.startswith("file:///") else location
