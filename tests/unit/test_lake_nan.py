"""A column with NaN has no least and greatest value, so nobody concludes from them that there is no NaN."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eagleray.cluster.lake import nan_columns
from eagleray.cluster.lake.compaction import compact
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.predicate import Compare
from eagleray.sql import tables
from eagleray.sql.query import Sql
from tests.lake_tables import EVENTS, SCHEMA, event_rows, make_lake, make_stream
from tests.published import OUTPUT, make_job, open_lake, run
from tests.sql_lake import land, rows

NAN = math.nan
WITH_F = pa.schema([*SCHEMA, pa.field("f", pa.float64()), pa.field("in", pa.struct([pa.field("g", pa.float32())]))])
QUESTIONS = {
    "NOT isnan(f)": 2,
    "isnan(f)": 1,
    "f <= 2": 2,
    "f < 2": 1,
    "f > 2": 1,
    "f >= 7": 1,
    "f != 1": 2,
    "f = 2": 1,
    "f > 2 AND n >= 0": 1,
    "f = 'nan'::DOUBLE": 1,
    "f IN (1, 2)": 2,
    "CASE WHEN isnan(f) THEN true ELSE false END": 1,
    '"in".g > 1': 2,
    'isnan("in".g)': 1,
}


def float_rows(values: list[float | None], first: int = 0) -> pa.Table:
    inner = pa.array([{"g": value} for value in values], WITH_F.field("in").type)
    return event_rows(len(values), first, **{"f": pa.array(values, pa.float64()), "in": inner})


def answers(lake: Lake) -> dict[str, int]:
    with Sql(lake.config) as sql:
        return {q: rows(sql, f"SELECT count(*) AS c FROM {EVENTS} WHERE {q}")[0]["c"] for q in QUESTIONS}


@pytest.mark.parametrize("split", [True, False])
def test_a_query_finds_every_nan_and_no_other(tmp_path: Path, split: bool) -> None:
    lake = make_lake(tmp_path, make_stream(WITH_F))
    values = [1.0, NAN, 2.0, None]
    for at, part in enumerate([[value] for value in values] if split else [values]):
        land(lake, float_rows(part, at))
    assert answers(lake) == QUESTIONS


def test_files_from_before_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eagleray.cluster.lake.parquet_files.float_columns", lambda schema: ())  # as they were written
    lake = make_lake(tmp_path, make_stream(WITH_F))
    land(lake, float_rows([1.0, NAN, 2.0, None]))
    monkeypatch.undo()
    (file,) = lake.pin(EVENTS).plan().data_files
    assert not file.nan_value_counts and max_of(file.file_path, "f") == 2.0
    assert answers(lake) == QUESTIONS
    compact(lake, EVENTS, 1 << 30, 1)


def test_rows_that_arrow_reads_are_filtered_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_lake(tmp_path, make_stream(WITH_F))
    land(lake, float_rows([1.0, NAN, 2.0, None]))
    monkeypatch.setattr(tables, "readable", lambda plan: False)
    assert answers(lake) == QUESTIONS


def max_of(path: str, column: str) -> Any:
    group = pq.ParquetFile(path.removeprefix("file://")).metadata.row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    return chunk.statistics.max if chunk.statistics is not None and chunk.statistics.has_min_max else None


@pytest.mark.parametrize("writer", ["stream", "job", "compaction"])
def test_no_writer_gives_bounds_to_a_column_with_nan(tmp_path: Path, writer: str) -> None:
    if writer == "job":
        lake, table = open_lake(tmp_path), OUTPUT
        run(lake, make_job("full"), float_rows([1.0, NAN, None]).select(["f", "in", "n"]))
        run(lake, make_job("append"), float_rows([1.0, 3.0]).select(["f", "in", "n"]), "r2")
    else:
        lake, table = make_lake(tmp_path, make_stream(WITH_F)), EVENTS
        land(lake, float_rows([1.0, NAN, None]), float_rows([1.0, 3.0], 3))
        if writer == "compaction":
            compact(lake, table, 1 << 30, 1)
    schema = lake.load(table).schema()
    f, g = schema.find_field("f").field_id, schema.find_field("in.g").field_id
    for file in lake.pin(table).plan().data_files:
        nan = file.nan_value_counts[f]
        for number, path in ((f, "f"), (g, "in.g")):
            assert (max_of(file.file_path, path) is not None) == (not nan)
            assert number not in file.upper_bounds if nan or path == "in.g" else number in file.upper_bounds
            assert file.nan_value_counts[number] == nan and file.value_counts[number] == file.record_count
            assert file.null_value_counts[number] == (1 if nan else 0)
    assert sum(file.nan_value_counts[f] for file in lake.pin(table).plan().data_files) == 1


def test_files_without_nan_are_left_out_by_their_bounds(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, make_stream(WITH_F))
    land(lake, float_rows([1.0, 2.0]), float_rows([3.0], 2), float_rows([NAN, 1.0], 3))
    assert len(lake.pin(EVENTS).plan(Compare("f", ">", 2.5)).files) == 2
    assert len(lake.pin(EVENTS).plan(Compare("f", "<", 0.5)).files) == 1  # no bounds: it may hold anything


def test_nan_in_the_middle_cuts_one_file_short_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eagleray.cluster.lake.parquet_files.ROW_GROUP_ROWS", 2)
    lake = make_lake(tmp_path, make_stream(WITH_F))
    values = [1.0, 2.0, 3.0, NAN, 4.0, 5.0, NAN, NAN, 6.0]
    land(lake, float_rows(values))
    files = lake.pin(EVENTS).plan().data_files
    assert sorted(file.record_count for file in files) == [2, 7]
    compact(lake, EVENTS, 1 << 30, 1)
    read = lake.read(EVENTS, ["n", "f"]).sort_by("n")["f"].to_pylist()
    assert [str(value) for value in read] == [str(value) for value in values]


def test_lists_and_maps_have_their_path_in_the_file() -> None:
    schema = pa.schema(
        [
            ("l", pa.list_(pa.struct([("x", pa.float64())]))),
            ("m", pa.map_(pa.string(), pa.float32())),
            ("s", pa.struct([("f", pa.float64())])),
        ]
    )
    found = {column.path: column.names for column in nan_columns.float_columns(schema)}
    assert found == {"l.list.element.x": None, "m.key_value.value": None, "s.f": ("s", "f")}
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    assert found.keys() <= {parquet.column(index).path for index in range(len(parquet))}
