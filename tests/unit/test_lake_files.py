"""Data files: what is written is read back, pruned, sorted and sized, whatever names and shapes the columns have."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.transforms import parse_transform
from pyiceberg.types import DateType, LongType, NestedField, StringType, TimestamptzType

from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.partitioning import split
from eagleray.cluster.lake.predicate import Compare, In
from eagleray.cluster.lake.replace import Change
from eagleray.cluster.windowing.page import Range, values
from tests.lake_tables import EVENTS, NOON_US, SCHEMA, TIME, event_rows, make_config, make_lake, make_stream

DAY_US = 86_400_000_000


def land(lake: Lake, rows: pa.Table) -> list[DataFile]:
    files = lake.write(EVENTS, rows)
    at = lake.progress(EVENTS).get("p0", 0)
    lake.commit(EVENTS, files, {"p0": at}, {"p0": at + 1})
    return files


def test_every_type_and_odd_name_comes_back(tmp_path: Path) -> None:
    point = pa.struct([pa.field("x", pa.int64()), pa.field("odd.name", pa.list_(pa.string()))])
    columns = {
        "id.orig_h": ["10.0.0.1", None, ""],
        "1st": [1.5, None, -0.0],
        "on": [True, False, None],
        "day": pa.array([0, None, -1], pa.int32()).cast(pa.date32()),
        "größe": [1, 2, None],
        "points": pa.array([[{"x": 1, "odd.name": ["a", None]}], None, []], pa.list_(point)),
        "actor": pa.array([{"x": None, "odd.name": None}, None, {"x": 3, "odd.name": []}], point),
    }
    table = pa.table(columns)
    lake = make_lake(tmp_path, make_stream(pa.schema([*SCHEMA, *table.schema])))
    files = land(lake, event_rows(3, **columns))
    stored = pq.read_table(files[0].file_path).rename_columns(
        [field.name for field in lake.load(EVENTS).schema().fields]
    )
    points = [[{"x": 1, "odd_x2Ename": ["a", None]}], None, []]
    assert stored["points"].to_pylist() == points  # of such a list, pyiceberg's own reader makes [] where it is null
    flat = [name for name in table.column_names if name != "points"]
    assert lake.read(EVENTS).sort_by("n").select(flat).to_pylist() == table.select(flat).to_pylist()
    assert lake.read(EVENTS, ["id.orig_h"]).column_names == ["id.orig_h"]


def test_sliced_and_chunked_nested_rows_come_back(tmp_path: Path) -> None:
    lists = pa.array([[i, i + 1] if i % 3 else None for i in range(10)])
    schema = pa.schema([*SCHEMA, pa.field("pair", pa.list_(pa.int64()))])
    lake = make_lake(tmp_path, make_stream(schema))
    rows = event_rows(10, pair=lists)
    land(lake, pa.concat_tables([rows.slice(4, 3), rows.slice(0, 4)]))
    land(lake, rows.slice(7))
    assert lake.read(EVENTS).sort_by("n")["pair"].to_pylist() == lists.to_pylist()


def test_ingestion_time_may_come_as_microseconds(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(1, _ingested_at=[NOON_US]))
    assert lake.read(EVENTS)["_ingested_at"].cast(pa.int64()).to_pylist() == [NOON_US]


def test_columns_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    with pytest.raises(ValueError, match="no column"):
        lake.write(EVENTS, event_rows(1, colour=["red"]))
    with pytest.raises(ValueError, match="requires the column '_source'"):
        lake.write(EVENTS, event_rows(1).drop_columns("_source"))
    assert lake.write(EVENTS, event_rows(0)) == []


def test_one_sorted_file_for_each_partition_of_the_table(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, make_stream(lake={"partition_by": ["day(time)"], "sort_by": ["user", "time desc"]}))
    times = pa.array([NOON_US + (i * 7 % 3) * DAY_US + i for i in range(60)], TIME)
    files = land(lake, event_rows(60, time=times))
    assert len(files) == 3
    for file in files:
        rows = pq.read_table(file.file_path, partitioning=None).to_pylist()
        assert len({row["time"].date() for row in rows}) == 1
        keys = [(row["user"], -row["time"].timestamp()) for row in rows]
        assert keys == sorted(keys)


def test_scan_reads_only_files_that_can_match(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, make_stream(lake={"partition_by": ["day(time)"]}))
    for day in range(4):
        land(lake, event_rows(5, 5 * day, time=pa.array([NOON_US + day * DAY_US] * 5, TIME)))

    def planned(row_filter: str) -> int:
        return len(list(lake.load(EVENTS).scan(row_filter=row_filter).plan_files()))

    assert planned("time >= '2015-09-13T00:00:00+00:00' and time < '2015-09-14T00:00:00+00:00'") == 1
    assert planned("n >= 7 and n < 12") == 2  # by column statistics
    assert planned("n > 100") == 0
    assert planned("user is null") == 0


def test_files_grow_to_the_limit_and_no_further(tmp_path: Path) -> None:
    limit = 64 << 10
    lake = make_lake(tmp_path, make_stream(), file_bytes_max=limit)
    noise = np.random.default_rng(7).integers(0, 1 << 62, 40_000)
    files = land(lake, event_rows(40_000, user=[f"{number:x}" for number in noise]))
    assert len(files) > 3
    assert all(file.file_size_in_bytes <= 2 * limit for file in files)
    assert all(file.file_size_in_bytes >= limit for file in files[:-1])
    assert lake.read(EVENTS, ["n"]).num_rows == 40_000


def test_field_value_too_long_for_a_path_is_written(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, make_stream(lake={"partition_by": ["user"]}))
    users = ["x" * 5000, "../../etc", "a/b\0c", "", None, "y" * 5000]
    land(lake, event_rows(6, user=users))
    assert lake.read(EVENTS).sort_by("n")["user"].to_pylist() == users
    outside = [path for path in tmp_path.rglob("*.parquet") if not path.is_relative_to(tmp_path / "data/lake/s/events")]
    assert outside == []


def test_file_names_tell_their_writer(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    first, second = (Path(lake.write(EVENTS, event_rows(1))[0].file_path) for _ in range(2))
    other = Path(Lake.open(lake.config).write(EVENTS, event_rows(1))[0].file_path)
    assert first.name.split("-")[0] == second.name.split("-")[0] != other.name.split("-")[0]
    assert first.parent == tmp_path / "data/lake/s/events/data"


FIELDS = {
    "t": (1, TimestamptzType(), TIME, st.integers(-(2**52), 2**52)),
    "d": (2, DateType(), pa.date32(), st.integers(-30_000, 30_000)),
    "s": (3, StringType(), pa.string(), st.text(max_size=6)),
    "n": (4, LongType(), pa.int64(), st.integers(-(2**62), 2**62)),
}
TRANSFORMS = [
    *(("t", name) for name in ("year", "month", "day", "hour", "identity", "bucket[5]")),
    *(("d", name) for name in ("year", "month", "day", "identity", "bucket[3]")),
    *(("s", name) for name in ("identity", "bucket[4]", "truncate[2]")),
    *(("n", name) for name in ("identity", "bucket[4]", "truncate[10]")),
]


@given(st.data())
def test_rows_are_split_as_icebergs_own_transforms_say(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(TRANSFORMS), min_size=1, max_size=2, unique=True))
    count = data.draw(st.integers(1, 12))
    values = {name: data.draw(st.lists(st.none() | f[3], min_size=count, max_size=count)) for name, f in FIELDS.items()}
    fields = [NestedField(f[0], name, f[1], required=False) for name, f in FIELDS.items()]
    spec = PartitionSpec(
        *(PartitionField(FIELDS[c][0], 1000 + i, parse_transform(t), f"p{i}") for i, (c, t) in enumerate(chosen))
    )
    plain = pa.table({**{n: pa.array(v, _number(n)) for n, v in values.items()}, "i": range(count)})
    rows = plain.cast(pa.schema([*(pa.field(name, f[2]) for name, f in FIELDS.items()), pa.field("i", pa.int64())]))
    found = {
        row: tuple(part.key[at] for at in range(len(chosen)))
        for part in split(rows, Schema(*fields), spec, UNSORTED_SORT_ORDER)
        for row in part.rows["i"].to_pylist()
    }
    for row in range(count):
        for field, (column, _), value in zip(spec.fields, chosen, found[row], strict=True):
            assert value == field.transform.transform(FIELDS[column][1])(values[column][row])
    assert len(found) == count


def _number(name: str) -> pa.DataType:
    return pa.int32() if name == "d" else pa.string() if name == "s" else pa.int64()


@pytest.mark.parametrize(("kind", "bits"), [(pa.int32(), 31), (pa.int64(), 63)])
def test_the_least_number_has_a_truncated_partition(tmp_path: Path, kind: pa.DataType, bits: int) -> None:
    lake, least = Lake.open(make_config(tmp_path)), -(2**bits)
    numbers = [least, least + 7, least + 1_000, -1, 0, 2**bits - 1, None]
    rows = pa.table({"k": pa.array(numbers, kind)})
    lake.ensure_output("r.t", rows.schema, ["truncate(10, k)"])
    lake.replace("r.t", Change(added=lake.write("r.t", rows)))
    pinned = lake.pin("r.t")
    for number in numbers[:-1]:
        for sign, holds in (
            ("=", int.__eq__),
            ("<=", int.__le__),
            ("<", int.__lt__),
            (">=", int.__ge__),
            (">", int.__gt__),
        ):
            plan = pinned.plan(Compare("k", sign, number))
            there = (
                {value for batch in plan.batches(["k"]) for value in batch["k"].to_pylist()} if plan.files else set()
            )
            assert {one for one in numbers if one is not None and holds(one, number)} <= there
        plan = pinned.plan(In("k", (number, 5)))
        assert number in {value for batch in plan.batches(["k"]) for value in batch["k"].to_pylist()}


def test_window_rows_are_those_that_start_within(tmp_path: Path) -> None:
    window = {"tumble": "1m", "group_by": ["user", "day"], "aggregate": {"c": "count()"}}
    lake = make_lake(tmp_path, make_stream(pa.schema([*SCHEMA, pa.field("day", pa.date32())]), windows={"w": window}))
    starts = pa.array([NOON_US + i * 60_000_000 for i in (2, 0, 1)], TIME)
    rows = pa.table({"window_start": starts, "window_end": starts, "user": ["b", None, "a"], "c": [3, 1, 2]})
    rows = rows.append_column("day", pa.array([None, None, datetime.date(2015, 9, 12)], pa.date32()))
    lake.commit("s.w", lake.write("s.w", rows), {"closed": -(2**62)}, {"closed": NOON_US})
    keys = ["window_start", "window_end", "user", "day"]
    found = values(lake.window_rows("s.w", keys, Range(NOON_US, NOON_US + 120_000_000, None, 10)))
    assert [(row["window_start"], row["user"], row["day"], row["c"]) for row in found] == [
        ("2015-09-12T12:00:00Z", None, None, 1),
        ("2015-09-12T12:01:00Z", "a", "2015-09-12", 2),
    ]
    assert lake.window_rows("s.w", keys, Range(None, None, None, 10)).num_rows == 3


def test_dates_stay_dates(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, make_stream(pa.schema([*SCHEMA, pa.field("day", pa.date32())])))
    land(lake, event_rows(1, day=[datetime.date(1969, 12, 31)]))
    assert lake.read(EVENTS)["day"].to_pylist() == [datetime.date(1969, 12, 31)]
