"""Values of one type as another: what a column holds of them, and what it cannot hold, so that nothing is lost.

Called where a record of the log is older than the schema (`cluster.log.record`) and where a table is written anew
(`cluster.lake.alteration`). Values are taken as JSON has them: a number is held where it is exact, JSON text is parsed
or made, times are RFC 3339 text. What does not fit is the rest: an event keeps it in `_extra` under the field's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from eagleray.cluster.column_names import column_key
from eagleray.cluster.events.instants import instant_us

Rest = dict[int, Any]
"""By row, what a column could not hold, as plain JSON."""

_WHOLE = re.compile(r"[+-]?\d{1,400}")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DECODE = msgspec.json.Decoder().decode
_ENCODE = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True)
class Retyped:
    """A column in its new type, and what it could not hold."""

    array: pa.Array
    rest: Rest = field(default_factory=dict)


def same(source: pa.Field, target: pa.Field) -> bool:
    """Whether values of `source` are values of `target` as they are: types, names inside, and what is JSON text."""
    if is_json(source) != is_json(target) or source.type.num_fields != target.type.num_fields:
        return False
    if not pt.is_nested(source.type):
        return bool(source.type == target.type)
    if source.type.id != target.type.id:
        return False
    pairs = [(source.type.field(at), target.type.field(at)) for at in range(source.type.num_fields)]
    names = not pt.is_struct(source.type) or all(one.name == other.name for one, other in pairs)
    return names and all(same(one, other) for one, other in pairs)


def is_json(column: pa.Field) -> bool:
    """Whether the column holds JSON text: marked so by a schema, or documented so by a table."""
    found = column.metadata or {}
    return bool(found.get(b"json")) or found.get(b"doc", b"").lower() == b"json"


def retype(array: pa.Array, source: pa.Field, target: pa.Field) -> Retyped:
    """`array`, values of `source`, as values of `target`; rows that are null stay so."""
    if same(source, target):
        return Retyped(array if array.type == target.type else array.cast(target.type))
    if not is_json(source) and not is_json(target):
        if pt.is_struct(source.type) and pt.is_struct(target.type):
            return _structs(array, source, target)
        if _exact(source.type, target.type):
            try:
                return Retyped(array.cast(target.type))
            except pa.ArrowInvalid:
                pass  # some are not exact: one by one
    held, rest = [], {}
    for row, value in enumerate(array.to_pylist()):
        kept, beyond = (None, None) if value is None else hold(plain(value, source), target)
        held.append(kept)
        if beyond is not None:
            rest[row] = beyond
    return Retyped(pa.array(held, target.type), rest)


def _exact(source: pa.DataType, target: pa.DataType) -> bool:
    """Whether Arrow's safe cast refuses every number that `target` would not hold exactly."""
    whole = pt.is_integer(source) and (pt.is_integer(target) or pt.is_float64(target) or pt.is_decimal(target))
    return bool(whole or (pt.is_floating(source) and (pt.is_integer(target) or pt.is_float64(target))))


def _structs(array: pa.StructArray, source: pa.Field, target: pa.Field) -> Retyped:
    """Child by child; children that `target` lacks are the rest."""
    there = {column_key(child.name): at for at, child in enumerate(source.type.fields)}
    children, rest, columns = array.flatten(), Rest(), []
    for child in target.type.fields:
        at = there.pop(column_key(child.name), None)
        if at is None:
            columns.append(pa.nulls(len(array), child.type))
            continue
        found = retype(children[at], source.type.field(at), child)
        columns.append(found.array)
        _add(rest, child.name, found.rest)
    for at in there.values():
        child = source.type.field(at)
        _add(rest, child.name, unheld(children[at], child))
    mask = array.is_null() if array.null_count else None
    return Retyped(pa.StructArray.from_arrays(columns, fields=list(target.type.fields), mask=mask), rest)


def unheld(array: pa.Array, source: pa.Field) -> Rest:
    """A column that is not wanted at all, as the rest of every row that has it."""
    values = enumerate(array.to_pylist())
    return {row: plain(value, source) for row, value in values if value is not None}


def _add(rest: Rest, name: str, more: Rest) -> None:
    for row, value in more.items():
        rest.setdefault(row, {})[name] = value


def with_rest(extra: pa.Array, rests: Mapping[str, Rest]) -> pa.Array:
    """The column `_extra` with what columns, by name, could not hold; values that were there are kept."""
    if not any(rests.values()):
        return extra
    texts = extra.to_pylist()
    for name, rest in rests.items():
        for row, value in rest.items():
            known = _DECODE(texts[row]) if texts[row] else {}
            known[name] = _joined(known[name], value) if name in known else value
            texts[row] = json_text(known)
    return pa.array(texts, extra.type)


def _joined(known: Any, more: Any) -> Any:
    if isinstance(known, dict) and isinstance(more, dict):
        return {**known, **{name: _joined(known[name], v) if name in known else v for name, v in more.items()}}
    if isinstance(known, list) and isinstance(more, list) and len(known) == len(more):
        return [_joined(one, other) for one, other in zip(known, more, strict=True)]
    return more if known is None else known


# ── values ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def plain(value: Any, source: pa.Field) -> Any:
    """A value as read from a column of `source`, as JSON has it; fields that are null are left out."""
    if value is None:
        return None
    if is_json(source):
        return _DECODE(value)
    if pt.is_struct(source.type):
        below = [(child, value[child.name]) for child in source.type.fields]
        return {child.name: plain(part, child) for child, part in below if part is not None}
    if pt.is_list(source.type) or pt.is_large_list(source.type):
        return [plain(item, source.type.value_field) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat().replace("+00:00", "Z")
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def json_text(value: Any) -> str:
    """JSON text of a plain value."""
    return _ENCODE(value).decode()


def hold(value: Any, target: pa.Field) -> tuple[Any, Any]:
    """What a column of `target` holds of a plain value, and the rest of it; each None for nothing."""
    if value is None:
        return None, None
    kind = target.type
    if is_json(target):
        return json_text(value), None
    if pt.is_struct(kind):
        return _hold_struct(value, kind) if isinstance(value, dict) else (None, value)
    if pt.is_list(kind) or pt.is_large_list(kind):
        return _hold_list(value, kind) if isinstance(value, list) else (None, value)
    for matches, of in _SCALARS:
        if matches(kind):
            held = of(value, kind)
            return (held, None) if held is not None else (None, value)
    return None, value


def _hold_struct(value: dict[str, Any], kind: pa.StructType) -> tuple[Any, Any]:
    children = {child.name: child for child in kind.fields}
    held, rest = {}, {}
    for name, part in value.items():
        kept, beyond = hold(part, children[name]) if name in children else (None, part)
        if kept is not None:
            held[name] = kept
        if beyond is not None:
            rest[name] = beyond
    return held, rest or None


def _hold_list(value: list[Any], kind: pa.ListType) -> tuple[Any, Any]:
    parts = [hold(item, kind.value_field) for item in value]
    rest = [beyond for _, beyond in parts]
    return [kept for kept, _ in parts], rest if any(beyond is not None for beyond in rest) else None


def _text(value: Any, _: pa.DataType) -> str | None:
    if isinstance(value, str):
        return value
    return json_text(value) if isinstance(value, bool | int | float | Decimal) else None


def _integer(value: Any, kind: pa.DataType) -> int | None:
    whole: Any = value
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        whole = int(value)
    if isinstance(value, float | Decimal) and -(2**63) <= value < 2**63 and value == int(value):
        whole = int(value)
    if not isinstance(whole, int) or isinstance(whole, bool):
        return None
    return whole if -(2 ** (kind.bit_width - 1)) <= whole < 2 ** (kind.bit_width - 1) else None


def _number(value: Any, kind: pa.DataType) -> float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if isinstance(value, int) and int(number) != value:
        return None
    if kind.bit_width == 32 and float(np.float32(number)) != number:
        return None
    return number if abs(number) != float("inf") or isinstance(value, float) else None


def _decimal(value: Any, kind: pa.DataType) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        number = Decimal(str(value))
        exact = number.quantize(Decimal(1).scaleb(-kind.scale))
    except InvalidOperation:
        return None
    return exact if exact == number and len(exact.as_tuple().digits) <= kind.precision else None


def _boolean(value: Any, _: pa.DataType) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value)
    return value if isinstance(value, bool) else None


def _day(value: Any, _: pa.DataType) -> date | None:
    if not isinstance(value, str):
        return None
    try:
        if len(value) == 10:
            return date.fromisoformat(value)
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return at.date() if at.timetz().replace(tzinfo=None) == time() and not at.utcoffset() else None


def _instant(value: Any, kind: pa.DataType) -> datetime | None:
    if not isinstance(value, str):
        return None
    if kind.tz and (at_us := instant_us(value)) is not None:
        return _EPOCH + timedelta(microseconds=at_us)
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    if kind.tz:
        return at.replace(tzinfo=UTC) if len(value) == 10 else None
    return at if at.tzinfo is None else None


_SCALARS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any, pa.DataType], Any]], ...] = (
    (lambda kind: pt.is_string(kind) or pt.is_large_string(kind), _text),
    (pt.is_integer, _integer),
    (pt.is_floating, _number),
    (pt.is_decimal, _decimal),
    (pt.is_boolean, _boolean),
    (pt.is_date32, _day),
    (pt.is_timestamp, _instant),
)
