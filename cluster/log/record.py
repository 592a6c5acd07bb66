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

from eagleray.cluster.column_names import column_key
from eagleray.cluster.errors import LogCorrupt, RecordTooLarge
from eagleray.cluster.events.retype import Rest, retype, unheld, with_rest
from eagleray.cluster.events.stream import EXTRA, ID, SOURCE, TIME
from eagleray.cluster.log.protocol import Kind

SCHEMAS_MAX = 64  # kept as records have them, each some hundred bytes: one per stream, and one for rejects
_VERSION, _TRACED = 1, 2  # versions: without contexts of traces, and with some
_HEAD = Struct("<BBHI")  # version, contexts, bytes of the schema, bytes of the message when inflated
_CONTEXT_BYTES = 24  # the ids of a trace and of a span, both sampled
_CODEC = pa.Codec("lz4_raw")
_OWN = frozenset({TIME, ID, SOURCE, EXTRA})  # columns of the log that no event has


def encode_batch(batch: pa.RecordBatch, traces: Sequence[str] = ()) -> bytes:
    """The payload of a record that holds `batch`, whose columns must not be dictionaries.

    `traces` are contexts of `telemetry.tracing`, at most 255.
    """
    schema = _deflated(batch.schema)
    message = batch.serialize()
    head = _HEAD.pack(_TRACED if traces else _VERSION, len(traces), len(schema), message.size)
    contexts = (bytes.fromhex(context[3:35] + context[36:52]) for context in traces)
    return b"".join((head, *contexts, schema, _CODEC.compress(message)))


def traces_of(payload: bytes) -> list[str]:
    """The contexts in a record of events or rejects: what became of it is part of these traces."""
    if not payload or payload[0] != _TRACED:
        return []
    ids = payload[_HEAD.size : _HEAD.size + payload[1] * _CONTEXT_BYTES].hex()
    found = (ids[at : at + 2 * _CONTEXT_BYTES] for at in range(0, len(ids), 2 * _CONTEXT_BYTES))
    return [f"00-{one[:32]}-{one[32:]}-01" for one in found]


def encoded(batch: pa.RecordBatch, bytes_max: int, traces: Sequence[str] = ()) -> list[tuple[int, bytes]]:
    """(rows, payload) of records that hold `batch` in order, none above `bytes_max`; raises RecordTooLarge."""
    payload = encode_batch(batch, traces)
    if len(payload) <= bytes_max:
        return [(batch.num_rows, payload)]
    if batch.num_rows <= 1:
        raise RecordTooLarge(f"an event takes {len(payload)} bytes in the log, whose records have at most {bytes_max}")
    half = batch.num_rows // 2
    return encoded(batch.slice(0, half), bytes_max, traces) + encoded(batch.slice(half), bytes_max, traces)


def split_payload(payload: bytes, rows: int, bytes_max: int, kind: Kind) -> list[tuple[int, bytes]]:
    """As `encoded`, of a record that there is already. Raises RecordTooLarge, LogCorrupt."""
    if len(payload) <= bytes_max or kind == Kind.CONTROL:
        return [(rows, payload)]
    table = decode_batches([payload], _inflated(_parts(payload)[0])[0])
    return [piece for batch in table.to_batches() for piece in encoded(batch, bytes_max)]


def decode_batches(payloads: Sequence[bytes], schema: pa.Schema) -> pa.Table:
    """The rows of many records in order, one chunk a column, as `schema`: columns that a record lacks are null.

    Columns are found by name as tables find them, and have the types of `schema`. What `schema` cannot hold of a record
    is kept in its column `_extra`, if it has one. Raises LogCorrupt where a payload cannot be read.
    """
    tables = []
    for deflated, run in groupby(map(_parts, payloads), key=lambda parts: parts[0]):
        written, message = _inflated(deflated)
        tables.append(_conform(_read(written, message, list(run), _needed(written, schema)), schema))
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
    if len(payload) < _HEAD.size or payload[0] not in (_VERSION, _TRACED):
        raise LogCorrupt(f"record: version {payload[:1].hex() or 'none'} is not one this version can read")
    _, contexts, schema_bytes, size = _HEAD.unpack_from(payload)
    begin = _HEAD.size + contexts * _CONTEXT_BYTES
    end = begin + schema_bytes
    return payload[begin:end], size, memoryview(payload)[end:]


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


def _needed(written: pa.Schema, schema: pa.Schema) -> list[str]:
    """The columns of a record that `schema` asks for; all but the log's own where the rest is kept."""
    there = {column_key(name): name for name in written.names}
    asked = {key: there[key] for name in schema.names if (key := column_key(name)) in there}
    beyond = (name for key, name in there.items() if key not in asked and name not in _OWN)
    return [*asked.values(), *(beyond if EXTRA in schema.names else ())]


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if table.schema.equals(schema, check_metadata=True):
        return table
    table = table.combine_chunks()
    there = {column_key(field.name): field for field in table.schema}
    columns: dict[str, pa.Array] = {}
    rests: dict[str, Rest] = {}
    for field in schema:
        found = there.get(column_key(field.name))  # two columns may have been one, before it was renamed by case
        if found is None:
            columns[field.name] = pa.nulls(table.num_rows, field.type)
            continue
        made = retype(_whole(table.column(found.name)), found, field)
        columns[field.name], rests[found.name] = made.array, made.rest
    if EXTRA in columns:
        for name in schema.names:
            there.pop(column_key(name), None)
        rests |= {name: unheld(_whole(table.column(name)), field) for name, field in _beyond(there)}
        columns[EXTRA] = with_rest(columns[EXTRA], rests)
    return pa.table(list(columns.values()), schema=schema)


def _beyond(there: dict[str, pa.Field]) -> list[tuple[str, pa.Field]]:
    return [(field.name, field) for field in there.values() if field.name not in _OWN]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """One array; `combine_chunks` of a column without chunks has none."""
    found = column.combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays([*found.chunks, pa.array([], column.type)])


_known: dict[pa.Schema, list[tuple[pa.Schema, bytes]]] = {}
"""Schemas as records have them. Schemas are equal, as keys, whatever their metadata, which says what is JSON text."""


def _deflated(schema: pa.Schema) -> bytes:
    for known, deflated in _known.get(schema, ()):
        if known.equals(schema, check_metadata=True):
            return deflated
    deflated = _deflate(schema)
    if len(_known) >= SCHEMAS_MAX:
        _known.clear()
    _known.setdefault(schema, []).append((schema, deflated))
    return deflated


def _deflate(schema: pa.Schema) -> bytes:
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
