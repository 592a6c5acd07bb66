"""What a job's function may return, as a stream of record batches: where the library is lazy, read while written.

A column whose type nobody has said, for want of rows or of values, has Arrow's type null: `jobs.publish` finds its type
in the table, and never takes one from an empty frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from eagleray.jobs.engines.duckdb import BATCH_ROWS, read
from eagleray.jobs.engines.spool import Spool
from eagleray.jobs.project.signature import Form, form_of


def as_reader(result: Any) -> pa.RecordBatchReader:
    """The rows of `result`; raises TypeError where it has none of the forms."""
    if isinstance(result, pa.RecordBatch):
        result = pa.Table.from_batches([result])
    form = form_of(type(result))
    if form is None:
        raise TypeError(
            f"the function returned {type(result).__name__}; expected an Arrow table or batch reader, a polars, pandas"
            " or Daft frame, a DuckDB relation or a Ray Dataset"
        )
    return _READ[form](result)


def _polars_lazy(frame: Any) -> pa.RecordBatchReader:
    import polars

    found = frame.collect_schema()
    _check_objects(found)
    schema = polars.DataFrame(schema=found).to_arrow().schema
    tables = (part.to_arrow() for part in frame.collect_batches(maintain_order=True))
    return pa.RecordBatchReader.from_batches(schema, _batches(tables, schema))


def _with_index(frame: Any) -> Any:
    """A pandas frame with the named levels of its index as columns: `groupby` makes them. Others only count rows."""
    named = [name for name in frame.index.names if name is not None]
    for name in [name for name in named if name in frame.columns]:
        if not frame[name].equals(frame.index.get_level_values(name).to_series(index=frame.index)):
            raise TypeError(f"the frame has a column {name!r} and an index of that name with other values; rename one")
    wanted = [name for name in named if name not in frame.columns]
    return frame.reset_index(level=wanted) if wanted else frame


def _daft(frame: Any) -> pa.RecordBatchReader:
    schema = frame.schema().to_pyarrow_schema()
    return pa.RecordBatchReader.from_batches(schema, _batches(frame.to_arrow_iter(), schema))


def _ray(dataset: Any) -> pa.RecordBatchReader:
    """All blocks decide on columns and types: a later one may have more than the first, or the first value of one."""
    spool = Spool()
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        spool.write(block)
    if not spool.schema.names:  # no block had rows
        found = dataset.schema()
        return _unknown(found.names if found is not None else []).empty_table().to_reader()
    return spool.read()


def _pandas(frame: Any) -> pa.RecordBatchReader:
    frame = _with_index(frame)
    if frame.columns.nlevels > 1:
        raise TypeError("the frame's columns have several levels; give each one name: frame.columns = [...]")
    names = [str(name) for name in frame.columns]
    if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
        raise TypeError(f"the frame has two columns {twice!r}; rename one")
    try:
        table = _without_guesses(frame, pa.Table.from_pandas(frame, preserve_index=False))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise TypeError(_unfit(frame) or str(error)) from error
    return table.to_reader(BATCH_ROWS) if table.num_rows else _unknown(table.column_names).empty_table().to_reader()


def _without_guesses(frame: Any, table: pa.Table) -> pa.Table:
    """`table` with type null where pandas has a type for want of values alone: NaN or NaT for nothing, no category.

    A type of pandas' own that has nulls (`Int64`, `string`) was asked for, and stays.
    """
    for at, kind in enumerate(frame.dtypes):
        if table.column(at).null_count == table.num_rows and _guessed(kind):
            table = table.set_column(at, table.column_names[at], pa.nulls(table.num_rows))
    return table


def _guessed(kind: Any) -> bool:
    if kind.name == "category":
        return not len(kind.categories)
    return kind.name == "float64" or (kind.kind == "M" and not hasattr(kind, "tz"))


def _unfit(frame: Any) -> str | None:
    """The first column of a pandas frame that Arrow cannot hold, and why."""
    for name in frame.columns:
        try:
            pa.Array.from_pandas(frame[name])
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            why = error.args[0] if error.args else error
            return f"the column {str(name)!r} ({frame[name].dtype}) cannot be a table's: {why}; cast it"
    return None


def _check_objects(schema: Mapping[str, Any]) -> None:
    """Refuse what polars hands to Arrow as addresses in memory."""
    import polars

    for name, kind in schema.items():
        if kind == polars.Object:
            raise TypeError(f"the column {name!r} holds Python objects; cast it")


def _polars(frame: Any) -> pa.RecordBatchReader:
    _check_objects(frame.schema)
    try:
        return frame.to_arrow().to_reader(BATCH_ROWS)
    except pa.ArrowException as error:
        kinds = ", ".join(f"{name} {kind}" for name, kind in frame.schema.items())
        raise TypeError(f"a column of the frame cannot be a table's ({kinds}): {error}; cast it") from error


def _unknown(names: Iterable[str]) -> pa.Schema:
    """Columns of types that no row has told."""
    return pa.schema([(name, pa.null()) for name in names])


def _batches(parts: Iterable[Any], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Tables or batches of about `schema` as batches of exactly it."""
    for part in parts:
        table = pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part
        yield from table.select(schema.names).cast(schema).to_batches(max_chunksize=BATCH_ROWS)


_READ: Mapping[Form, Callable[[Any], pa.RecordBatchReader]] = {
    "arrow": lambda table: table.to_reader(BATCH_ROWS),
    "batches": lambda reader: reader,
    "polars": _polars,
    "polars_lazy": _polars_lazy,
    "pandas": _pandas,
    "duckdb": read,
    "daft": _daft,
    "ray": _ray,
}
