"""Values of one type as another: what a column cannot hold is the rest, and the two together are what was there."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.events.retype import hold, plain, retype, with_rest
from tests.examples import examples

UTC_US = pa.timestamp("us", "UTC")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def column(name: str, kind: pa.DataType, json: bool = False) -> pa.Field:
    return pa.field(name, kind, metadata={"json": "1"} if json else None)


TEXT, JSON = column("v", pa.string()), column("v", pa.string(), json=True)
INT, INT32, DOUBLE = (column("v", kind) for kind in (pa.int64(), pa.int32(), pa.float64()))
BOOL, DAY, TIME = (column("v", kind) for kind in (pa.bool_(), pa.date32(), UTC_US))
MONEY = column("v", pa.decimal128(5, 2))
POINT = column("v", pa.struct([INT.with_name("x"), DOUBLE.with_name("y")]))
LIST = column("v", pa.list_(INT))


@pytest.mark.parametrize(
    ("source", "target", "value", "held", "rest"),
    [
        (INT, DOUBLE, 3, 3.0, None),
        (INT, DOUBLE, 2**53 + 1, None, 2**53 + 1),
        (DOUBLE, INT, 3.0, 3, None),
        (DOUBLE, INT, 1.5, None, 1.5),
        (INT, INT32, 2**40, None, 2**40),
        (TEXT, INT, "12", 12, None),
        (TEXT, INT, "12x", None, "12x"),
        (TEXT, DOUBLE, "1e3", 1000.0, None),
        (TEXT, DOUBLE, "nan", None, "nan"),
        (TEXT, BOOL, "true", True, None),
        (TEXT, BOOL, "1", None, "1"),
        (INT, TEXT, 12, "12", None),
        (BOOL, TEXT, True, "true", None),
        (BOOL, INT, True, None, True),
        (TEXT, DAY, "2026-01-01", date(2026, 1, 1), None),
        (TEXT, DAY, "tomorrow", None, "tomorrow"),
        (TEXT, TIME, "2026-01-01T12:00:00Z", NOON, None),
        (TIME, TEXT, NOON, "2026-01-01T12:00:00Z", None),
        (TIME, DAY, NOON, None, "2026-01-01T12:00:00Z"),
        (DAY, TIME, date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), None),
        (TEXT, JSON, "b", '"b"', None),
        (JSON, TEXT, '"b"', "b", None),
        (JSON, TEXT, '{"a":1}', None, {"a": 1}),
        (JSON, INT, "7", 7, None),
        (JSON, POINT, '{"x":1,"y":"q","z":[2]}', {"x": 1, "y": None}, {"y": "q", "z": [2]}),
        (POINT, JSON, {"x": 1, "y": None}, '{"x":1}', None),
        (JSON, LIST, '[1,"2",null,"c"]', [1, 2, None, None], [None, None, None, "c"]),
        (MONEY, column("v", pa.decimal128(10, 3)), Decimal("1.25"), Decimal("1.250"), None),
        (column("v", pa.decimal128(10, 3)), MONEY, Decimal("1.255"), None, Decimal("1.255")),
        (DOUBLE, column("v", pa.float32()), 0.1, None, 0.1),
        (DOUBLE, MONEY, 1.5, Decimal("1.50"), None),
        (TEXT, MONEY, "1000.00", None, "1000.00"),
    ],
    ids=str,
)
def test_a_value_is_held_exactly_or_is_the_rest(
    source: pa.Field, target: pa.Field, value: Any, held: Any, rest: Any
) -> None:
    made = retype(pa.array([None, value], source.type), source, target)
    assert made.array.type == target.type
    assert made.array.to_pylist() == [None, held]
    assert made.rest == ({} if rest is None else {1: rest})


def test_of_a_struct_only_what_does_not_fit_is_the_rest() -> None:
    target = column("v", pa.struct([TEXT.with_name("x"), INT.with_name("new"), INT.with_name("y")]))
    rows = pa.array([{"x": 1, "y": 2.0}, None, {"x": None, "y": 0.5}], POINT.type)
    made = retype(rows, POINT, target)
    assert made.array.to_pylist() == [{"x": "1", "new": None, "y": 2}, None, {"x": None, "new": None, "y": None}]
    assert made.rest == {2: {"y": 0.5}}
    narrow = column("v", pa.struct([INT.with_name("x")]))
    assert retype(rows, POINT, narrow).rest == {0: {"y": 2.0}, 2: {"y": 0.5}}


def test_the_rest_joins_what_was_unknown_before() -> None:
    extra = pa.array([None, '{"o":{"a":1},"w":2}'])
    joined = with_rest(extra, {"o": {0: 5, 1: {"b": [3]}}, "v": {}})
    assert joined.to_pylist() == ['{"o":5}', '{"o":{"a":1,"b":[3]},"w":2}']


NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(max_size=5) | st.sampled_from(["1", "2026-01-01", "2026-01-01T00:00:00Z", "true"])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("xyz"), below, max_size=3),
    max_leaves=6,
)


@examples(100)
@given(VALUES, st.sampled_from([INT, DOUBLE, POINT, LIST, JSON, BOOL]))
def test_what_is_held_and_the_rest_are_together_what_was_there(value: Any, target: pa.Field) -> None:
    held, rest = hold(value, target)
    array = pa.array([held], target.type)
    assert without_nulls(joined(plain(array.to_pylist()[0], target), rest)) == without_nulls(value)


def joined(held: Any, rest: Any) -> Any:
    if isinstance(held, dict) and isinstance(rest, dict):
        return {n: joined(held.get(n), rest.get(n)) for n in held.keys() | rest.keys()}
    if isinstance(held, list) and isinstance(rest, list):
        return [joined(one, other) for one, other in zip(held, rest, strict=True)]
    return same_number(rest if held is None else held)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(part) for name, part in value.items() if part is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else same_number(value)


def same_number(value: Any) -> Any:
    """Text that says a number, a truth or nothing is that: what a column holds of it."""
    if isinstance(value, str):
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeEncodeError):
            return value
    return value
