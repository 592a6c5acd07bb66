"""Rows as messages of Postgres' wire protocol: a whole batch at a time, a column at a time, with numpy. In the child.

A row is `D`, its length, how many columns, and for each its length (-1: null) and its bytes. What is to be written is
known for a whole column at once, so Python runs per batch and not per value; only types that are rare in large results
(intervals, binary numerics, arrays, JSON of structs) are written value by value.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eagleray.sql.answer import plain
from eagleray.sql.postgres import types as t
from eagleray.sql.postgres.types import Column

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

_HEAD_BYTES = 7  # "D", the length, the number of columns
_EPOCH_DAYS = 10_957  # from 1970-01-01, where Arrow counts from, to 2000-01-01, where Postgres does
_EPOCH_US = _EPOCH_DAYS * 86_400_000_000
_FOREVER = {2**63 - 1: "infinity", -(2**63) + 1: "-infinity"}  # DuckDB's times after and before all others, in us
_FOREVER_DAYS = {2**31 - 1: "infinity", -(2**31) + 1: "-infinity"}
_YEAR_ONE_DAYS, _YEAR_TEN_THOUSAND_DAYS = -719_162, 2_932_897


def rows(batch: pa.RecordBatch, columns: Sequence[Column], binary: Sequence[bool]) -> tuple[bytes, Numbers]:
    """All rows of `batch` as messages, and where each ends. `binary`: the format of each column."""
    count = batch.num_rows
    sizes = np.full(count, _HEAD_BYTES, np.int64)
    parts: list[pa.Array] = []
    for array, column, form in zip(batch.columns, columns, binary, strict=True):
        written = _values(array, column, form)
        lengths = np.diff(_offsets(written))
        null = np.asarray(written.is_null())
        sizes += 4 + np.where(null, 0, lengths)
        parts += _pieces(np.where(null, -1, lengths).astype(">i4").view(np.uint8), 4), written
    head = _pieces(_head(sizes, len(columns)).reshape(-1), _HEAD_BYTES)
    # Arrow puts row beside row; of a null only its length is written.
    joined = pc.binary_join_element_wise(head, *parts, b"", null_handling="replace", null_replacement=b"")
    ends = _offsets(joined)[1:].astype(np.int64)
    data = joined.buffers()[2]
    return (data.to_pybytes()[: int(ends[-1])] if count else b""), ends


def _offsets(array: pa.Array) -> npt.NDArray[np.int32]:
    """Where each value of texts or bytes begins, and the last ends."""
    return np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]


def _pieces(data: Bytes, size: int) -> pa.Array:
    """Bytes as values of `size` each."""
    offsets = np.arange(0, len(data) + 1, size, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _head(sizes: Numbers, columns: int) -> Bytes:
    count = len(sizes)
    head = np.empty((count, _HEAD_BYTES), np.uint8)
    head[:, 0] = ord("D")
    head[:, 1:5] = (sizes - 1).astype(">i4").view(np.uint8).reshape(count, 4)
    head[:, 5:7] = np.frombuffer(struct.pack("!h", columns), np.uint8)
    return head


def _values(array: pa.Array, column: Column, binary: bool) -> pa.Array:
    """A column as bytes, each value as it is sent."""
    array = _flat(array)
    if binary and column.oid in _FIXED:
        form, numbers = _FIXED[column.oid]
        written = np.ascontiguousarray(numbers(array).astype(form))
        found = _pieces(written.view(np.uint8), written.dtype.itemsize)
        return pc.if_else(array.is_valid(), found, pa.scalar(None, pa.binary())) if array.null_count else found
    write = (_BINARY if binary else _TEXT).get(column.oid)
    if column.oid in t.ELEMENTS:
        write = (lambda a: _binary_arrays(a, column.oid)) if binary else (lambda a: _text_arrays(a, column.oid))
    return (write(array) if write else _strings(array)).cast(pa.binary())


def _flat(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array


def _numbers(array: pa.Array) -> Any:
    return array.fill_null(0).to_numpy(zero_copy_only=False)


def _days(array: pa.Array) -> Any:
    days = _numbers(array.cast(pa.int32())).astype(np.int64)
    shifted = days - _EPOCH_DAYS
    shifted[days == 2**31 - 1] = 2**31 - 1
    shifted[days == -(2**31) + 1] = -(2**31)
    return shifted


def _moments(array: pa.Array) -> Any:
    microseconds = _numbers(_in_us(array).cast(pa.int64()))
    shifted = microseconds - _EPOCH_US
    shifted[microseconds == 2**63 - 1] = 2**63 - 1
    shifted[microseconds == -(2**63) + 1] = -(2**63)
    return shifted


def _in_us(array: pa.Array) -> pa.Array:
    """A timestamp in microseconds: what is finer is cut off, as Postgres has no finer."""
    return array.cast(pa.timestamp("us", array.type.tz), safe=False)


def _times(array: pa.Array) -> Any:
    return _numbers(array.cast(pa.time64("us"), safe=False).cast(pa.int64()))


_FIXED: Mapping[int, tuple[str, Callable[[pa.Array], Any]]] = {
    t.BOOL: ("u1", lambda a: _numbers(a.cast(pa.uint8()))),
    t.INT2: (">i2", _numbers),
    t.INT4: (">i4", _numbers),
    t.INT8: (">i8", _numbers),
    t.OID: (">u4", _numbers),
    t.FLOAT4: (">f4", _numbers),
    t.FLOAT8: (">f8", _numbers),
    t.DATE: (">i4", _days),
    t.TIMESTAMP: (">i8", _moments),
    t.TIMESTAMPTZ: (">i8", _moments),
    t.TIME: (">i8", _times),
}


def _strings(array: pa.Array) -> pa.Array:
    """Values as Arrow writes them; structs and all else that Postgres has not as JSON."""
    kind = array.type
    if pa.types.is_string(kind):
        return array
    if pa.types.is_nested(kind):
        return pa.array([None if v is None else msgspec.json.encode(v).decode() for v in plain(array)], pa.string())
    if pa.types.is_decimal(kind) and kind.scale > 6:
        texts = array.cast(pa.string())  # 1E-7 and the like: written out
        return pa.array([_plain_number(text) for text in texts.to_pylist()], pa.string())
    return array.cast(pa.string())


def _plain_number(text: str | None) -> str | None:
    return f"{Decimal(text):f}" if text is not None and "E" in text else text


def _bools(array: pa.Array) -> pa.Array:
    return pc.if_else(array, "t", "f")


def _floats(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    if pc.all(pc.is_finite(array)).as_py() is not False:
        return texts
    named = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return pa.array([named.get(text, text) for text in texts.to_pylist()], pa.string())


def _dates(array: pa.Array) -> pa.Array:
    days = array.cast(pa.int32())
    low, high = pc.min_max(days).as_py().values()
    if low is None or (low >= _YEAR_ONE_DAYS and high < _YEAR_TEN_THOUSAND_DAYS):
        return array.cast(pa.string())
    return pa.array([None if n is None else _FOREVER_DAYS.get(n) or _date(n) for n in days.to_pylist()], pa.string())


def _date(days: int) -> str:
    year, month, day, era = _civil(days)
    return f"{year:04d}-{month:02d}-{day:02d}{era}"


def _civil(days: int) -> tuple[int, int, int, str]:
    """Year, month and day of a day since 1970, and ` BC` where the year is counted backwards."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    return (year, month, day_of_year - (153 * shifted + 2) // 5 + 1, "") if year > 0 else (
        1 - year, month, day_of_year - (153 * shifted + 2) // 5 + 1, " BC",
    )  # fmt: skip


def _timestamps(array: pa.Array) -> pa.Array:
    zone = "+00" if array.type.tz else ""
    moments = _in_us(array).cast(pa.timestamp("us"))
    numbers = moments.cast(pa.int64())
    low, high = pc.min_max(numbers).as_py().values()
    day = 86_400_000_000
    if low is not None and not (low >= _YEAR_ONE_DAYS * day and high < _YEAR_TEN_THOUSAND_DAYS * day):
        return pa.array([None if n is None else _moment(n, zone) for n in numbers.to_pylist()], pa.string())
    whole = pc.all(pc.equal(pc.multiply(pc.divide(numbers, 1_000_000), 1_000_000), numbers)).as_py() is not False
    texts = moments.cast(pa.timestamp("s"), safe=False).cast(pa.string()) if whole else moments.cast(pa.string())
    if not whole:
        texts = pc.replace_substring_regex(
            texts, r"\.?0+$", ""
        )  # the fraction has all its digits: `.` bounds the zeros
    return pc.binary_join_element_wise(texts, zone, "") if zone else texts


def _moment(microseconds: int, zone: str) -> str:
    if microseconds in _FOREVER:
        return _FOREVER[microseconds]
    days, rest = divmod(microseconds, 86_400_000_000)
    year, month, day, era = _civil(days)
    return f"{year:04d}-{month:02d}-{day:02d} {_clock(rest)}{zone}{era}"


def _clock(microseconds: int) -> str:
    seconds, fraction = divmod(microseconds, 1_000_000)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return text + (f".{fraction:06d}".rstrip("0") if fraction else "")


def _clocks(array: pa.Array) -> pa.Array:
    numbers = array.cast(pa.time64("us"), safe=False).cast(pa.int64()).to_pylist()
    return pa.array([None if n is None else _clock(n) for n in numbers], pa.string())


def _hex(array: pa.Array) -> pa.Array:
    return pa.array([None if v is None else "\\x" + v.hex() for v in array.to_pylist()], pa.string())


def _intervals(array: pa.Array) -> pa.Array:
    return pa.array([None if v is None else _interval(*v) for v in array.to_pylist()], pa.string())


def _interval(months: int, days: int, nanoseconds: int) -> str:
    years, months = int(months / 12), months - 12 * int(months / 12)
    parts = [
        f"{number} {unit}{'' if number == 1 else 's'}"
        for number, unit in ((years, "year"), (months, "mon"), (days, "day"))
        if number
    ]
    if nanoseconds or not parts:
        parts.append(("-" if nanoseconds < 0 else "") + _clock(abs(nanoseconds) // 1000))
    return " ".join(parts)


_TEXT: Mapping[int, Callable[[pa.Array], pa.Array]] = {
    t.BOOL: _bools,
    t.FLOAT4: _floats,
    t.FLOAT8: _floats,
    t.DATE: _dates,
    t.TIMESTAMP: _timestamps,
    t.TIMESTAMPTZ: _timestamps,
    t.TIME: _clocks,
    t.BYTEA: _hex,
    t.INTERVAL: _intervals,
}


def _binary_numerics(array: pa.Array) -> pa.Array:
    return pa.array([None if v is None else _numeric(Decimal(v)) for v in array.to_pylist()], pa.binary())


def _numeric(value: Decimal) -> bytes:
    """Groups of four decimal digits, the first of them worth 10000 ** weight."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    text = "".join(map(str, digits)) + "0" * max(0, exponent)
    whole, fraction = (text[:-scale], text[-scale:].rjust(scale, "0")) if scale else (text, "")
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    groups = [int((whole + fraction)[at : at + 4]) for at in range(0, len(whole) + len(fraction), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    weight = weight if groups else 0
    return struct.pack(f"!hhHH{len(groups)}h", len(groups), weight, 0x4000 if sign else 0, scale, *groups)


def _binary_intervals(array: pa.Array) -> pa.Array:
    written = [
        None if v is None else struct.pack("!qii", v.nanoseconds // 1000, v.days, v.months) for v in array.to_pylist()
    ]
    return pa.array(written, pa.binary())


def _binary_uuids(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string()).to_pylist()
    return pa.array([None if v is None else bytes.fromhex(v.replace("-", "")) for v in texts], pa.binary())


_BINARY: Mapping[int, Callable[[pa.Array], pa.Array]] = {
    t.NUMERIC: _binary_numerics,
    t.INTERVAL: _binary_intervals,
    t.UUID: _binary_uuids,
    t.BYTEA: lambda a: a.cast(pa.binary()),
}


def _items(array: pa.Array, oid: int, binary: bool) -> list[list[bytes | None] | None]:
    """The items of each list, written."""
    array = array.cast(pa.list_(array.type.value_type)) if not pa.types.is_list(array.type) else array
    items = _values(array.flatten(), Column("", t.ELEMENTS[oid]), binary).to_pylist()
    found: list[list[bytes | None] | None] = []
    at = 0
    for length in pc.list_value_length(array).to_pylist():
        found.append(None if length is None else items[at : at + length])
        at += length or 0
    return found


def _text_arrays(array: pa.Array, oid: int) -> pa.Array:
    lists = _items(array, oid, False)
    return pa.array([None if one is None else b"{" + b",".join(map(_item, one)) + b"}" for one in lists], pa.binary())


def _item(item: bytes | None) -> bytes:
    if item is None:
        return b"NULL"
    if not item or item.upper() == b"NULL" or any(sign in item for sign in b'{},"\\ \t\r\n\v\f'):
        return b'"' + item.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return item


def _binary_arrays(array: pa.Array, oid: int) -> pa.Array:
    element = t.ELEMENTS[oid]
    return pa.array([None if one is None else _array(one, element) for one in _items(array, oid, True)], pa.binary())


def _array(items: Sequence[bytes | None], element: int) -> bytes:
    if not items:
        return struct.pack("!iii", 0, 0, element)
    head = struct.pack("!iiiii", 1, any(item is None for item in items), element, len(items), 1)
    parts = [struct.pack("!i", -1) if item is None else struct.pack("!i", len(item)) + item for item in items]
    return head + b"".join(parts)
