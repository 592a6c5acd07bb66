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


def settled(job: Job, schema: pa.Schema, table: pa.Schema | None, *, rows: bool = True) -> pa.Schema:
    """`schema` with types for all of its columns, out of `table`; a column without any is left out: its rows are null.

    A function's numbers are of the table's type as well: pandas makes floats of whole numbers with gaps. Raises
    ConfigError where a column has to be there that nobody knows the type of; without `rows` none has to be.
    """
    there = {} if table is None else {field.name: field.type for field in table}
    inferred = job.source.function is not None and job.mode != "full"
    found = []
    for field in schema:
        kind = field.type
        if inferred and _numbers(kind, there.get(field.name)):
            kind = there[field.name]
        elif has_unknown(kind):
            kind = completed(kind, there.get(field.name))
        if pt.is_null(kind):
            if rows:
                _check_needless(job, field.name)
        elif not has_unknown(kind):
            found.append(field.with_type(kind))
        elif rows:
            raise ConfigError(_where(job), f"the column {field.name} is {field.type}, of no known type; {_SAY}")
    return pa.schema(found)


def completed(kind: pa.DataType, there: pa.DataType | None) -> pa.DataType:
    """`kind` with the parts of `there` where it is null itself, and nothing else of it.

    A field of a struct that is null, and that `there` does not have, goes, for it holds nothing; it comes with a value.
    """
    if pt.is_null(kind):
        return kind if there is None else there
    if pt.is_struct(kind):
        known = {field.name: field.type for field in there} if there is not None and pt.is_struct(there) else {}
        fields = [field.with_type(completed(field.type, known.get(field.name))) for field in kind]
        kept = [field for field in fields if not pt.is_null(field.type)]
        return pa.struct(kept) if kept else kind
    if pt.is_list(kind):
        return pa.list_(
            completed(kind.value_type, there.value_type if there is not None and pt.is_list(there) else None)
        )
    if pt.is_map(kind):
        item = there.item_type if there is not None and pt.is_map(there) else None
        return pa.map_(kind.key_type, completed(kind.item_type, item))
    return kind


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
