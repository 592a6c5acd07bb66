"""The worker: whatever a query does to its process, the caller gets an answer in time and the next query works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pyarrow as pa
import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.errors import Overloaded, QueryFailed, QueryRejected
from eagleray.sql.worker import SqlWorker
from tests.lake_tables import event_rows, make_lake
from tests.sql_lake import land

MIB = 1 << 20
ENDLESS = "SELECT md5(repeat('x', 900000000))"  # one call that no interrupt ends


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    lake = make_lake(tmp_path_factory.mktemp("lake"), query_memory_max=1536 * MIB)
    land(lake, event_rows(3))
    return lake.config


@pytest.fixture(scope="module")
def worker(config: Config) -> Iterator[SqlWorker]:
    made = SqlWorker(config, queries_max=1)
    yield made
    made.close()


def child_of(worker: SqlWorker) -> int:
    """The process id of the child that waits."""
    child = worker._slots.get()
    worker._slots.put(child)
    assert child is not None
    return child._process.pid


def test_both_forms_hold_the_rows(worker: SqlWorker) -> None:
    text = "SELECT n, time FROM s.events WHERE n = 1"
    answer = worker.query(text, 60)
    assert answer == {
        "columns": [{"name": "n", "type": "BIGINT"}, {"name": "time", "type": "TIMESTAMP WITH TIME ZONE"}],
        "rows": [[1, "2015-09-12T12:00:01Z"]],
    }
    stream = worker.query(text, 60, "arrow")
    assert isinstance(stream, bytes)
    assert pa.ipc.open_stream(stream).read_all()["n"].to_pylist() == [1]


def test_a_refusal_keeps_the_process(worker: SqlWorker) -> None:
    worker.query("SELECT 1", 60)
    before = child_of(worker)
    with pytest.raises(QueryRejected, match=r"did you mean s\.events"):
        worker.query("SELECT * FROM s.event", 60)
    assert child_of(worker) == before


@pytest.mark.parametrize(
    "text",
    [
        "SELECT repeat('x', 4000000000)",
        "SELECT printf('%2000000000d', 1)",
        "SELECT count(*) FROM (SELECT unnest(range(200000000)))",
    ],
)
def test_memory_that_duckdb_does_not_count_is_bounded_too(worker: SqlWorker, text: str) -> None:
    with pytest.raises(QueryFailed, match="memory"):
        worker.query(text, 60)
    assert worker.query("SELECT 1 AS a", 60) == {"columns": [{"name": "a", "type": "INTEGER"}], "rows": [[1]]}


def test_a_call_that_no_interrupt_ends_is_ended(worker: SqlWorker) -> None:
    worker.query("SELECT 1", 60)
    with pytest.raises(QueryFailed, match="time limit"):
        worker.query(ENDLESS, 0.2)
    assert isinstance(worker.query("SELECT 1", 60), dict)


def test_a_killed_process_is_replaced(worker: SqlWorker) -> None:
    worker.query("SELECT 1", 60)
    os.kill(child_of(worker), signal.SIGKILL)
    for _ in range(2):  # it may be found dead before the query, or during it
        try:
            worker.query("SELECT 1", 60)
            break
        except QueryFailed:
            continue
    assert isinstance(worker.query("SELECT 1", 60), dict)


def test_queries_beyond_the_slots_are_turned_away_in_time(worker: SqlWorker) -> None:
    worker.query("SELECT 1", 60)
    failures: list[Exception] = []

    def occupy() -> None:
        try:
            worker.query("SELECT count(*) FROM range(1000000000000)", 3)
        except QueryFailed as error:
            failures.append(error)

    thread = threading.Thread(target=occupy)
    thread.start()
    while not worker._slots.empty():
        sleep(0.01)
    with pytest.raises(Overloaded):
        worker.query("SELECT 1", 0.05)
    thread.join()
    assert len(failures) == 1


def test_a_process_that_still_starts_is_waited_for_and_not_blamed(config: Config) -> None:
    worker = SqlWorker(config, queries_max=1)
    with pytest.raises(Overloaded):
        worker.query("SELECT 1", 0.001)
    assert isinstance(worker.query("SELECT 1", 60), dict)
    worker.close()


def test_nothing_is_left_behind_by_queries_that_were_ended(worker: SqlWorker, config: Config) -> None:
    worker.query("SELECT 1", 60)
    with pytest.raises(QueryFailed):
        worker.query("SELECT range FROM range(100000000) ORDER BY hash(range)", 0.5)
    worker.query("SELECT 1", 60)
    with pytest.raises(QueryFailed):
        worker.query(ENDLESS, 0.1)
    worker.query("SELECT 1", 60)
    assert [path for path in (config.data_dir / "tmp").glob("*/*")] == []


def test_the_process_ends_with_its_parent(config: Config, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()  # a user's own folder of that name changes nothing
    (tmp_path / "jobs" / "__init__.py").write_text("raise SystemExit(7)")
    program = (
        "import sys, pathlib; from eagleray.sql.worker import SqlWorker; from eagleray.cluster.config import Config;"
        f"w = SqlWorker(Config(data_dir=pathlib.Path({str(config.data_dir)!r})));"
        "w.query('SELECT 1', 60); print(w._slots.queue[-1]._process.pid, flush=True);"
        "w.query('SELECT count(*) FROM range(1000000000000)', 600)"
    )
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", program],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = monotonic() + 30
    while Path(f"/proc/{child}").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
        assert monotonic() < deadline
        sleep(0.05)
