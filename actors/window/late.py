"""Rows of the `late` table: one for each window that an event came too late for, with the event as JSON text.

Late events are few, so the hot path reads only the columns that windows need; the records of late events are read again
in full, here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from eagleray.actors.window.state import Missed
from eagleray.cluster.clock import iso
from eagleray.cluster.events.stream import EXTRA
from eagleray.cluster.lake.stream_tables import LATE_COLUMNS
from eagleray.cluster.windowing.event_columns import Batch

Place = tuple[int, int]
"""(offset of the record, row in it)."""

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


class Late(NamedTuple):
    """Late rows of some records, up to `last` (offset)."""

    rows: pa.Table
    last: int


def places(batch: Batch, missed: Iterable[Missed]) -> list[Place]:
    """The late events of `batch`, each once, in log order."""
    rows = np.unique(np.concatenate([one.rows for one in missed]))
    return list(zip(batch.integers("_offset")[rows].tolist(), batch.integers("_row")[rows].tolist(), strict=True))


def late_rows(batch: Batch, missed: Iterable[tuple[str, Missed]], texts: dict[Place, str]) -> Late:
    """Rows of LATE_COLUMNS for the windows (by name) that events of `batch` missed; `texts` has their JSON text."""
    tables = []
    for window, (rows, starts, ends) in missed:
        offsets, numbers = batch.integers("_offset")[rows], batch.integers("_row")[rows]
        found = zip(offsets.tolist(), numbers.tolist(), strict=True)
        columns = [
            pa.array([window] * len(rows), pa.string()),
            pa.array(starts),
            pa.array(ends),
            pa.array([texts[place] for place in found], pa.string()),
            pa.array(batch.integers("_ingested_at")[rows]),
            pa.array(np.full(len(rows), batch.partition)),
            pa.array(offsets),
            pa.array(numbers),
        ]
        tables.append(pa.table([c.cast(f.type) for c, f in zip(columns, LATE_COLUMNS, strict=True)], LATE_COLUMNS))
    table = pa.concat_tables(tables)
    return Late(table, int(np.max(table.column("_offset").to_numpy())))


def event_text(event: dict[str, Any], schema: pa.Schema) -> str:
    """An event, as read from the log's columns, as the JSON object it was: unknown fields included, nulls left out."""
    fields = [(field, event[field.name]) for field in schema]
    whole = {field.name: _value(value, field) for field, value in fields if value is not None}
    extra = event.get(EXTRA)
    return msgspec.json.encode(_join(whole, msgspec.Raw(extra.encode())) if extra else whole).decode()


def _value(value: Any, field: pa.Field) -> Any:
    if value is None:
        return None
    if (field.metadata or {}).get(b"json"):
        return msgspec.Raw(value.encode())
    if pa.types.is_struct(field.type):
        below = [(child, value[child.name]) for child in field.type.fields]
        return {child.name: _value(part, child) for child, part in below if part is not None}
    if pa.types.is_list(field.type):
        return [_value(item, field.type.value_field) for item in value]
    if isinstance(value, datetime):
        return iso((value.replace(tzinfo=None) - datetime(1970, 1, 1)) // timedelta(microseconds=1))  # noqa: DTZ001
    return value.isoformat() if isinstance(value, date) else value


def _join(known: Any, extra: msgspec.Raw) -> Any:
    """`known` with the fields of `extra`, which has the same nesting."""
    if isinstance(known, dict):
        for name, more in _FIELDS.decode(extra).items():
            known[name] = _join(known[name], more) if name in known else more
    elif isinstance(known, list):
        items = _ITEMS.decode(extra)
        return [item if bytes(more) == b"null" else _join(item, more) for item, more in zip(known, items, strict=True)]
    return extra if known is None else known
