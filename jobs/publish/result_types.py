"""Finds the types of columns that a result leaves open: those of the table, and none at all while nobody knows them.

Called by `jobs.publish.publish` before a row is written. Promise: no table ever has a type that only an empty frame, or
a column without values, has suggested.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as pt

from eagleray.cluster.column_names import column_key
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.table_layout import columns_named
from eagleray.jobs.engines.table_types import has_unknown
from eagleray.jobs.model import Job


def settled(job: Job, schema: pa.Schema, table: pa.Schema | None) -> pa.Schema:
    """`schema` with types for all of its columns, out of `table`; a column without any is left out: its rows are null.

    A function's numbers are of the table's type as well: pandas makes floats of whole numbers with gaps. Raises
    ConfigError where a column has to be there that nobody knows the type of.
    """
    there = {} if table is None else {field.name: field.type for field in table}
    inferred = job.source.function is not None and job.mode != "full"
    found = []
    for field in schema:
        if has_unknown(field.type) or (inferred and _numbers(field.type, there.get(field.name))):
            kind = there.get(field.name)
            if kind is not None:
                found.append(field.with_type(kind))
            elif pt.is_null(field.type):
                _check_needless(job, field.name)
            else:
                raise ConfigError(_where(job), f"the column {field.name} is {field.type}, of no known type; {_SAY}")
        else:
            found.append(field)
    return pa.schema(found)


_SAY = "cast it, or declare it with `columns`"


def _numbers(kind: pa.DataType, there: pa.DataType | None) -> bool:
    return there is not None and bool(
        (pt.is_integer(kind) and pt.is_floating(there)) or (pt.is_floating(kind) and pt.is_integer(there))
    )


def _check_needless(job: Job, column: str) -> None:
    if column in job.key or column_key(column) in columns_named(job.partition_by, job.sort_by):
        raise ConfigError(_where(job), f"the column {column} has no value yet, and so no type; {_SAY}")


def _where(job: Job) -> str:
    return f"{job.source.place}: {job.name}"
