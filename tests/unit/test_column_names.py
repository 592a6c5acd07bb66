"""Names meet a table by one rule: what SQL or files cannot tell apart is refused with both names, or is one column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.schema import make_compatible_name

from eagleray.cluster.column_names import clash, file_name, schema_problem
from eagleray.cluster.errors import ConfigError, QueryRejected
from eagleray.jobs.engines.table_types import table_schema
from eagleray.jobs.publish.modes import RUN_NUMBER
from tests.examples import examples
from tests.published import NEXT_DAY, OUTPUT, make_job, open_lake, run
from tests.stream_project import INTEGER, TEXT, StreamProject

AT = {"t": "2026-01-01T00:00:00Z"}


def inside(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": dict.fromkeys(names, TEXT)}


@examples(300)
@given(st.text(min_size=1))
def test_names_in_files_are_escaped_as_icebergs_writers_do(name: str) -> None:
    assert file_name(name) == make_compatible_name(name)


@pytest.mark.parametrize(
    ("properties", "names"),
    [
        ({"User": TEXT, "user": TEXT}, ["'User'", "'user'"]),
        ({"1a": TEXT, "_1a": TEXT}, ["'1a'", "'_1a'"]),
        ({"a.b": TEXT, "a_x2Eb": TEXT}, ["'a.b'", "'a_x2Eb'"]),
        ({"a.b": TEXT, "A_X2EB": TEXT}, ["'a.b'", "'A_X2EB'"]),
        ({"a b": TEXT, "a_x20b": TEXT}, ["'a b'", "'a_x20b'"]),
        ({"s": inside("1a", "_1a")}, ["'1a'", "'_1a'"]),
        ({"l": {"type": "array", "items": inside("x.y", "x_x2Ey")}}, ["'x.y'", "'x_x2Ey'"]),
        ({"a": inside("b"), "a.b": TEXT}, ['"a"."b"', '"a.b"']),
        ({"l": {"type": "array", "items": TEXT}, "l.element": TEXT}, ['"l"."element"', '"l.element"']),
        ({"_Extra": TEXT}, ["'_Extra'", "'_extra'"]),
        ({"_OFFSET": INTEGER}, ["'_OFFSET'", "'_offset'"]),
        ({"_Time": TEXT}, ["'_Time'", "'_time'"]),
        ({"_id": TEXT}, ["'_id'"]),
        ({'a"b': TEXT}, ["'a\"b'"]),
        ({"a\\b": TEXT}, [r"'a\\b'"]),
        ({"a\nb": TEXT}, [r"'a\nb'", "U+000A"]),
        ({"a\0b": TEXT}, [r"'a\x00b'"]),
        ({"s": inside("\ud800")}, [r"'\ud800'"]),
        ({"": TEXT}, ["empty"]),
    ],
)
def test_a_field_that_could_not_be_stored_is_refused_with_its_name(
    tmp_path: Path, properties: dict[str, Any], names: list[str]
) -> None:
    project = StreamProject(tmp_path)
    project.configure(properties)
    with pytest.raises(ConfigError) as refused:
        project.up()
    assert refused.value.where.startswith(f"{project.file}: streams.s.schema: s.json")
    assert all(name in refused.value.problem for name in names), refused.value.problem


@pytest.mark.parametrize(
    ("group_by", "aggregate", "key", "says"),
    [
        ([], {"N": "count()", "n": "sum(v)"}, "aggregate.n", "'N' and 'n'"),
        (["kind"], {"Kind": "count()"}, "aggregate.Kind", "'kind' and 'Kind'"),
        ([], {"final": "count()"}, "aggregate.final", "'final'"),
        ([], {"Final": "count()"}, "aggregate.Final", "'Final'"),
        (["final"], {"n": "count()"}, "group_by", "'final'"),
        ([], {"Window_Start": "count()"}, "aggregate.Window_Start", "'window_start' and 'Window_Start'"),
        (["deep.a"], {"deep_x2Ea": "count()"}, "aggregate.deep_x2Ea", "'deep.a' and 'deep_x2Ea'"),
        (["kind", "kind"], {"n": "count()"}, "group_by", "'kind' and 'kind'"),
    ],
)
def test_columns_of_a_window_are_told_apart_or_refused(
    tmp_path: Path, group_by: list[str], aggregate: dict[str, str], key: str, says: str
) -> None:
    project = StreamProject(tmp_path)
    window = {"tumble": "1m", "group_by": group_by, "aggregate": aggregate}
    project.configure({"v": INTEGER, "kind": TEXT, "final": TEXT, "deep": inside("a")}, windows={"w": window})
    with pytest.raises(ConfigError) as refused:
        project.up()
    assert refused.value.where == f"{project.file}: streams.s.windows.w.{key}"
    assert says in refused.value.problem


def test_a_partition_field_cannot_have_the_name_of_another_column(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"T_Day": TEXT}, lake={"partition_by": ["day(t)"]})
    with pytest.raises(ConfigError, match="partition field t_day and the column 'T_Day'") as refused:
        project.up()
    assert refused.value.where == f"{project.file}: streams.s.lake.partition_by"


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        ({"userId": TEXT}, {"userid": TEXT}, ["'userId'", "'userid'"]),
        ({"1a": TEXT}, {"_1a": TEXT}, ["'1a'", "'_1a'"]),
        ({"s": inside("A")}, {"s": inside("a")}, ["s.A", "'A'", "'a'"]),
        (
            {"l": {"type": "array", "items": inside("A")}},
            {"l": {"type": "array", "items": inside("a")}},
            ["l.element.A"],
        ),
    ],
)
def test_a_field_that_the_table_has_under_another_spelling_is_refused_with_both(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], names: list[str]
) -> None:
    project = StreamProject(tmp_path)
    project.configure(before)
    project.up()
    project.accept(AT)
    project.kill()
    project.configure(after)
    with pytest.raises(ConfigError) as refused:
        project.up()
    assert refused.value.where == f"{project.file}: streams.s.schema: s.json"
    assert all(name in refused.value.problem for name in ["s.events", *names]), refused.value.problem


@pytest.mark.parametrize("name", ["x y", "id.orig_h", "1a", "größe", "$ref", "a'b", "select", "\x7f"])
def test_any_other_name_is_stored_and_read_at_every_place(tmp_path: Path, name: str) -> None:
    project, quoted = StreamProject(tmp_path), f'"{name}"'
    window = {"tumble": "1m", "group_by": [quoted], "aggregate": {"n": "count()"}}
    layout = {"partition_by": [quoted], "sort_by": [quoted]}
    settings = {"windows": {"w": window}, "key": quoted, "filter": f"{quoted} = 'v'", "lake": layout}
    project.configure({name: TEXT, "s": inside(name), "l": {"type": "array", "items": inside(name)}}, **settings)
    project.up()
    project.accept({**AT, name: "v", "s": {name: "v"}, "l": [{name: "v"}]}, {"t": "2026-01-01T00:10:00Z"})
    project.stop()
    found = project.rows(f"SELECT {quoted}, s.{quoted}, l[1].{quoted} FROM s.events WHERE s IS NOT NULL")
    assert found == [("v", "v", "v")]
    assert project.rows(f"SELECT {quoted}, n FROM s.w") == [("v", 1)]


@pytest.mark.parametrize("name", ["temp", "system", "information_schema", "main", "memory", "pg_catalog"])
def test_a_stream_cannot_have_the_name_of_a_schema_of_sql(tmp_path: Path, name: str) -> None:
    project = StreamProject(tmp_path)
    with pytest.raises(ConfigError, match="SQL has a schema or catalog of this name"):
        project.configure({"v": TEXT}, stream=name)


# ── jobs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_merge_finds_its_key_whatever_the_case(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("merge", key=("id",))
    run(lake, job, pa.table({"id": [1], "name": ["a"]}))
    run(lake, job, pa.table({"ID": [1], "NAME": ["b"]}), "r2")
    assert lake.read(OUTPUT).to_pylist() == [{"id": 1, "name": "b"}]


@pytest.mark.parametrize("mode", ["full", "append"])
def test_a_result_goes_into_the_columns_of_its_names_whatever_the_case(tmp_path: Path, mode: Any) -> None:
    lake, job = open_lake(tmp_path), make_job(mode)
    run(lake, job, pa.table({"amount": [1]}))
    run(lake, job, pa.table({"Amount": [2]}), "r2")
    assert lake.read(OUTPUT, ["amount"]).to_pydict() == {"amount": [2]}


def test_a_key_that_the_result_lacks_is_named(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("merge", key=("idd",))
    with pytest.raises(ConfigError, match="no column 'idd'; it has id, name"):
        run(lake, job, pa.table({"id": [1], "name": ["a"]}))
    assert lake.tables() == []


def test_a_result_cannot_bring_the_columns_that_say_its_run(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    with pytest.raises(ConfigError, match=f"'_Run_Number' of its own: {RUN_NUMBER}"):
        run(lake, make_job("append"), pa.table({"_Run_Number": [1]}))


def test_two_columns_of_a_result_that_are_one_are_refused_with_both() -> None:
    for names in (("id", "ID"), ("1a", "_1a"), ("a.b", "a_x2Eb")):
        with pytest.raises(QueryRejected, match=f"'{names[0]}' and '{names[1]}'"):
            table_schema(pa.schema([(name, pa.int64()) for name in names]))
    nested = pa.schema([("s", pa.struct([("x", pa.int64()), ("X", pa.int64())]))])
    assert schema_problem(nested) == "the columns 's.x' and 's.X' differ by case only; SQL cannot tell them apart"
    assert clash(['count("x")', "count(x)"]) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (pa.decimal128(5, 2), pa.decimal128(10, 3)),
        (pa.decimal128(10, 3), pa.decimal128(5, 2)),
        (pa.int64(), pa.float64()),
        (pa.string(), pa.int64()),
        (pa.string(), pa.binary()),
        (pa.date32(), pa.timestamp("us")),
        (pa.list_(pa.int64()), pa.list_(pa.string())),
        (pa.int64(), pa.struct([("x", pa.int64())])),
    ],
)
def test_a_type_that_a_table_cannot_take_is_refused_with_the_column(
    tmp_path: Path, before: pa.DataType, after: pa.DataType
) -> None:
    lake, job = open_lake(tmp_path), make_job("append")
    run(lake, job, pa.table({"k": ["a"], "c": pa.nulls(1, before)}))
    with pytest.raises(ConfigError, match=r"reports\.daily: column c(\.element)? is .* in the table and .* now"):
        run(lake, job, pa.table({"k": ["b"], "c": pa.nulls(1, after)}), "r2")
    assert lake.read(OUTPUT, ["k"]).to_pydict() == {"k": ["a"]}


@pytest.mark.parametrize(
    ("before", "after", "then"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.int32(), pa.int64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.decimal128(5, 2), pa.decimal128(10, 2), pa.decimal128(10, 2)),
        (pa.decimal128(10, 2), pa.decimal128(5, 2), pa.decimal128(10, 2)),
    ],
)
def test_a_type_is_widened_where_iceberg_can(
    tmp_path: Path, before: pa.DataType, after: pa.DataType, then: pa.DataType
) -> None:
    lake, job = open_lake(tmp_path), make_job("append")
    run(lake, job, pa.table({"c": pa.array([1], pa.int8()).cast(before)}))
    run(lake, job, pa.table({"c": pa.array([2], pa.int8()).cast(after)}), "r2", period=NEXT_DAY)
    found = lake.read(OUTPUT, ["c"])
    assert found.schema.field("c").type == then
    assert sorted(map(int, found.column("c").to_pylist())) == [1, 2]
