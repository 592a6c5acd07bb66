"""What is in a log record: one Arrow batch, or one JSON object. Written by validation and window workers.

A batch is its schema (zlib) followed by its IPC message, compressed as a whole by lz4: cheaper on both sides than
Arrow's own compression buffer by buffer, and a record of one event takes 1.3 KB instead of 3.9 (benchmarks/log.py).
Every record says its schema itself, so that records of an older schema stay readable. `reader` decodes many records as
one stream.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from struct import Struct
from typing import Any

import pyarrow as pa

from eagleray.cluster.errors import LogCorrupt

_VERSION = 1
_HEAD = Struct("<BxHI")  # version, bytes of the schema, bytes of the message when inflated
_CODEC = pa.Codec("lz4_raw")


def encode_batch(batch: pa.RecordBatch) -> bytes:
    """The payload of a record that holds `batch`, whose columns must not be dictionaries."""
    schema = _deflated(batch.schema)
    message = batch.serialize()
    return b"".join((_HEAD.pack(_VERSION, len(schema), message.size), schema, _CODEC.compress(message)))


def decode_batch(payload: bytes, columns: Sequence[str] | None = None) -> pa.RecordBatch:
    """The batch of one record, with the named columns that it has (None: all). Raises LogCorrupt."""
    parts = _parts(payload)
    schema, message = _inflated(parts[0])
    names = schema.names if columns is None else [name for name in columns if name in schema.names]
    table = _read(schema, message, [parts], names)
    return table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], schema=table.schema)


def decode_batches(payloads: Sequence[bytes], schema: pa.Schema) -> pa.Table:
    """The rows of many records in order, one chunk a column, as `schema`: columns that a record lacks are null.

    Raises LogCorrupt where a payload cannot be read, or a value does not fit the type it has now.
    """
    tables = []
    for deflated, run in groupby(map(_parts, payloads), key=lambda parts: parts[0]):
        written, message = _inflated(deflated)
        wanted = [name for name in schema.names if name in written.names]
        tables.append(_conform(_read(written, message, list(run), wanted), schema))
    return pa.concat_tables(tables).combine_chunks() if tables else schema.empty_table()


def encode_control(body: dict[str, Any]) -> bytes:
    """The payload of a control record."""
    return json.dumps(body, separators=(",", ":")).encode()


def decode_control(payload: bytes) -> dict[str, Any]:
    """The object of a control record; raises LogCorrupt."""
    try:
        body = json.loads(payload)
    except ValueError as error:
        raise LogCorrupt(f"control record: {error}") from error
    if not isinstance(body, dict):
        raise LogCorrupt(f"control record: expected an object, found {type(body).__name__}")
    return body


_Parts = tuple[bytes, int, memoryview]  # schema, bytes of the message, compressed message


def _parts(payload: bytes) -> _Parts:
    if len(payload) < _HEAD.size or payload[0] != _VERSION:
        raise LogCorrupt(f"record: version {payload[:1].hex() or 'none'} is not one this version can read")
    _, schema_bytes, size = _HEAD.unpack_from(payload)
    end = _HEAD.size + schema_bytes
    return payload[_HEAD.size : end], size, memoryview(payload)[end:]


def _read(written: pa.Schema, message: bytes, records: Sequence[_Parts], names: Sequence[str]) -> pa.Table:
    options = pa.ipc.IpcReadOptions(
        included_fields=[written.get_field_index(name) for name in names],
        use_threads=False,  # threads cost more than they save at these sizes
    )
    if not names:  # an empty list would mean all columns
        options.included_fields = [0]
    try:
        messages = [_CODEC.decompress(compressed, size) for _, size, compressed in records]
        table = pa.ipc.open_stream(pa.py_buffer(b"".join((message, *messages))), options=options).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise LogCorrupt(f"record: {error}") from error
    return table.select(names)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if table.schema.equals(schema):
        return table
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table.column(field.name).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            found = table.schema.field(field.name).type
            raise LogCorrupt(f"column {field.name} was {found} and is {field.type} now: {error}") from error
    return pa.table(columns, schema=schema)


@lru_cache(maxsize=64)
def _deflated(schema: pa.Schema) -> bytes:
    if any(pa.types.is_dictionary(field.type) for field in schema):
        raise ValueError("a log record cannot hold dictionary columns")
    return zlib.compress(schema.serialize().to_pybytes(), 9)


@lru_cache(maxsize=64)
def _inflated(deflated: bytes) -> tuple[pa.Schema, bytes]:
    """(the schema, its IPC message)."""
    try:
        message = zlib.decompress(deflated)
        return pa.ipc.read_schema(pa.py_buffer(message)), message
    except (zlib.error, pa.ArrowInvalid, OSError) as error:
        raise LogCorrupt(f"record schema: {error}") from error
