"""Queries see the lake as it is: every type, one snapshot, evolved schemas, and limits that hold."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from eagleray.cluster.errors import QueryFailed, QueryRejected
from eagleray.cluster.lake.catalog import open_catalog
from eagleray.cluster.lake.expire import Retention
from eagleray.cluster.lake.predicate import Predicate
from eagleray.cluster.lake.scan import ScanPlan
from eagleray.sql.engine import Limits
from eagleray.sql.query import Sql
from eagleray.sql.tables import Declared
from tests.lake_tables import EVENTS, SCHEMA, TIME, event_rows, make_config, make_lake, make_stream
from tests.sql_lake import land, rows

MIB = 1 << 20
UTC = datetime.UTC


def test_an_empty_table_answers_with_its_columns(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    with Sql(lake.config) as sql:
        answer = sql.query("SELECT time, user, n FROM s.events", 60)
        assert answer.table.schema == pa.schema([("time", TIME), ("user", pa.string()), ("n", pa.int64())])
        assert answer.types == ("TIMESTAMP WITH TIME ZONE", "VARCHAR", "BIGINT")
        assert rows(sql, "SELECT count(*) AS c FROM s.dead_letters") == [{"c": 0}]


def test_a_lake_that_does_not_exist_has_no_tables_and_is_not_made(tmp_path: Path) -> None:
    with Sql(make_config(tmp_path)) as sql:
        assert rows(sql, "SHOW TABLES") == []
        with pytest.raises(QueryRejected, match="no tables yet"):
            sql.query("SELECT * FROM s.events", 60)
    assert not (tmp_path / "data").exists()


def test_tables_are_listed(tmp_path: Path) -> None:
    with Sql(make_lake(tmp_path).config) as sql:
        assert rows(sql, "show tables") == [{"name": f"s.{name}"} for name in ("dead_letters", "events", "late")]


def test_every_type_and_odd_name_comes_back(tmp_path: Path) -> None:
    point = pa.struct([pa.field("x", pa.int64()), pa.field("odd.name", pa.list_(pa.string()))])
    columns = {
        "id.orig_h": ["10.0.0.1", None, ""],
        "1st": [1.5, None, -0.0],
        "on": [True, False, None],
        "day": pa.array([0, None, -1], pa.int32()).cast(pa.date32()),
        "größe": [1, 2, None],
        "quo\"te's": ["a", "b", None],
        "points": pa.array([[{"x": 1, "odd.name": ["a", None]}], None, []], pa.list_(point)),
        "actor": pa.array([{"x": None, "odd.name": None}, None, {"x": 3, "odd.name": []}], point),
    }
    table = pa.table(columns)
    lake = make_lake(tmp_path, make_stream(pa.schema([*SCHEMA, *table.schema])))
    land(lake, event_rows(3, **columns))
    with Sql(lake.config) as sql:
        answer = sql.query("SELECT * FROM s.events ORDER BY n", 60).table
        assert answer.select(table.column_names).to_pylist() == table.to_pylist()
        assert rows(sql, """SELECT actor.x FROM s.events WHERE "id.orig_h" = '' """) == [{"x": 3}]
        assert rows(sql, """SELECT n FROM s.events WHERE "quo""te's" = 'b' """) == [{"n": 1}]


def test_columns_that_differ_in_case_alone_are_both_there(tmp_path: Path) -> None:
    """Our own tables never have such columns; those of other engines may."""
    lake = make_lake(tmp_path)
    catalog = open_catalog(lake.config)
    catalog.create_namespace("others")
    both = pa.table({"user": ["user-0", "user-1"], "User": ["e", "f"]})
    catalog.create_table("others.users", both.schema).append(both)
    with Sql(lake.config) as sql:
        found = rows(sql, "SELECT user, user_1 FROM others.users WHERE user_1 = 'f'")
        assert found == [{"user": "user-1", "User_1": "f"}]


def test_times_are_utc_whatever_the_machine_thinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    lake = make_lake(tmp_path)
    land(lake, event_rows(1))
    with Sql(lake.config) as sql:
        found = rows(sql, "SELECT time, time::date AS day, hour(time) AS h, time::varchar AS text FROM s.events")
    noon = datetime.datetime(2015, 9, 12, 12, tzinfo=UTC)
    assert found == [{"time": noon, "day": noon.date(), "h": 12, "text": "2015-09-12 12:00:00+00"}]


def test_rows_from_before_a_schema_change_have_nulls(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(2))
    actor = pa.struct([("login", pa.string())])
    wider = make_stream(pa.schema([*SCHEMA, pa.field("actor", actor), pa.field("z.1", pa.string())]))
    lake.ensure({"s": wider})
    land(lake, event_rows(1, 2, actor=pa.array([{"login": "me"}], actor), **{"z.1": ["new"]}))
    with Sql(lake.config) as sql:
        found = rows(sql, """SELECT n, "z.1" AS z, actor.login AS login FROM s.events ORDER BY n""")
        assert found == [{"n": i, "z": "new" if i == 2 else None, "login": "me" if i == 2 else None} for i in range(3)]
        assert rows(sql, """SELECT n FROM s.events WHERE "z.1" IS NULL ORDER BY n""") == [{"n": 0}, {"n": 1}]
        assert rows(sql, """SELECT n FROM s.events WHERE "z.1" >= 'n' """) == [{"n": 2}]


def test_a_field_added_inside_a_struct_is_null_in_older_rows(tmp_path: Path) -> None:
    old, new = pa.struct([("login", pa.string())]), pa.struct([("login", pa.string()), ("age", pa.int64())])
    lake = make_lake(tmp_path, make_stream(pa.schema([*SCHEMA, pa.field("actor", old)])))
    land(lake, event_rows(1, actor=pa.array([{"login": "a"}], old)))
    lake.ensure({"s": make_stream(pa.schema([*SCHEMA, pa.field("actor", new)]))})
    land(lake, event_rows(1, 1, actor=pa.array([{"login": "b", "age": 3}], new)))
    with Sql(lake.config) as sql:
        assert rows(sql, "SELECT actor.age AS a FROM s.events ORDER BY n") == [{"a": None}, {"a": 3}]
        assert rows(sql, "SELECT n FROM s.events WHERE actor.login = 'a'") == [{"n": 0}]
        assert rows(sql, "SELECT x.n, y.actor FROM s.events x JOIN s.events y USING (n) WHERE y.actor.age > 0") == [
            {"n": 1, "actor": {"login": "b", "age": 3}}
        ]


def test_a_query_sees_the_snapshot_it_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(3))
    attach = Declared.attach

    def commit_in_between(table: Declared, connection: object, plan: ScanPlan) -> object:
        land(lake, event_rows(1, lake.progress(EVENTS)["p0"] + 10))
        return attach(table, connection, plan)  # type: ignore[arg-type]

    monkeypatch.setattr(Declared, "attach", commit_in_between)
    with Sql(lake.config) as sql:
        text = "SELECT (SELECT count(*) FROM s.events) AS a, (SELECT count(*) FROM s.events) AS b"
        assert rows(sql, text) == [{"a": 3, "b": 3}]
        assert rows(sql, text) == [{"a": 4, "b": 4}]


def test_a_snapshot_that_expires_before_it_is_planned_is_pinned_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = make_lake(tmp_path, snapshots_kept=2)
    land(lake, event_rows(3))
    plan = Declared.plan
    planned: list[Declared] = []

    def expire_before(table: Declared, needed: Predicate) -> ScanPlan:
        planned.append(table)
        if len(planned) == 1:
            land(lake, event_rows(1, 10))
            lake.expire(EVENTS, Retention(1, 0, 0))
        return plan(table, needed)

    monkeypatch.setattr(Declared, "plan", expire_before)
    with Sql(lake.config) as sql:
        assert rows(sql, "SELECT count(*) AS c FROM s.events") == [{"c": 4}]
        assert len(planned) == 2
        monkeypatch.undo()
        for manifest in (tmp_path / "data").rglob("*.avro"):
            manifest.unlink()
        with pytest.raises(QueryFailed, match=r"s\.events cannot be read: .*\.avro"):
            sql.query("SELECT count(*) AS c FROM s.events", 60)


def test_a_directory_with_glob_characters_is_read(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "a[b]*c'd")
    land(lake, event_rows(3))
    with Sql(lake.config) as sql:
        assert rows(sql, "SELECT sum(n)::int AS s FROM s.events WHERE n > 0") == [{"s": 3}]


def test_explain_and_describe_and_summarize_answer(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(3))
    with Sql(lake.config) as sql:
        assert "n = 1" in rows(sql, "EXPLAIN SELECT * FROM s.events WHERE n = 1")[0]["explain_value"]
        described = {row["column_name"]: row["column_type"] for row in rows(sql, "DESCRIBE s.events")}
        assert described["time"] == "TIMESTAMP WITH TIME ZONE"
        assert {row["column_name"]: row["max"] for row in rows(sql, "SUMMARIZE s.events")}["n"] == "2"


@pytest.mark.parametrize(
    "text",
    [
        "SELECT count(*) FROM range(1000000000000)",
        "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range * b.range = 7",
        "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r",
    ],
)
def test_a_query_without_end_is_stopped(tmp_path: Path, text: str) -> None:
    with Sql(make_config(tmp_path)) as sql, pytest.raises(QueryFailed, match=r"time limit of 0\.5 s"):
        sql.query(text, timeout_s=0.5)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT list(range) FROM range(1000000000)",
        "SELECT string_agg(range::varchar, ',') FROM range(1000000000)",
        "SELECT count(*) FROM (SELECT DISTINCT range, hash(range) FROM range(100000000))",
    ],
)
def test_a_query_beyond_its_memory_fails(tmp_path: Path, text: str) -> None:
    limits = Limits(64 * MIB, temp_bytes_max=64 * MIB)
    with Sql(make_config(tmp_path), limits=limits) as sql, pytest.raises(QueryFailed, match="64 MiB of memory"):
        sql.query(text, timeout_s=120)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT * FROM generate_series(1, 1000000000000)", "more than 1000 rows"),
        ("SELECT repeat('x', 100000) FROM range(900)", "more than 1 MiB"),
    ],
)
def test_a_result_beyond_its_size_fails(tmp_path: Path, text: str, message: str) -> None:
    limits = Limits(256 * MIB, rows_max=1000, bytes_max=MIB)
    with Sql(make_config(tmp_path), limits=limits) as sql, pytest.raises(QueryFailed, match=message):
        sql.query(text, timeout_s=60)


def test_data_that_does_not_fit_a_cast_fails_the_query(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(3))
    with Sql(lake.config) as sql, pytest.raises(QueryFailed, match="Could not convert string 'user-0'"):
        sql.query("SELECT user::int FROM s.events", 60)


def test_no_query_leaves_anything_behind(tmp_path: Path) -> None:
    with Sql(make_config(tmp_path), temp_dir=tmp_path / "temp", limits=Limits(64 * MIB)) as sql:
        with pytest.raises(QueryFailed):
            sql.query("SELECT range FROM range(100000000) ORDER BY hash(range)", timeout_s=0.5)
        assert rows(sql, "SELECT 1 AS a") == [{"a": 1}]
    assert list((tmp_path / "temp").iterdir()) == []
