"""Results as JSON values and as an Arrow stream. Nothing is rounded: what a JSON number cannot hold is a string.

Integers are numbers (strings beyond 64 bits), decimals with a fraction are strings; NaN and infinities the strings
`NaN`, `Infinity`, `-Infinity`; times ISO 8601, with `Z` where SQL's type has a time zone; intervals ISO 8601 durations;
binary base64; structs objects, lists arrays, maps objects (arrays of pairs where keys are not text).
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable
from math import isfinite
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from eagleray.sql.engine import Answer

_ROWS = 4096  # rendered at once
_INTEGER_MAX = 2**64 - 1
_INTEGER_MIN = -(2**63)
_ENDLESS = {2**63 - 1: "infinity", -(2**63) + 1: "-infinity"}  # DuckDB's timestamps before and after all others
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def as_json(answer: Answer) -> dict[str, Any]:
    """`{"columns": [{"name", "type"}], "rows": [[...]]}`, ready for any JSON encoder."""
    table = answer.table
    columns = [{"name": name, "type": kind} for name, kind in zip(table.column_names, answer.types, strict=True)]
    return {"columns": columns, "rows": [list(row) for row in zip(*_columns(table), strict=True)]}


def as_records(answer: Answer) -> list[dict[str, Any]]:
    """One object per row. Columns of the same name get a suffix: `count`, `count_1`."""
    names: list[str] = []
    for name in answer.table.column_names:
        unique, count = name, 0
        while unique in names:
            count += 1
            unique = f"{name}_{count}"
        names.append(unique)
    return [dict(zip(names, row, strict=True)) for row in zip(*_columns(answer.table), strict=True)]


def write_json(answer: Answer, out: io.RawIOBase) -> None:
    """The text of `as_json`, made some thousand rows at a time: most texts are several times as large as the table."""
    columns = [{"name": n, "type": kind} for n, kind in zip(answer.table.column_names, answer.types, strict=True)]
    out.write(b'{"columns":' + msgspec.json.encode(columns) + b',"rows":[')
    comma = b""
    for batch in answer.table.to_batches(max_chunksize=_ROWS):
        if batch.num_rows:
            rows = msgspec.json.encode(list(zip(*map(plain, batch.columns), strict=True)))
            out.write(comma + rows[1:-1])
            comma = b","
    out.write(b"]}")


def write_arrow(answer: Answer, out: io.RawIOBase) -> None:
    """An Arrow IPC stream."""
    with pa.ipc.new_stream(out, answer.table.schema) as writer:
        writer.write_table(answer.table)


def _columns(table: pa.Table) -> list[list[Any]]:
    return [[value for chunk in column.chunks for value in plain(chunk)] for column in table.columns]


def plain(column: pa.Array) -> list[Any]:
    """The values of an array as JSON has them."""
    for matches, render in _RENDER:
        if matches(column.type):
            return render(column)
    return column.to_pylist()  # type: ignore[no-any-return]


def _decimals(column: pa.Array) -> list[Any]:
    if column.type.scale:
        return [None if value is None else str(value) for value in column.to_pylist()]
    integers = (None if value is None else int(value) for value in column.to_pylist())
    return [n if n is None or _INTEGER_MIN <= n <= _INTEGER_MAX else str(n) for n in integers]


def _floats(column: pa.Array) -> list[Any]:
    values = column.to_pylist()
    if pc.all(pc.is_finite(column)).as_py() is not False:
        return values  # type: ignore[no-any-return]
    return [v if v is None or isfinite(v) else "NaN" if v != v else f"{'-' if v < 0 else ''}Infinity" for v in values]


def _timestamps(column: pa.Array) -> list[Any]:
    unit, zone = column.type.unit, "Z" if column.type.tz else ""
    numbers = column.cast(pa.int64())
    texts = numbers.cast(pa.timestamp(unit)).cast(pa.string())
    texts = pc.replace_substring(texts, " ", "T")
    if unit != "s":
        texts = pc.replace_substring_regex(texts, r"\.?0*$", "")  # the fraction always has all its digits
    values = pc.binary_join_element_wise(texts, zone, "").to_pylist()
    if any(number in _ENDLESS for number in pc.min_max(numbers).as_py().values()):
        return [_ENDLESS.get(n, text) for n, text in zip(numbers.to_pylist(), values, strict=True)]
    return values  # type: ignore[no-any-return]


def _times(column: pa.Array) -> list[Any]:
    return pc.replace_substring_regex(column.cast(pa.string()), r"\.?0*$", "").to_pylist()  # type: ignore[no-any-return]


def _intervals(column: pa.Array) -> list[Any]:
    return [None if value is None else _interval(*value) for value in column.to_pylist()]


def _interval(months: int, days: int, nanoseconds: int) -> str:
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    text = f"{'-' if nanoseconds < 0 else ''}{seconds}" + f".{fraction:09d}".rstrip("0").rstrip(".")
    parts = (f"{months}M" if months else "") + (f"{days}D" if days else "") + (f"T{text}S" if nanoseconds else "")
    return f"P{parts or 'T0S'}"


def _binaries(column: pa.Array) -> list[Any]:
    return [None if value is None else b64encode(value).decode() for value in column.to_pylist()]


def _dictionaries(column: pa.DictionaryArray) -> list[Any]:
    return plain(column.dictionary_decode())


def _lists(column: pa.Array) -> list[Any]:
    values = plain(column.flatten())
    rows, at = [], 0
    for length in pc.list_value_length(column).to_pylist():
        rows.append(None if length is None else values[at : at + length])
        at += length or 0
    return rows


def _structs(column: pa.StructArray) -> list[Any]:
    names = [field.name for field in column.type.fields]
    children = [plain(child) for child in column.flatten()]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*children, strict=True)] or [{}] * len(column)
    return [row if valid else None for row, valid in zip(rows, column.is_valid().to_pylist(), strict=True)]


def _maps(column: pa.MapArray) -> list[Any]:
    textual = pt.is_string(column.type.key_type)
    entries = _lists(
        column.cast(pa.list_(pa.struct([("key", column.type.key_type), ("value", column.type.item_type)])))
    )
    pairs = [None if row is None else [(entry["key"], entry["value"]) for entry in row] for row in entries]
    return [row if row is None else dict(row) if textual else [list(pair) for pair in row] for row in pairs]


_RENDER: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], list[Any]]], ...] = (
    (pt.is_decimal, _decimals),
    (pt.is_floating, _floats),
    (pt.is_timestamp, _timestamps),
    (pt.is_date, lambda column: column.cast(pa.string()).to_pylist()),
    (pt.is_time, _times),
    (pt.is_interval, _intervals),
    (pt.is_binary, _binaries),
    (pt.is_dictionary, _dictionaries),
    (pt.is_map, _maps),
    (pt.is_list, _lists),
    (pt.is_fixed_size_list, lambda column: _lists(column.cast(pa.list_(column.type.value_type)))),
    (pt.is_struct, _structs),
)
