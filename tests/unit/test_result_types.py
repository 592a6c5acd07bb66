"""A column's type comes from a declaration, the table, or every part of a result: never from one without rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from eagleray.cluster.errors import ConfigError, JobFailed, QueryRejected
from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.engines.function_call import declared_as
from eagleray.jobs.engines.results import as_reader
from eagleray.jobs.engines.table_types import shaped
from eagleray.jobs.model import Job
from eagleray.jobs.period import daily
from eagleray.jobs.project.load import load_project
from eagleray.jobs.publish.publish import publish
from eagleray.jobs.publish.run_mark import RunMark
from tests.jobs_project import function_job, make_project, produce, sql_file, sql_job
from tests.lake_tables import make_lake
from tests.published import DAY, OUTPUT, make_job, open_lake
from tests.published import run as publish_rows


class Blocks:
    """Stands for ray.data.Dataset, by name; tests/unit/test_engine_ray.py has the real one."""

    def __init__(self, *blocks: pa.Table, names: tuple[str, ...] = ()) -> None:
        self.blocks, self.names = blocks, names

    def iter_batches(self, **_: Any) -> Any:
        return iter(self.blocks)

    def schema(self) -> Any:
        return self if self.names else None


Blocks.__name__, Blocks.__module__ = "Dataset", "ray.data"


def publish_function(lake: Lake, result: Any, day: int, **settings: Any) -> Any:
    """Publish what a function has returned, as a run for a day."""

    def made() -> Any: ...

    output = settings.pop("output", "reports.a")
    job: Job = replace(function_job(made, **{"mode": "append", **settings}), output=output)
    reader = as_reader(result)
    if job.columns:
        reader = declared_as(reader, job.columns)
    return publish(lake, job, daily(date(2015, 9, day)), reader, RunMark(f"r{day}", "a", "", 1, {}), {})


def table_of(lake: Lake, name: str = "reports.a") -> dict[str, list[Any]]:
    table = lake.read(name)
    if "_run_number" in table.column_names:
        table = table.sort_by("_run_number")
    return {n: table[n].to_pylist() for n in table.column_names if not n.startswith("_")}


def test_a_later_block_may_have_more_columns_and_wider_types() -> None:
    blocks = [pa.table({"a": [number]}) for number in range(20)]
    blocks += [pa.table({"a": [0.5], "b": ["x"]}), pa.table({"b": pa.array([], pa.int8())})]
    read = as_reader(Blocks(*blocks)).read_all()
    assert read.schema == pa.schema([("a", pa.float64()), ("b", pa.string())])
    assert read["a"].to_pylist() == [*range(20), 0.5] and read["b"].to_pylist() == [None] * 20 + ["x"]
    with pytest.raises(TypeError, match=r"parts of the result differ: .*Field a"):
        as_reader(Blocks(pa.table({"a": [1]}), pa.table({"a": ["x"]})))


@pytest.mark.parametrize(
    "empty",
    [
        Blocks(),
        Blocks(pa.table({"n": pa.array([], pa.float64())}), names=("n",)),
        pd.DataFrame({"n": []}),
        pd.DataFrame({"n": [], "x": []}).groupby("n").sum(),
    ],
)
def test_an_empty_first_day_fixes_nothing(tmp_path: Path, empty: Any) -> None:
    lake = open_lake(tmp_path)
    assert publish_function(lake, empty, 1).rows == 0
    assert lake.tables() == []
    publish_function(lake, pd.DataFrame({"n": [1], "x": ["a"]}), 2)
    publish_function(lake, empty, 3)
    assert table_of(lake) == {"n": [1], "x": ["a"]}
    assert lake.pin("reports.a").schema.field("n").type == pa.int64()


def test_a_column_without_values_gets_its_type_from_the_first(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    publish_function(lake, pd.DataFrame({"n": [1], "x": [None]}), 1)
    publish_function(lake, pd.DataFrame({"n": [2], "x": ["a"]}), 2)
    publish_function(lake, pd.DataFrame({"n": [3], "x": [None]}), 3)
    assert table_of(lake) == {"n": [1, 2, 3], "x": [None, "a", None]}


@pytest.mark.parametrize(
    "nothing",
    [[float("nan")], [None], [pd.NaT], [pd.NA], pd.Categorical([None]), pd.array([pd.NaT], "datetime64[ns]")],
)
def test_what_pandas_guesses_of_nothing_is_no_type(tmp_path: Path, nothing: Any) -> None:
    lake = open_lake(tmp_path)
    for value, kind in (("a", pa.string()), (7, pa.int64())):
        output = f"reports.{type(value).__name__}"
        for day, x in enumerate((nothing, [value], nothing), start=1):
            publish_function(lake, pd.DataFrame({"n": [day], "x": x}), day, output=output)
        assert table_of(lake, output) == {"n": [1, 2, 3], "x": [None, value, None]}
        assert lake.pin(output).schema.field("x").type == kind


@pytest.mark.parametrize("asked", ["Int64", "string", "Float64", "int64[pyarrow]"])
def test_a_type_of_pandas_that_was_asked_for_stays(asked: str) -> None:
    (kind,) = as_reader(pd.DataFrame({"x": pd.array([None], asked)})).schema.types
    assert kind != pa.null()
    assert as_reader(pd.DataFrame({"x": pd.Categorical([None], ["a"])})).schema.field("x").type != pa.null()


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("full", {}), ("append", {}), ("merge", {"key": ("n",)}), ("history", {"key": ("n",)}), ("incremental", {}),
        ("incremental", {"key": ("n",)}), ("overwrite_partitions", {"partition_by": ("n",)}),
        ("full", {"sort_by": ("n",)}),
    ],
)  # fmt: skip
def test_an_empty_first_day_fixes_nothing_in_any_mode(tmp_path: Path, mode: str, settings: dict[str, Any]) -> None:
    lake, empty = open_lake(tmp_path), pd.DataFrame({"n": [], "x": []})
    assert publish_function(lake, empty, 1, mode=mode, **settings).rows == 0
    assert lake.tables() == []
    publish_function(lake, pd.DataFrame({"n": [1], "x": ["a"]}), 2, mode=mode, **settings)
    publish_function(lake, empty, 3, mode=mode, **settings)
    kinds = lake.pin("reports.a").schema
    assert (kinds.field("n").type, kinds.field("x").type) == (pa.int64(), pa.string())


def test_parts_of_a_struct_are_settled_one_by_one(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    both = pa.struct([("a", pa.int64()), ("b", pa.string())])
    wider = pa.struct([("c", pa.int64()), ("b", pa.null()), ("a", pa.int64())])
    publish_function(lake, pa.table({"x": [{"a": 1, "b": None}]}), 1)  # b is not there yet
    publish_function(lake, pa.table({"x": pa.array([{"a": 2, "b": "t"}], both)}), 2)
    publish_function(lake, pa.table({"x": pa.array([{"a": 3, "c": 5}], wider)}), 3)
    rows = [(1, None, None), (2, "t", None), (3, None, 5)]
    assert table_of(lake) == {"x": [dict(zip("abc", row, strict=True)) for row in rows]}
    other_case = pa.struct([("A", pa.int64()), ("b", pa.null())])
    with pytest.raises(ConfigError, match="'A' and the table's column 'a' differ by case only"):
        publish_function(lake, pa.table({"x": pa.array([{"A": 4}], other_case)}), 4)
    deep = pa.table({"x": pa.array([[{"a": 1, "b": None}]])})
    publish_function(lake, deep, 5, output="reports.deep")
    publish_function(lake, pa.table({"x": pa.array([[{"a": 2, "b": "t"}]])}), 6, output="reports.deep")
    assert table_of(lake, "reports.deep") == {"x": [[{"a": 1, "b": None}], [{"a": 2, "b": "t"}]]}


def test_blocks_without_values_have_no_say(tmp_path: Path) -> None:
    hollow = pa.table({"x": pa.array([None], pa.float64()), "n": pa.array([None], pa.float64())})
    read = as_reader(Blocks(hollow, pa.table({"x": ["a"], "n": [2**53 + 1]}), hollow)).read_all()
    assert read.to_pydict() == {"x": [None, "a", None], "n": [None, 2**53 + 1, None]}
    assert read.schema.types == [pa.string(), pa.int64()]
    assert as_reader(Blocks(hollow)).schema.types == [pa.float64(), pa.float64()]
    other = pa.table({"x": pa.array([None], pa.string()), "n": [1]})
    assert as_reader(Blocks(hollow, other)).schema.types == [pa.null(), pa.int64()]


def test_numbers_of_a_function_are_of_the_tables_type(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    publish_function(lake, pd.DataFrame({"n": [1], "f": [0.5]}), 1)
    publish_function(lake, pd.DataFrame({"n": [2, None], "f": [1, 2]}), 2)
    assert table_of(lake) == {"n": [1, 2, None], "f": [0.5, 1.0, 2.0]}
    with pytest.raises(QueryRejected, match="the column n: "):
        publish_function(lake, pd.DataFrame({"n": [0.5], "f": [1]}), 3)


def test_a_statement_may_leave_a_type_open(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    made = produce(lake.config, sql_job("SELECT NULL AS x, 1 AS n"), tmp_path)
    assert made.schema == pa.schema([("x", pa.null()), ("n", pa.int32())])
    out = open_lake(tmp_path / "out")
    publish_rows(out, make_job("full"), made)
    publish_rows(out, make_job("full"), pa.table({"x": ["a"], "n": [2]}), "r2")
    publish_rows(out, make_job("full"), made, "r3")
    assert table_of(out, OUTPUT) == {"n": [1], "x": [None]}


def test_columns_that_must_be_there_need_a_type(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    with pytest.raises(ConfigError, match="the column k has no value yet, and so no type; cast it, or declare it"):
        publish_rows(lake, make_job("merge", key=("k",)), pa.table({"k": pa.nulls(1), "n": [1]}))
    with pytest.raises(ConfigError, match=r"the column l is list<.*>, of no known type"):
        publish_rows(lake, make_job("full"), pa.table({"l": pa.array([[]], pa.list_(pa.null()))}))


DECLARED = (("n", "BIGINT"), ("at", "TIMESTAMPTZ"), ("price", "DECIMAL(12, 2)"))


def test_declared_columns_hold_from_the_first_day(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    publish_function(lake, Blocks(), 1, columns=DECLARED)
    expected = [("n", pa.int64()), ("at", pa.timestamp("us", "UTC")), ("price", pa.decimal128(12, 2))]
    assert lake.pin("reports.a").schema.names[:3] == [name for name, _ in expected]
    publish_function(
        lake, pa.table({"price": [1], "at": pa.array([0], pa.timestamp("us", "UTC")), "n": [1]}), 2, columns=DECLARED
    )
    read = lake.read("reports.a", ["n", "at", "price"])
    assert [(field.name, field.type) for field in read.schema] == expected and read.num_rows == 1
    with pytest.raises(QueryRejected, match="the result has no column 'at', which `columns` declares; it has n"):
        publish_function(lake, pd.DataFrame({"n": [1]}), 3, columns=DECLARED)
    with pytest.raises(QueryRejected, match="the result has a column 'other'; expected n, at, price"):
        publish_function(lake, pa.table({"n": [1], "at": [None], "price": [None], "other": [1]}), 4, columns=DECLARED)


def test_names_of_declarations_and_layouts_are_matched_without_regard_to_case(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    declared = {"columns": (("Day", "DATE"), ("N", "BIGINT")), "partition_by": ("month(DAY)",), "sort_by": ("n DESC",)}
    publish_function(lake, pd.DataFrame({"DAY": [date(2015, 9, 1)], "n": [1]}), 1, **declared)
    publish_function(lake, pd.DataFrame({"day": [date(2015, 9, 2)], "N": [2]}), 2, **declared)
    assert table_of(lake) == {"Day": [date(2015, 9, 1), date(2015, 9, 2)], "N": [1, 2]}
    assert lake.pin("reports.a").partitions == ("Day_month",)
    job = make_job("overwrite_partitions", partition_by=("DAY",))
    publish_rows(lake, job, pa.table({"Day": [DAY.day], "n": [1]}))
    publish_rows(lake, job, pa.table({"dAY": [DAY.day], "N": [2]}), "r2")
    assert table_of(lake, OUTPUT) == {"Day": [DAY.day], "n": [2]}


def test_a_column_is_not_one_that_the_layout_names_for_being_a_part_of_its_name(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    rows = pa.table({"a": pa.nulls(1), "day": [DAY.day]})
    publish_rows(lake, make_job("overwrite_partitions", partition_by=("day",)), rows)
    assert table_of(lake, OUTPUT) == {"day": [DAY.day]}


def test_extension_types_are_what_they_mean(tmp_path: Path) -> None:
    lake, text = open_lake(tmp_path), "00000000-0000-4000-8000-0000000000ff"
    ids = pa.array([UUID(text).bytes, None], pa.uuid())
    flags = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8()))
    publish_rows(lake, make_job("full"), shaped(pa.table({"id": ids, "flag": flags}).to_reader()).read_all())
    assert table_of(lake, OUTPUT) == {"id": [text, None], "flag": [True, False]}


def periods() -> pd.DataFrame:
    return pd.DataFrame({"p": pd.period_range("2026-01", periods=2, freq="M")})


def levels() -> pd.DataFrame:
    return pd.DataFrame({"a": [1, 1], "v": [1, 2]}).groupby("a").agg({"v": ["min", "max"]})


def twice() -> pd.DataFrame:
    return pd.DataFrame([[1, 2]], columns=["a", "a"])


def mixed() -> pd.DataFrame:
    return pd.DataFrame({"n": [1], "o": ["x"]}).astype(object).assign(o=[2**70])


def objects() -> pl.DataFrame:
    return pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)})


def lazy_objects() -> pl.LazyFrame:
    return objects().lazy()


def wide() -> pl.DataFrame:
    return pl.DataFrame({"i": pl.Series([2**70], dtype=pl.Int128)})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (periods, "the column p holds periods, which no table can hold; cast it"),
        (levels, "the frame's columns have several levels; give each one name"),
        (twice, "the frame has two columns 'a'; rename one"),
        (mixed, r"the column 'o' \(object\) cannot be a table's: .*; cast it"),
        (objects, "the column 'o' holds Python objects; cast it"),
        (lazy_objects, "the column 'o' holds Python objects; cast it"),
        (wide, r"cannot be a table's \(i Int128\): .*; cast it"),
    ],
)
def test_a_frame_that_no_table_can_hold_is_refused_once_and_by_column(
    tmp_path: Path, function: Any, message: str
) -> None:
    lake = make_lake(tmp_path)
    with pytest.raises(JobFailed, match=message) as failed:
        produce(lake.config, function_job(function), tmp_path)
    assert not failed.value.retryable


def frame() -> pd.DataFrame:
    return pd.DataFrame({"n": []})


def test_a_function_with_declared_columns_runs(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    made = produce(lake.config, function_job(frame, columns=(("n", "INTEGER"),)), tmp_path)
    assert made.schema == pa.schema([("n", pa.int32())])
    with pytest.raises(JobFailed, match="which `columns` declares"):
        produce(lake.config, function_job(lambda: pa.table({"a": [1]}), columns=(("n", "INTEGER"),)), tmp_path)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("BIGINT", None),
        ("DECIMAL(12, 2)", None),
        ("VARCHAR[]", None),
        ("NOPE NOPE", "no type"),
        ("INT), (SELECT 1", "no"),
    ],
)
def test_declared_types_are_read_with_the_project(tmp_path: Path, kind: str, found: str | None) -> None:
    text = f"""
        from eagleray import job

        @job(output="reports.a", columns={{"n": {kind!r}}})
        def a(): ...
        """
    config = make_project(tmp_path, {"a.py": text})
    if found is None:
        assert load_project(config).jobs["a"].columns == (("n", kind),)
    else:
        with pytest.raises(ConfigError, match=r"columns\.n: .* is no type of SQL; expected one such as"):
            load_project(config)


def test_columns_go_with_functions(tmp_path: Path) -> None:
    text = sql_file("SELECT 1 AS n", columns="{n: BIGINT}")
    with pytest.raises(ConfigError, match="a statement says the types of its columns itself"):
        load_project(make_project(tmp_path, {"a.sql": text}))
