"""Results as JSON and Arrow: every type, exactly."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from eagleray.cluster.errors import QueryRejected
from eagleray.sql.answer import as_json, as_records, write_arrow, write_json
from eagleray.sql.query import Sql
from tests.lake_tables import make_config


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sql]:
    with Sql(make_config(tmp_path_factory.mktemp("lake"))) as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1", "INTEGER", 1),
        ("9223372036854775807", "BIGINT", 2**63 - 1),
        ("18446744073709551615::ubigint", "UBIGINT", 2**64 - 1),
        ("sum(9223372036854775807)", "HUGEINT", 2**63 - 1),
        ("170141183460469231731687303715884105727::hugeint", "HUGEINT", str(2**127 - 1)),
        ("1.50::decimal(10, 2)", "DECIMAL(10,2)", "1.50"),
        ("-0.07", "DECIMAL(3,2)", "-0.07"),
        ("12345678901234567890123456789.123456789", "DECIMAL(38,9)", "12345678901234567890123456789.123456789"),
        ("0.1::double", "DOUBLE", 0.1),
        ("'nan'::double", "DOUBLE", "NaN"),
        ("'-inf'::double", "DOUBLE", "-Infinity"),
        ("true", "BOOLEAN", True),
        ("NULL", "NULL", None),
        ("'ünï\n'", "VARCHAR", "ünï\n"),
        ("'\\x00\\xFF'::blob", "BLOB", "AP8="),
        ("TIMESTAMPTZ '2015-09-12 12:00:50.120+02'", "TIMESTAMP WITH TIME ZONE", "2015-09-12T10:00:50.12Z"),
        ("TIMESTAMPTZ '1969-12-31 23:59:59.999999Z'", "TIMESTAMP WITH TIME ZONE", "1969-12-31T23:59:59.999999Z"),
        ("TIMESTAMPTZ '2015-09-12 10:00:00Z'", "TIMESTAMP WITH TIME ZONE", "2015-09-12T10:00:00Z"),
        ("'infinity'::timestamptz", "TIMESTAMP WITH TIME ZONE", "infinity"),
        ("'-infinity'::timestamptz", "TIMESTAMP WITH TIME ZONE", "-infinity"),
        ("TIMESTAMP '2015-09-12 10:20:30'", "TIMESTAMP", "2015-09-12T10:20:30"),
        ("TIMESTAMP_NS '2015-09-12 10:20:30.123456789'", "TIMESTAMP_NS", "2015-09-12T10:20:30.123456789"),
        ("DATE '2015-09-12'", "DATE", "2015-09-12"),
        ("TIME '10:20:30.5'", "TIME", "10:20:30.5"),
        ("INTERVAL '1 month 2 days 3.5 seconds'", "INTERVAL", "P1M2DT3.5S"),
        ("INTERVAL '-2 hours'", "INTERVAL", "PT-7200S"),
        ("INTERVAL '0 s'", "INTERVAL", "PT0S"),
        ("'1f7d'::enum('1f7d', 'x')", "ENUM('1f7d', 'x')", "1f7d"),
        ("'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid", "UUID", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ("""'{"a": [1, 2]}'::json""", "JSON", '{"a": [1, 2]}'),
        ("[DATE '2015-09-12', NULL]", "DATE[]", ["2015-09-12", None]),
        ("[1, 2]::int[2]", "INTEGER[2]", [1, 2]),
        ("[]::int[]", "INTEGER[]", []),
        ("{'a': 1, 'b': ['x'::blob]}", "STRUCT(a INTEGER, b BLOB[])", {"a": 1, "b": ["eA=="]}),
        ("map {'a': 1.5}", "MAP(VARCHAR, DECIMAL(2,1))", {"a": "1.5"}),
        ("map {1: TRUE}", "MAP(INTEGER, BOOLEAN)", [[1, True]]),
    ],
)
def test_a_value_is_json_without_loss(sql: Sql, text: str, kind: str, value: Any) -> None:
    answer = sql.query(f"SELECT {text} AS v UNION ALL (SELECT NULL) ORDER BY v NULLS LAST", 60)
    result = as_json(answer)
    assert result["columns"] == [{"name": "v", "type": kind}]
    assert result["rows"] == [[value], [None]]
    encoded = json.dumps(result, allow_nan=False)
    assert json.loads(encoded) == msgspec.json.decode(msgspec.json.encode(result)) == result


@pytest.mark.parametrize("rows", [0, 1, 4096, 4097, 40000])
def test_the_text_is_that_of_the_value_whatever_its_length(sql: Sql, rows: int) -> None:
    query = f"SELECT range AS n, [range] AS l, NULL AS x FROM range({rows}) ORDER BY n"
    answer, text = sql.query(query, 60), io.BytesIO()
    write_json(answer, text)
    assert json.loads(text.getvalue()) == as_json(answer)


def test_rows_stay_in_order_over_many_batches(sql: Sql) -> None:
    answer = sql.query("SELECT range AS n, [range] AS l, {'n': range} AS s FROM range(40000) ORDER BY n", 60)
    assert as_json(answer)["rows"] == [[n, [n], {"n": n}] for n in range(40000)]


def test_sliced_and_null_nested_values_keep_their_place() -> None:
    from eagleray.sql.answer import plain

    lists = pa.array([[1], None, [], [2, 3], [4]], pa.list_(pa.int64()))
    structs = pa.array([{"a": 1}, None, {"a": None}], pa.struct([("a", pa.int64())]))
    assert plain(lists.slice(1, 3)) == [None, [], [2, 3]]
    assert plain(structs.slice(1)) == [None, {"a": None}]
    assert plain(pa.array([{}, None], pa.struct([]))) == [{}, None]


def test_columns_of_one_name_are_told_apart_in_objects(sql: Sql) -> None:
    answer = sql.query("SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a", 60)
    assert list(as_records(answer)[0].values()) == [1, 2, 3, 4]


def test_arrow_is_a_stream_with_the_types_of_the_query(sql: Sql) -> None:
    stream = io.BytesIO()
    write_arrow(sql.query("SELECT 1::bigint AS n, TIMESTAMPTZ '2015-09-12 10:00:00Z' AS t WHERE false", 60), stream)
    schema = pa.ipc.open_stream(stream.getvalue()).read_all().schema
    assert schema == pa.schema([("n", pa.int64()), ("t", pa.timestamp("us", "UTC"))])


@pytest.mark.parametrize("text", ["'101'::bit", "union_value(a := 1)", "'10:00:00+02'::timetz"])
def test_a_type_that_would_lose_something_is_refused(sql: Sql, text: str) -> None:
    with pytest.raises(QueryRejected, match="cast it"):
        sql.query(f"SELECT {text} AS v", 60)


def test_no_rows_are_an_empty_list(sql: Sql, tmp_path: Path) -> None:
    answer = sql.query("SELECT 1 AS a, 'x' AS b WHERE false", 60)
    assert as_json(answer)["rows"] == as_records(answer) == []
