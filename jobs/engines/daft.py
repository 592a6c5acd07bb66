"""SQL and frames by Daft, for what outgrows a node: on the Ray cluster where there is one, else in this process.

Daft reads the Iceberg tables itself, at their pinned snapshots. DuckDB has a word before (`jobs.engines.plan`): it
checks the statement, says which types the result has, so that a table does not change with the engine of its job, and
which times it is about.
"""

from __future__ import annotations

import os

os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")  # Daft tells its makers of every import and query otherwise

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, date, datetime, timedelta
from functools import cache, reduce
from operator import and_, eq, ge, gt, le, lt, ne, or_

import daft
import pyarrow as pa
import pyarrow.types as pt
import ray
from daft.io import IOConfig, S3Config

from eagleray.cluster.errors import QueryRejected
from eagleray.cluster.lake import predicate as p
from eagleray.cluster.lake.scan import Pinned
from eagleray.jobs.engines.bound_sql import Unwritten
from eagleray.jobs.engines.daft_plan import carried_out, prepared
from eagleray.jobs.engines.plan import Outline, outline
from eagleray.jobs.engines.results import as_reader
from eagleray.jobs.engines.table_types import fitted
from eagleray.jobs.engines.task import Work
from eagleray.jobs.project.parameters import substitute
from eagleray.jobs.project.sql_jobs import padded
from eagleray.sql.engine import connect
from eagleray.sql.guard import place
from eagleray.sql.planner import LIMITS
from eagleray.sql.tables import Declared

TASK_FILES_MAX = 1000  # small ones, as streams write them
TASK_SHARE = 0.25  # of a node's memory, for the rows of the tasks that it runs at once; the rest for what they become
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COMPARE = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}


def run_daft_sql(work: Work) -> pa.RecordBatchReader:
    """Start the job's statement."""
    planned = outline(substitute(padded(work.job.source), work.period, work.job.variables).text, work.tables.values())
    return fitted(as_reader(_select(planned, work.tables)), planned.schema)


def select(text: str, tables: Mapping[str, Declared]) -> daft.DataFrame:
    """The rows of a statement as a frame; nothing is read yet. Raises QueryRejected for what Daft does not take."""
    return _select(outline(text, tables.values()), tables)


def _select(planned: Outline, tables: Mapping[str, Declared]) -> daft.DataFrame:
    use_cluster()

    def read(name: str, columns: Sequence[str]) -> daft.DataFrame:
        table = tables[name]
        lake = dict(zip(table.names, (column.name for column in table.pinned.columns), strict=True))
        frame = _frame(table, planned.needed.get(name, p.EVERYTHING))
        return frame.select(*(daft.col(lake[column]).alias(f"t{at}") for at, column in enumerate(columns)))

    try:
        with closing(connect(LIMITS, tempfile.gettempdir())) as connection:
            for table in tables.values():
                table.declare(connection)
            plan = prepared(connection, planned.text)
        return carried_out(plan, read, planned.schema.names)
    except Unwritten as what:
        where = place(planned.text, what.at)
        raise QueryRejected(f"Daft cannot be trusted with {what}{where}; engine duckdb has it") from None


def use_cluster() -> None:
    """Have Daft work on the Ray cluster of this process, if there is one and Daft has not begun otherwise."""
    if ray.is_initialized():
        daft.set_runner_ray(noop_if_initialized=True)
        _merge_files()


@cache
def _merge_files() -> None:
    """Have a task read as many files as fit into memory, where Daft makes one for each.

    Every task has all processors of its node, and what one task reads is not shuffled; Daft shuffles every row where
    decimals are summed by group, for it cannot sum them in part. Set once, so that a user's function may change it.
    """
    size = _task_bytes(node["Resources"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    daft.set_execution_config(
        enable_scan_task_split_and_merge=True,
        scan_tasks_min_size_bytes=size,
        scan_tasks_max_size_bytes=size,
        max_sources_per_scan_task=TASK_FILES_MAX,
    )


def _task_bytes(nodes: Iterable[Mapping[str, float]]) -> int:
    """What each of `nodes` has for one task, of which it runs as many as it has processors."""
    shares = (node["memory"] / node["CPU"] for node in nodes if node.get("memory") and node.get("CPU"))
    return round(TASK_SHARE * min(shares, default=0))


def _frame(table: Declared, needed: p.Predicate) -> daft.DataFrame:
    pinned = table.pinned
    types = {column.name: column.type for column in pinned.columns}
    frame = daft.read_iceberg(pinned.iceberg(), snapshot_id=pinned.snapshot_id, io_config=_io_config(pinned))
    if table.only != p.EVERYTHING:
        frame = frame.where(_expression(table.only, types))
    if (early := _exact(needed, types)) != p.EVERYTHING:
        with suppress(OverflowError):  # beyond Python's last year, 9999
            frame = frame.where(_expression(early, types))
    return frame


def _io_config(pinned: Pinned) -> IOConfig | None:
    """Daft's own reader gets the address and keys that the lake uses."""
    access = pinned.s3_access()
    if access is None:
        return None
    return IOConfig(
        s3=S3Config(
            endpoint_url=access.endpoint,
            region_name=access.region,
            key_id=access.key,
            access_key=access.secret,
            session_token=access.token,
            force_virtual_addressing=access.virtual,
        )
    )


def _exact(predicate: p.Predicate, types: Mapping[str, pa.DataType]) -> p.Predicate:
    """What Daft judges as SQL does, so that it leaves out files and rows early; nothing about floating point."""
    match predicate:
        case p.All(parts):
            kept = (_exact(part, types) for part in parts)
            return p.All(tuple(part for part in kept if part != p.EVERYTHING))
        case p.Any(parts):
            either = tuple(_exact(part, types) for part in parts)
            return p.EVERYTHING if p.EVERYTHING in either else p.Any(either)
        case p.Compare(column) | p.In(column) | p.IsNull(column):
            kind = types[column]
            plain = pt.is_timestamp(kind) or pt.is_date(kind) or pt.is_integer(kind) or pt.is_large_string(kind)
            return predicate if plain or pt.is_string(kind) else p.EVERYTHING


def _expression(predicate: p.Predicate, types: Mapping[str, pa.DataType]) -> daft.Expression:
    match predicate:
        case p.Compare(column, op, value):
            compared: daft.Expression = _COMPARE[op](daft.col(column), daft.lit(_value(value, types[column])))
            return compared
        case p.In(column, values):
            return daft.col(column).is_in([_value(value, types[column]) for value in values])
        case p.IsNull(column, negated):
            return daft.col(column).not_null() if negated else daft.col(column).is_null()
        case p.All(parts):
            return reduce(and_, [_expression(part, types) for part in parts], daft.lit(True))
        case p.Any(parts):
            return reduce(or_, [_expression(part, types) for part in parts])


def _value(value: p.Value, kind: pa.DataType) -> object:
    if pt.is_timestamp(kind):
        at = _EPOCH + timedelta(microseconds=int(value))
        return at if kind.tz else at.replace(tzinfo=None)
    return date(1970, 1, 1) + timedelta(days=int(value)) if pt.is_date(kind) else value
