"""What a job's function may return, as a stream of record batches: where the library is lazy, read while written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import pyarrow as pa

from eagleray.jobs.engines.duckdb import BATCH_ROWS, read
from eagleray.jobs.project.signature import Form, form_of

_PEEKED_MAX = 16  # blocks of a Ray Dataset, until each column has a value that tells its type


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

    schema = polars.DataFrame(schema=frame.collect_schema()).to_arrow().schema
    tables = (part.to_arrow() for part in frame.collect_batches(maintain_order=True))
    return pa.RecordBatchReader.from_batches(schema, _batches(tables, schema))


def _daft(frame: Any) -> pa.RecordBatchReader:
    schema = frame.schema().to_pyarrow_schema()
    return pa.RecordBatchReader.from_batches(schema, _batches(frame.to_arrow_iter(), schema))


def _ray(dataset: Any) -> pa.RecordBatchReader:
    tables = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    head: list[pa.Table] = []
    for block in tables:
        head.append(block)
        schema = pa.unify_schemas([each.schema for each in head], promote_options="default")
        if len(head) == _PEEKED_MAX or not any(pa.types.is_null(kind) for kind in schema.types):
            break
    if not head:
        found = dataset.schema()
        schema = found.base_schema if found is not None else pa.schema([])
    return pa.RecordBatchReader.from_batches(schema, _batches(chain(head, tables), schema))


def _batches(parts: Iterable[Any], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Tables or batches of about `schema` as batches of exactly it."""
    for part in parts:
        table = pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part
        yield from table.select(schema.names).cast(schema).to_batches(max_chunksize=BATCH_ROWS)


_READ: Mapping[Form, Callable[[Any], pa.RecordBatchReader]] = {
    "arrow": lambda table: table.to_reader(BATCH_ROWS),
    "batches": lambda reader: reader,
    "polars": lambda frame: frame.to_arrow().to_reader(BATCH_ROWS),
    "polars_lazy": _polars_lazy,
    "pandas": lambda frame: pa.Table.from_pandas(frame, preserve_index=False).to_reader(BATCH_ROWS),
    "duckdb": read,
    "daft": _daft,
    "ray": _ray,
}
