"""Functions get the forms that they ask for and may return any of them; the rows are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from eagleray import Period, dataset, table
from eagleray.cluster.errors import JobFailed
from eagleray.jobs.engines.results import as_reader
from tests.jobs_project import DAY, function_job, produce
from tests.lake_tables import event_rows, make_lake
from tests.sql_lake import land

daft = pytest.importorskip("daft")
ROWS: Any = table("s.events", columns=["n", "user"], where="n >= 2 AND time >= $start")
EXPECTED = {"n": [2, 3, 4], "user": ["user-2", "user-3", "user-4"]}


def arrow(events: pa.Table = ROWS) -> pa.Table:
    return events


def batches(events: pa.RecordBatchReader = ROWS) -> pa.RecordBatchReader:
    return events


def polars(events: pl.DataFrame = ROWS) -> pl.DataFrame:
    return events.sort("n")


def polars_lazy(events: pl.LazyFrame = ROWS) -> pl.LazyFrame:
    return events.sort("n")


def pandas(events: pd.DataFrame = ROWS) -> pd.DataFrame:
    return events.sort_values("n")


def relation(events: duckdb.DuckDBPyRelation = ROWS) -> duckdb.DuckDBPyRelation:
    return events.order("n")


def daft_frame(events: daft.DataFrame = ROWS) -> Any:
    return events.sort("n")


def of_the_engine(events=ROWS) -> Any:  # type: ignore[no-untyped-def]
    return events.order("n")


@pytest.mark.parametrize("function", [arrow, batches, polars, polars_lazy, pandas, relation, daft_frame, of_the_engine])
def test_every_form_has_the_same_rows(tmp_path: Path, function: Any) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(3), event_rows(2, 3))
    rows = produce(lake.config, function_job(function), tmp_path)
    assert rows.to_pydict() == EXPECTED
    assert rows.schema == pa.schema([("n", pa.int64()), ("user", pa.string())])


def joined(one: duckdb.DuckDBPyRelation = ROWS, other: duckdb.DuckDBPyRelation = ROWS, rest: pa.Table = ROWS) -> Any:
    return one.set_alias("a").join(other.set_alias("b"), "n").aggregate(f"sum(n) + {rest.num_rows} AS s")


def test_relations_can_be_joined(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(5))
    assert produce(lake.config, function_job(joined), tmp_path).to_pylist() == [{"s": 12}]


def with_period(period: Period, events: pa.Table = ROWS) -> pa.Table:
    return pa.table({"day": [period.day], "rows": [events.num_rows]})


def test_the_period_comes_by_its_annotation(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(5))
    assert produce(lake.config, function_job(with_period), tmp_path).to_pylist() == [{"day": DAY.day, "rows": 3}]


def by_dataset() -> pa.Table:
    return dataset("s.events", columns=["n"], where="n < 2").arrow()


def test_dataset_inside_a_job_reads_the_pinned_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(1))
    from eagleray.jobs.engines import function_call as functions

    arguments = functions.arguments

    def commit_in_between(function: Any) -> Any:
        land(lake, event_rows(1, 1))
        return arguments(function)

    monkeypatch.setattr(functions, "arguments", commit_in_between)
    assert produce(lake.config, function_job(by_dataset), tmp_path)["n"].to_pylist() == [0]


def failing(events: pa.Table = ROWS) -> pa.Table:
    assert events.num_rows
    raise ZeroDivisionError("no")


def failing_later(events: pa.RecordBatchReader = ROWS) -> pa.RecordBatchReader:
    def rows() -> Any:
        yield from events
        raise ZeroDivisionError("no")

    return pa.RecordBatchReader.from_batches(events.schema, rows())


def returning_nothing(events: pa.Table = ROWS) -> None: ...


@pytest.mark.parametrize(
    ("function", "message", "after"),
    [
        (failing, "ZeroDivisionError: no", 2),
        (failing_later, "ZeroDivisionError: no", 3),
        (returning_nothing, "TypeError: the function returned NoneType; expected an Arrow table", 0),
    ],
)
def test_what_a_function_raises_has_its_line(tmp_path: Path, function: Any, message: str, after: int) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(5))
    with pytest.raises(JobFailed) as failed:
        produce(lake.config, function_job(function), tmp_path)
    assert failed.value.message.startswith(message)
    assert failed.value.retryable == (function is not returning_nothing)
    assert failed.value.file == __file__ and failed.value.line == function.__code__.co_firstlineno + after


def test_results_that_come_in_other_shapes() -> None:
    assert as_reader(pa.record_batch({"a": [1]})).read_all().to_pydict() == {"a": [1]}
    assert as_reader(pl.DataFrame({"a": [None, "x"]}).lazy()).read_all()["a"].to_pylist() == [None, "x"]
    assert as_reader(duckdb.sql("SELECT sum(range) AS s FROM range(3)")).read_all().to_pydict() == {"s": [3]}
    assert as_reader(daft.from_pydict({"a": [1, 2]})).read_all().to_pydict() == {"a": [1, 2]}
    with pytest.raises(TypeError, match="returned list; expected an Arrow table"):
        as_reader([1])


def test_a_named_index_is_a_column() -> None:
    frame = pd.DataFrame({"a": ["x", "x", "y"], "b": [1, 2, 2], "v": [1, 2, 3]})
    summed = as_reader(frame.groupby("a")[["v"]].sum()).read_all()
    assert summed.to_pydict() == {"a": ["x", "y"], "v": [3, 3]}
    assert as_reader(frame.groupby(["a", "b"]).sum()).read_all().column_names == ["a", "b", "v"]
    assert as_reader(frame.set_index("a", drop=False)).read_all().column_names == ["a", "b", "v"]
    assert as_reader(frame[frame["v"] > 1]).read_all().column_names == ["a", "b", "v"]
    with pytest.raises(TypeError, match="an index of that name with other values"):
        as_reader(frame.set_index("a", drop=False).assign(a="z"))


def test_one_column_may_stand_without_brackets(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(2))

    def users(events: pa.Table = table("s.events", columns="user")) -> pa.Table:
        return events

    assert produce(lake.config, function_job(users), tmp_path).to_pydict() == {"user": ["user-0", "user-1"]}
