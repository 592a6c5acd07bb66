"""Calls a job's Python function: arguments in the forms that it asks for, its result as a stream of record batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import pyarrow as pa

from eagleray.cluster.column_names import column_key
from eagleray.cluster.errors import QueryRejected
from eagleray.jobs.engines.context import running
from eagleray.jobs.engines.duckdb import declared_schema, open_for
from eagleray.jobs.engines.results import as_reader
from eagleray.jobs.engines.rows import Rows
from eagleray.jobs.engines.table_types import conformed
from eagleray.jobs.engines.task import Work
from eagleray.jobs.model import EngineName
from eagleray.jobs.project.parameters import substitute
from eagleray.jobs.project.signature import Argument, Form, arguments
from eagleray.jobs.project.user_module import UserFunction

_OF_ENGINE: Mapping[EngineName, Form] = {"duckdb": "duckdb", "daft": "daft", "ray": "ray"}
"""The form of an argument without an annotation."""


def run_function(work: Work) -> pa.RecordBatchReader:
    """Call the function of the job; raises what it raises, and TypeError for a result that is no rows."""
    function = work.job.source.function
    assert function is not None
    taken = arguments(function)
    texts = {
        each.name: substitute(each.statement, work.period, work.job.variables).text for each in taken if each.table
    }
    forms = {each.name: each.form or _OF_ENGINE[work.job.engine] for each in taken if each.table}
    # Relations of one DuckDB can be joined; a stream keeps a connection for itself.
    joined = [texts[name] for name, form in forms.items() if form == "duckdb"]
    alone = sum(form not in ("duckdb", "daft", "ray") for form in forms.values())
    share = max(1, alone + bool(joined))
    together = cache(partial(open_for, work, joined, share))

    def value(argument: Argument) -> Any:
        if argument.table is None:
            return work.period
        text, form = texts[argument.name], forms[argument.name]
        rows = Rows(text, work.tables, together if form == "duckdb" else partial(open_for, work, [text], share))
        return getattr(rows, form)()

    if {"daft", "ray"} & {work.job.engine, *forms.values()}:
        _by_value(function)
    with running(work):
        result = function(**{argument.name: value(argument) for argument in taken})
    try:
        reader = as_reader(result)
    except TypeError as error:  # of the function as it is written
        raise work.failed(f"TypeError: {error}", retryable=False) from error
    return declared_as(reader, work.job.columns) if work.job.columns else reader


def declared_as(reader: pa.RecordBatchReader, columns: Sequence[tuple[str, str]]) -> pa.RecordBatchReader:
    """The rows with these columns, by name, of these SQL types; raises QueryRejected for rows that lack one.

    Names are matched without regard to case, as everywhere where a name meets a table.
    """
    schema = declared_schema(columns)
    called = {column_key(name): name for name in schema.names}
    names = [called.get(column_key(name), name) if name else name for name in reader.schema.names]
    missing = [name for name in schema.names if name not in names]

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            if batch.num_rows and missing:
                has = ", ".join(reader.schema.names)
                raise QueryRejected(f"the result has no column {missing[0]!r}, which `columns` declares; it has {has}")
            yield conformed(pa.RecordBatch.from_arrays(batch.columns, names=names), schema)

    return pa.RecordBatchReader.from_batches(schema, rows())


def _by_value(function: Callable[..., Any]) -> None:
    """Send the user's code to tasks of the cluster, which have no such file to import."""
    if isinstance(function, UserFunction):
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(function.package)  # type: ignore[no-untyped-call]
