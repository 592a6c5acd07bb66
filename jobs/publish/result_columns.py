"""A result's columns as its table has them: names are matched without regard to case, as SQL reads them.

Called by `jobs.publish.publish` before a row is written. What cannot be matched is a ConfigError that names the column.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa

from eagleray.cluster.column_names import column_key
from eagleray.cluster.errors import ConfigError
from eagleray.jobs.model import Job


def named_as_in_table(table: pa.Schema | None, schema: pa.Schema) -> pa.Schema:
    """`schema` with the names that the columns of `table` have, where there is one: `ID` is its `id`."""
    there = {} if table is None else {column_key(name): name for name in table.names}
    return pa.schema([field.with_name(there.get(column_key(field.name), field.name)) for field in schema])


def with_known_key(job: Job, columns: Iterable[str]) -> Job:
    """`job` with its key as the result's `columns` are called; raises ConfigError for a column that is not there."""
    there = {column_key(name): name for name in columns}
    for name in job.key:
        if column_key(name) not in there:
            has = ", ".join(there.values()) or "none"
            raise ConfigError(f"{job.source.place}: key", f"the result has no column {name!r}; it has {has}")
    return replace(job, key=tuple(there[column_key(name)] for name in job.key))


def check_own(job: Job, columns: Iterable[str], taken: Iterable[str]) -> None:
    """Raise ConfigError where the result has a column that rows of its mode get besides (`taken`)."""
    own = {column_key(name): name for name in columns}
    for name in taken:
        if (found := own.get(column_key(name))) is not None:
            problem = f"a result of mode {job.mode} cannot have a column {found!r} of its own: {name} says which run"
            raise ConfigError(f"{job.source.place}: {job.name}", problem)
