"""Keeps tables of differing columns and types on disk until all are there, then gives them back with those of all.

Used for what comes without a schema of its own, such as a Ray Dataset's blocks.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.ipc as ipc

from eagleray.jobs.engines.table_types import conformed


class Spool:
    """Tables in the order in which they came. The file has no name and goes with the object."""

    def __init__(self) -> None:
        """Lies where TMPDIR says: an attempt's own directory."""
        self._file = tempfile.TemporaryFile()
        weakref.finalize(self, self._file.close)
        self._streams: list[tuple[int, pa.Schema]] = []  # where each begins; a stream has one schema
        self._filled: list[set[str]] = []  # of each stream, the columns that have values
        self._writer: ipc.RecordBatchStreamWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Take a table; one without rows says nothing."""
        if not table.num_rows:
            return
        if self._writer is None or not table.schema.equals(self._streams[-1][1]):
            self._end()
            self._streams.append((self._file.tell(), table.schema))
            self._filled.append(set())
            self._writer = ipc.new_stream(self._file, table.schema)
        self._filled[-1].update(
            name
            for name, column in zip(table.column_names, table.columns, strict=True)
            if column.null_count < len(column)
        )
        self._writer.write_table(table)

    @property
    def schema(self) -> pa.Schema:
        """The columns of all tables, each of a type that holds its values in all; raises TypeError where none does.

        A table's column without values has no say, for libraries guess its type, unless none of them has any.
        """
        schemas = [schema for _, schema in self._streams]
        if not schemas:
            return pa.schema([])
        said = [_emptied(schema, filled) for schema, filled in zip(schemas, self._filled, strict=True)]
        try:
            found = pa.unify_schemas(said, promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise TypeError(f"parts of the result differ: {error}") from None
        return pa.schema([_guessed(field, schemas) if pa.types.is_null(field.type) else field for field in found])

    def read(self) -> pa.RecordBatchReader:
        """All rows; a column that a table lacks is null."""
        self._end()
        schema = self.schema.remove_metadata()
        return pa.RecordBatchReader.from_batches(schema, self._rows(schema))

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _rows(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for start, _ in self._streams:
            self._file.seek(start)
            for batch in ipc.open_stream(self._file):
                yield conformed(batch, schema)


def _emptied(schema: pa.Schema, filled: set[str]) -> pa.Schema:
    return pa.schema([field if field.name in filled else field.with_type(pa.null()) for field in schema])


def _guessed(field: pa.Field, schemas: list[pa.Schema]) -> pa.Field:
    """A column without any value, of the type that all its tables agree on; of none where they differ."""
    there = [pa.schema([schema.field(field.name)]) for schema in schemas if field.name in schema.names]
    try:
        return pa.unify_schemas(there, promote_options="permissive").field(0)
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return field
