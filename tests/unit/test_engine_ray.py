"""Tables as Ray Datasets: every task reads a share of the files; rows and types are those of SQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.data

from eagleray import table
from eagleray.cluster.config import Config
from eagleray.cluster.ray_session import connect
from eagleray.jobs.dataset import Connection
from tests.jobs_project import function_job, produce
from tests.lake_tables import SCHEMA, event_rows, make_lake, make_stream
from tests.sql_lake import land

pytestmark = [
    pytest.mark.platform,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    joined = connect(Config(), None)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    joined.close()


def doubled(events: ray.data.Dataset = table("s.events", columns=["n", "new"], where="n % 2 = 0")) -> Any:
    return events.map_batches(lambda batch: {"n": batch["n"] * 2, "new": batch["new"]}, batch_size=16)


def test_a_function_maps_batches_on_the_cluster(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(50))
    lake.ensure({"s": make_stream(pa.schema([*SCHEMA, pa.field("new", pa.string())]))})
    land(lake, event_rows(50, 50, new=["x"] * 50))
    rows = produce(lake.config, function_job(doubled, engine="ray"), tmp_path).sort_by("n")
    assert rows.schema == pa.schema([("n", pa.int64()), ("new", pa.string())])
    assert rows["n"].to_pylist() == [2 * n for n in range(0, 100, 2)]
    assert rows["new"].to_pylist() == [None] * 25 + ["x"] * 25


def test_a_dataset_has_the_rows_and_types_of_sql(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    connection = Connection(lake.config)
    empty = connection.dataset("s.events", columns=["n", "time"]).ray()
    assert empty.count() == 0 and empty.schema().names == ["n", "time"]
    land(lake, event_rows(30), event_rows(30, 30))
    edits = connection.dataset("s.events", columns=["n", "time"], where="n >= 20")
    found = pa.concat_tables(ray.get(edits.ray().to_arrow_refs())).sort_by("n")
    assert found == edits.arrow().sort_by("n")
    narrower = connection.dataset("s.events", columns=["n"], where="n IN (SELECT max(n) FROM s.events)")
    assert narrower.ray().take_all() == [{"n": 59}]


DAFT_ON_RAY = """
import sys
from pathlib import Path

import daft

from eagleray.cluster.config import Config
from eagleray.cluster.ray_session import connect
from eagleray.jobs.dataset import Connection
from tests.jobs_project import produce, sql_job

directory = Path(sys.argv[1])
config = Config.model_validate({"data_dir": directory / "data"})
session = connect(config, None)
statement = "SELECT user, sum(n) AS s FROM s.events GROUP BY user ORDER BY user"
rows = produce(config, sql_job(statement, engine="daft"), directory).sort_by("user")
assert rows == produce(config, sql_job(statement), directory), rows
assert rows.num_rows == 5
assert Connection(config).dataset("s.events").daft().num_partitions() == 1  # of two files
assert daft.runners.get_or_infer_runner_type() == "ray"
session.close()
"""


def test_daft_runs_on_the_cluster(tmp_path: Path) -> None:
    pytest.importorskip("daft")
    lake = make_lake(tmp_path)
    land(lake, event_rows(30), event_rows(30, 30))
    # A process has one runner of Daft's for good, and this one may have used another before.
    command = [sys.executable, "-W", "ignore", "-c", DAFT_ON_RAY, str(tmp_path)]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=250)
    assert ran.returncode == 0, ran.stderr[-4000:]
