"""Tables for notebooks and training: any form, one snapshot, past ones too, without a platform."""

from __future__ import annotations

import gc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import eagleray
from eagleray.cluster.errors import ConfigError, QueryRejected
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.jobs.dataset import Connection
from tests.lake_tables import SCHEMA, TIME, event_rows, make_lake, make_stream
from tests.sql_lake import land


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = make_lake(tmp_path)
    land(made, event_rows(3), event_rows(2, 3))
    return made


def test_every_form_has_the_same_rows(lake: Lake) -> None:
    edits = Connection(lake.config).dataset("s.events", columns=["n", "time"], where="n >= 3")
    expected = edits.arrow()
    assert expected.schema == pa.schema([("n", pa.int64()), ("time", TIME)]) and expected["n"].to_pylist() == [3, 4]
    assert edits.batches().read_all() == expected
    frame, lazy, pandas = edits.polars(), edits.polars_lazy(), edits.pandas()
    assert isinstance(frame, pl.DataFrame) and frame["n"].to_list() == [3, 4]
    assert isinstance(lazy, pl.LazyFrame) and lazy.filter(pl.col("n") > 3).collect()["n"].to_list() == [4]
    assert isinstance(pandas, pd.DataFrame) and pandas["n"].tolist() == [3, 4]
    relation = edits.duckdb()
    assert isinstance(relation, duckdb.DuckDBPyRelation) and relation.aggregate("sum(n)").fetchall() == [(7,)]
    assert sorted(edits.daft().to_pydict()["n"]) == [3, 4]
    edits.close()


def test_a_relation_outlives_its_dataset(lake: Lake) -> None:
    relation = Connection(lake.config).dataset("s.events", columns=["n"]).duckdb().filter("n > 1")
    gc.collect()
    assert relation.aggregate("count(*)").fetchall() == [(3,)]


def test_a_dataset_stays_at_its_snapshot(lake: Lake) -> None:
    connection = Connection(lake.config)
    before = connection.dataset("s.events", columns=["n"])
    land(lake, event_rows(1, 5))
    assert before.arrow().num_rows == 5
    after = connection.dataset("s.events", columns=["n"])
    assert after.arrow().num_rows == 6
    assert connection.dataset("s.events", snapshot=before.snapshot_id).arrow().num_rows == 5
    assert after.snapshot_id == open_snapshots(lake.config).pin(["s.events"])["s.events"].snapshot_id


def test_a_table_can_be_read_as_it_was(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(3))
    first = lake.load("s.events").current_snapshot()
    assert first is not None
    sleep(0.01)
    lake.ensure({"s": make_stream(pa.schema([*SCHEMA, pa.field("new", pa.string())]))})
    land(lake, event_rows(2, 3, new=["a", "b"]))
    at = datetime.fromtimestamp(first.timestamp_ms / 1000, UTC)
    connection = Connection(lake.config)
    for snapshot in (first.snapshot_id, at, at.isoformat(), at.replace(tzinfo=None).isoformat()):
        past = connection.dataset("s.events", snapshot=snapshot)
        assert past.snapshot_id == first.snapshot_id
        assert past.arrow().num_rows == 3 and "new" not in past.arrow().column_names
    assert connection.dataset("s.events").arrow()["new"].to_pylist() == [None] * 3 + ["a", "b"]
    with pytest.raises(QueryRejected, match=r"no snapshot .*; 2 snapshots are kept, from "):
        connection.dataset("s.events", snapshot=at - timedelta(days=1))
    with pytest.raises(QueryRejected, match="snapshot: Invalid isoformat"):
        connection.dataset("s.events", snapshot="yesterday")


def test_wrong_tables_columns_and_conditions_are_refused(lake: Lake) -> None:
    connection = Connection(lake.config)
    with pytest.raises(QueryRejected, match="'events' is no table"):
        connection.dataset("events")
    with pytest.raises(QueryRejected, match=r"table s\.event does not exist; did you mean s\.events"):
        connection.dataset("s.event")
    with pytest.raises(QueryRejected, match="is not allowed"):
        connection.dataset("s.events", where="n IN (SELECT * FROM read_text('/etc/passwd'))")
    with pytest.raises(QueryRejected, match='"nope" not found'):
        connection.dataset("s.events", columns=["nope"]).arrow()


def test_the_project_is_found_as_by_the_command_line(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        eagleray.connect(tmp_path)
    (tmp_path / "eagleray.yaml").write_text("{}\n")
    for project in (tmp_path, str(tmp_path), tmp_path / "eagleray.yaml", lake.config):
        assert eagleray.connect(project).tables() == ["s.dead_letters", "s.events", "s.late"]
        assert eagleray.dataset("s.events", where="n = 1").arrow().num_rows == 1
    monkeypatch.setattr("eagleray.jobs.dataset._default", [])
    monkeypatch.chdir(tmp_path)
    assert eagleray.dataset("s.events").arrow().num_rows == 5


def test_one_column_may_stand_without_brackets(lake: Lake) -> None:
    assert Connection(lake.config).dataset("s.events", columns="n").arrow().column_names == ["n"]


def test_queries_are_answered_in_a_notebook(lake: Lake) -> None:
    project = Connection(lake.config)
    found = project.sql("SELECT n, user, '<b>' AS html FROM s.events ORDER BY n")
    assert found.columns == {"n": "BIGINT", "user": "VARCHAR", "html": "VARCHAR"} and len(found) == 5
    assert found.arrow()["n"].to_pylist() == found.pandas()["n"].tolist() == found.polars()["n"].to_list()
    text = found._repr_html_()
    assert "<td>&lt;b&gt;</td>" in text and "5 rows" in text and '<th title="BIGINT">n</th>' in text
    assert repr(found).splitlines()[0].split() == ["n", "user", "html"] and repr(found).endswith("5 rows")
    edits = project.dataset("s.events", columns=["n"], where="n > 1")
    land(lake, event_rows(2, 5))
    assert edits.sql("SELECT sum(n) AS s FROM this").arrow()["s"].to_pylist() == [9]  # of the snapshot that it has
    assert (
        edits.sql("WITH more AS (SELECT n + 1 AS m FROM this) SELECT max(m) AS m FROM more").arrow()["m"][0].as_py()
        == 5
    )
    assert "<th" in edits._repr_html_()
    wide = project.sql(f"SELECT {', '.join(f'{n} AS c{n}' for n in range(25))}, i FROM range(50) t(i)")
    assert "6 columns hidden: c20" in wide._repr_html_() and "50 rows, the first 20 shown" in wide._repr_html_()
    with pytest.raises(QueryRejected, match=r"did you mean s\.events"):
        project.sql("SELECT 1 FROM s.evnets")


def test_answers_are_plotted(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    found = Connection(lake.config).sql("SELECT time, n, n * 2 AS twice, user FROM s.events ORDER BY n")
    axes = found.plot()
    assert [line.get_label() for line in axes.get_lines()] == ["n", "twice"] and axes.get_xlabel() == "time"
    assert list(axes.get_lines()[1].get_ydata()) == [0, 2, 4, 6, 8]
    assert len(found.plot("user", "n", "bar").patches) == 5
    with pytest.raises(QueryRejected, match="no column 'tvice'; did you mean twice"):
        found.plot(y="tvice")
    with pytest.raises(QueryRejected, match="'user' is no number; numbers are n, twice"):
        found.plot(y="user")
    matplotlib.pyplot.close("all")
