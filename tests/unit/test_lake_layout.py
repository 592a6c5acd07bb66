"""Tables as configured: layouts are checked before anything starts, and tables follow the configuration."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.table_layout import check_layout
from tests.lake_tables import EVENTS, SCHEMA, TIME, event_rows, make_config, make_lake, make_stream

WIDE = pa.schema(
    [
        *SCHEMA,
        pa.field("day", pa.date32()),
        pa.field("at", pa.time64("us")),
        pa.field("price", pa.float64()),
        pa.field("id.orig_h", pa.string()),
        pa.field("actor", pa.struct([pa.field("login", pa.string())])),
    ]
)


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("partition_by", "at", "at is time64.*; expected a string, integer, decimal"),
        ("partition_by", "day(user)", "user is string; expected a timestamp or a date"),
        ("partition_by", "day(n)", r"day\(_ingested_at\)"),
        ("partition_by", "hour(day)", "expected a timestamp"),
        ("partition_by", "week(time)", "unknown transform 'week'"),
        ("partition_by", "bucket(user)", r"bucket\(n, column\)"),
        ("partition_by", "bucket(0, user)", "whole number"),
        ("partition_by", "bucket(4, price)", "price is double"),
        ("partition_by", "truncate(4, price)", "a string or an integer"),
        ("partition_by", "price", "price is double"),
        ("partition_by", "nobody", "unknown field"),
        ("partition_by", "id.orig_h", "unknown field"),
        ("partition_by", "a b", "not a field path"),
        ("sort_by", "actor", "cannot sort by"),
        ("sort_by", "time sideways", "not a field path"),
        ("sort_by", "nobody desc", "unknown field"),
    ],
)
def test_wrong_layout_names_file_and_key(key: str, text: str, says: str) -> None:
    stream = make_stream(WIDE, lake={key: ["time", text]})
    with pytest.raises(ConfigError, match=says) as raised:
        check_layout("eagleray.yaml: streams.s.lake", stream)
    assert raised.value.where == f"eagleray.yaml: streams.s.lake.{key}"


def test_partition_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="time_day is named twice"):
        check_layout("f: streams.s.lake", make_stream(lake={"partition_by": ["day(time)", "day( time )"]}))


def test_every_transform_and_order_becomes_the_tables_own(tmp_path: Path) -> None:
    partitions = ["day(time)", "month(day)", 'bucket(16, "id.orig_h")', "truncate(3, actor.login)", "user"]
    stream = make_stream(WIDE, lake={"partition_by": partitions, "sort_by": ["time DESC", '"id.orig_h"']})
    table = make_lake(tmp_path, stream).load(EVENTS)
    assert [(f.name, str(f.transform)) for f in table.spec().fields] == [
        ("time_day", "day"),
        ("day_month", "month"),
        ("id_orig_h_bucket_16", "bucket[16]"),
        ("actor_login_truncate_3", "truncate[3]"),
        ("user", "identity"),
    ]
    order = [(table.schema().find_column_name(f.source_id), f.direction.value) for f in table.sort_order().fields]
    assert order == [("time", "desc"), ("id.orig_h", "asc")]


def test_tables_of_a_stream_and_their_columns(tmp_path: Path) -> None:
    aggregate = {"c": "count()", "total": "sum(n)"}
    stream = make_stream(windows={"by_user": {"tumble": "1m", "group_by": ["user"], "aggregate": aggregate}})
    lake = make_lake(tmp_path, stream)
    assert lake.tables() == ["s.by_user", "s.dead_letters", "s.events", "s.late"]
    columns = {name: lake.load(name).schema().column_names for name in lake.tables()}
    assert columns["s.by_user"] == ["window_start", "window_end", "user", "c", "total"]
    assert columns["s.events"][3:] == ["_ingested_at", "_source", "_partition", "_offset", "_row", "_extra"]
    assert columns["s.dead_letters"][:4] == ["original", "reason", "detail", "_ingested_at"]
    assert columns["s.late"][:2] == ["window", "window_start"]


def test_traps_are_off_from_the_first_snapshot(tmp_path: Path) -> None:
    table = make_lake(tmp_path).load(EVENTS)
    assert table.metadata.format_version == 2
    assert table.properties["commit.retry.num-retries"] == "0"
    assert table.properties["commit.manifest-merge.enabled"] == "true"
    assert table.properties["write.metadata.delete-after-commit.enabled"] == "true"
    assert table.properties["write.update.isolation-level"] == "snapshot"


def test_starting_again_changes_nothing(tmp_path: Path) -> None:
    stream = make_stream(lake={"partition_by": ["day(time)"], "sort_by": ["time"]})
    before = {name: make_lake(tmp_path, stream).load(name).metadata_location for name in ("s.events", "s.late")}
    after = {name: make_lake(tmp_path, stream).load(name).metadata_location for name in ("s.events", "s.late")}
    assert before == after


def test_new_optional_column_is_null_in_old_rows(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(1)), {"p0": 0}, {"p0": 1})
    wider = make_stream(pa.schema([*SCHEMA, pa.field("tags", pa.list_(pa.string()))]))
    lake = make_lake(tmp_path, wider)
    rows = event_rows(1, 1, tags=[["a", "b"]])
    lake.commit(EVENTS, lake.write(EVENTS, rows), {"p0": 1}, {"p0": 2})
    assert sorted(lake.read(EVENTS)["tags"].to_pylist(), key=str) == [None, ["a", "b"]]


def test_column_that_left_the_schema_stays_and_is_null(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(1)), {"p0": 0}, {"p0": 1})
    lake = make_lake(tmp_path, make_stream(pa.schema([SCHEMA.field("time"), SCHEMA.field("n")])))
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(1, 1).drop_columns("user")), {"p0": 1}, {"p0": 2})
    assert sorted(lake.read(EVENTS)["user"].to_pylist(), key=str) == [None, "user-0"]


def test_column_whose_type_cannot_change_so_is_named(tmp_path: Path) -> None:
    make_lake(tmp_path)
    changed = make_stream(pa.schema([pa.field("time", TIME), pa.field("n", pa.string())]))
    with pytest.raises(ConfigError, match=r"streams\.s\.schema: s\.json: table s\.events: column n is long"):
        make_lake(tmp_path, changed)


def test_changed_partitioning_holds_for_new_files(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, make_stream(lake={"partition_by": ["day(time)"]}))
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(2)), {"p0": 0}, {"p0": 2})
    lake = make_lake(tmp_path, make_stream(lake={"partition_by": ["user"], "sort_by": ["n"]}))
    assert [field.name for field in lake.load(EVENTS).spec().fields] == ["user"]
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(2, 2)), {"p0": 2}, {"p0": 4})
    assert sorted(lake.read(EVENTS)["n"].to_pylist()) == [0, 1, 2, 3]
    for user in (1, 3):  # in an old file, in a new one
        assert len(list(lake.load(EVENTS).scan(row_filter=f"user == 'user-{user}'").plan_files())) == 1


def test_unknown_catalog_is_a_configuration_error(tmp_path: Path) -> None:
    config = make_config(tmp_path, catalog={"type": "carrier-pigeon"})
    with pytest.raises(ConfigError, match=r"lake\.catalog"):
        Lake.open(config)
