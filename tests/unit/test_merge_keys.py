"""One rule of when two keys are the same, in every mode that has keys: by value, null and NaN included."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.errors import ChecksFailed
from eagleray.jobs.model import Mode
from eagleray.jobs.period import daily
from tests.examples import examples
from tests.published import content, make_job, open_lake, run

NAN = float("nan")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
KEYS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "double": (pa.float64(), [None, NAN, -NAN, 0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324, 1e308]),
    "float": (pa.float32(), [None, NAN, 0.0, -0.0, 0.5, math.inf, -math.inf]),
    "text": (pa.string(), [None, "", " ", "a", "A", "a ", "\u00e9", "e\u0301", "a\0", "ß", "ss", "x" * 40, "x" * 41]),
    "bytes": (pa.binary(), [None, b"", b"\0", b"\xff", b"a"]),
    "decimal": (pa.decimal128(9, 2), [None, Decimal("0.00"), Decimal("-0.01"), Decimal("1.50"), Decimal("9999999.99")]),
    "instant": (pa.timestamp("us", "UTC"), [None, NOON, NOON + timedelta(microseconds=1), NOON - timedelta(days=9999)]),
    "date": (pa.date32(), [None, date(1, 1, 1), date(1970, 1, 1), date(9999, 12, 31)]),
    "whole": (pa.int64(), [None, 0, -1, 2**63 - 1, -(2**63), 2**53, 2**53 + 1]),
    "truth": (pa.bool_(), [None, True, False]),
}


def same(key: Any) -> Any:
    """What stands for all keys that are equal to `key`."""
    return "NaN" if key != key else key + 0.0 if isinstance(key, float) else key


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("mode", ["merge", "incremental", "history"])
@examples(2)
@given(data=st.data())
def test_keys_are_the_same_by_value(
    tmp_path_factory: pytest.TempPathFactory, mode: Mode, kind: str, data: st.DataObject
) -> None:
    arrow, keys = KEYS[kind]
    lake, job = open_lake(tmp_path_factory.mktemp("lake")), make_job(mode, key=("k", "also"))
    one = st.tuples(st.sampled_from(keys), st.sampled_from([None, 1]), st.integers(0, 3))
    expected: dict[Any, int] = {}
    since = None
    for number in range(3):
        rows = data.draw(st.lists(one, min_size=1, max_size=4))
        distinct = {(same(k), also): (k, also, v) for k, also, v in rows}
        columns = list(zip(*distinct.values(), strict=True))
        kinds = (("k", arrow), ("also", pa.int32()), ("v", pa.int64()))
        result = pa.table({name: pa.array(each, type_) for each, (name, type_) in zip(columns, kinds, strict=True)})
        positions = {"s": {"p0": number}}
        run(lake, job, result, f"r{number}", daily(date(2026, 1, 1 + number)), positions, since)
        since = positions if mode == "incremental" else None
        expected |= {key: v for key, (_, _, v) in distinct.items()}
        found = content(lake, ("k", "also", "v", *(["valid_to"] if mode == "history" else [])))
        current = [row for row in found if mode != "history" or row[3] is None]
        assert len(current) == len(expected)
        assert {(same(k), also): v for k, also, v, *_ in current} == expected


@pytest.mark.parametrize("mode", ["merge", "incremental", "history"])
@pytest.mark.parametrize("twice", [(None, None), (NAN, NAN), (0.0, -0.0)])
def test_a_key_that_a_result_has_twice_is_refused(
    tmp_path_factory: pytest.TempPathFactory, mode: Mode, twice: tuple[Any, Any]
) -> None:
    lake = open_lake(tmp_path_factory.mktemp("lake"))
    with pytest.raises(ChecksFailed, match="once in the result"):
        run(lake, make_job(mode, key=("k",)), pa.table({"k": pa.array(twice, pa.float64()), "v": [1, 2]}))


def test_a_value_that_is_the_same_makes_no_version(tmp_path_factory: pytest.TempPathFactory) -> None:
    lake, job = open_lake(tmp_path_factory.mktemp("lake")), make_job("history", key=("k",))
    for number, values in enumerate(([NAN, 0.0, None], [NAN, -0.0, None], [None, 0.0, NAN]), start=1):
        result = pa.table({"k": [1, 2, 3], "v": pa.array(values, pa.float64())})
        run(lake, job, result, f"r{number}", daily(date(2026, 1, number)))
    assert [k for k, _ in content(lake, ("k", "valid_to"))] == [1, 1, 2, 3, 3]
