"""The worker: whatever a query does to its process, the caller gets an answer in time and the next query works."""

from __future__ import annotations

import json
import os
import shutil
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
from eagleray.cluster.owned_directory import OWNER
from eagleray.sql import spool as spool_module
from eagleray.sql.engine import Limits
from eagleray.sql.query import Sql
from eagleray.sql.spool import PIECE_BYTES, Answers, Spool
from eagleray.sql.worker import Form, SqlWorker
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


def whole(worker: SqlWorker, text: str, form: Form = "json") -> bytes:
    """A short answer."""
    size, first, rest = worker.query(text, 60, form)
    assert rest is None and size == len(first)
    return first


def files(config: Config) -> list[Path]:
    """What queries left on disk."""
    return [path for path in (config.data_dir / "tmp").glob("*/*") if path.name != OWNER]


def test_both_forms_hold_the_rows(worker: SqlWorker) -> None:
    text = "SELECT n, time FROM s.events WHERE n = 1"
    assert json.loads(whole(worker, text)) == {
        "columns": [{"name": "n", "type": "BIGINT"}, {"name": "time", "type": "TIMESTAMP WITH TIME ZONE"}],
        "rows": [[1, "2015-09-12T12:00:01Z"]],
    }
    assert pa.ipc.open_stream(whole(worker, text, "arrow")).read_all()["n"].to_pylist() == [1]


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_a_long_answer_is_handed_out_in_pieces_and_leaves_no_file(
    worker: SqlWorker, config: Config, form: Form
) -> None:
    text = "SELECT range AS n FROM range(300000)"
    size, first, number = worker.query(text, 60, form)
    assert number is not None and len(first) == PIECE_BYTES < size
    assert files(config) == []  # it has no name any more, so no kill leaves it behind
    got = first + worker.more(number, len(first))
    assert len(got) == 2 * PIECE_BYTES
    while len(got) < size:
        got += worker.more(number, len(got))
    assert len(got) == size
    numbers = (
        [n for (n,) in json.loads(got)["rows"]]
        if form == "json"
        else pa.ipc.open_stream(got).read_all()["n"].to_pylist()
    )
    assert numbers == list(range(300000))
    worker.drop(number)
    with pytest.raises(QueryFailed, match="ask again"):
        worker.more(number, len(first))


def test_answers_that_nobody_fetches_are_bounded_and_go(tmp_path: Path) -> None:
    ticks = [0.0]
    answers = Answers(bytes_max=2_000_000, clock=lambda: ticks[0])

    def keep() -> int:
        file = tmp_path / "answer"
        file.write_bytes(b"x" * 100)
        return answers.keep(file, 900_000)

    first, second = keep(), keep()
    with pytest.raises(Overloaded):
        keep()
    ticks[0] += 40
    assert answers.read(second, PIECE_BYTES) == b"x" * 100
    ticks[0] += 40  # the first one was not asked for in a minute
    with pytest.raises(QueryFailed):
        answers.read(first, PIECE_BYTES)
    keep()
    answers.close()
    assert list(tmp_path.iterdir()) == []


def test_an_answer_larger_than_its_limit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, bytes_max=PIECE_BYTES + 100)
    spool.write(b"x" * PIECE_BYTES)
    spool.write(b"y" * 100)
    with pytest.raises(QueryFailed, match="aggregate, or add a LIMIT"):
        spool.write(b"z")
    spool.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'x'::INT",
        "SELECT * FROM range(1000001)",
        "SELECT repeat('x', 1000) FROM range(900000)",
        "SELECT repeat('x', 4000000000)",
        "SELECT count(*) FROM range(1000000000000)",
        "SELECT * FROM s.nothing",
        "DROP TABLE s.events",
    ],
)
def test_a_statement_that_is_refused_or_fails_keeps_the_process(worker: SqlWorker, text: str) -> None:
    worker.query("SELECT 1", 60)
    before = child_of(worker)
    with pytest.raises((QueryFailed, QueryRejected)):
        worker.query(text, 0.5 if "10000000000" in text else 60)
    worker.query("SELECT 1", 60)
    assert child_of(worker) == before


def test_what_a_killed_worker_left_is_removed_at_the_next_start(config: Config) -> None:
    program = (
        "import sys, pathlib; from eagleray.sql.worker import SqlWorker; from eagleray.cluster.config import Config;"
        f"w = SqlWorker(Config(data_dir=pathlib.Path({str(config.data_dir)!r})));"
        "c = w._slots.get(); (c._temp.path / 'spilled').write_bytes(bytes(1000)); print(c._process.pid, flush=True);"
        "c._process.kill(); c._process.wait(); sys.stdin.read()"
    )
    killed = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert killed.stdin is not None and killed.stdout is not None
    killed.stdout.readline()
    spilled = (config.data_dir / "tmp").glob("sql-*/spilled")
    assert len(list(spilled)) == 1
    other = SqlWorker(config, queries_max=1)  # while its owner lives nobody touches it
    assert len(list((config.data_dir / "tmp").glob("sql-*/spilled"))) == 1
    other.close()
    killed.kill()
    killed.wait()
    killed.stdin.close()
    killed.stdout.close()
    SqlWorker(config, queries_max=1).close()
    assert list((config.data_dir / "tmp").glob("sql-*/spilled")) == []


def test_queries_spill_only_what_the_disk_has_beyond_the_logs_reserve(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(config.data_dir).free
    monkeypatch.setattr(spool_module, "DISK_KEPT_BYTES", free)
    with Sql(config, limits=Limits(64 * MIB), temp_dir=config.data_dir / "tmp") as sql:
        with pytest.raises(QueryFailed, match="0 MiB of temporary files"):
            sql.query("SELECT list(range) FROM range(1000000000)", 60)


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
        worker.query(text, 200)  # seconds, where the machine has others to serve
    assert json.loads(whole(worker, "SELECT 1 AS a"))["rows"] == [[1]]


def test_a_call_that_no_interrupt_ends_is_ended(worker: SqlWorker) -> None:
    worker.query("SELECT 1", 60)
    with pytest.raises(QueryFailed, match="time limit"):
        worker.query(ENDLESS, 0.2)
    assert json.loads(whole(worker, "SELECT 1"))["rows"] == [[1]]


def test_a_killed_process_is_replaced(worker: SqlWorker) -> None:
    worker.query("SELECT 1", 60)
    os.kill(child_of(worker), signal.SIGKILL)
    for _ in range(2):  # it may be found dead before the query, or during it
        try:
            worker.query("SELECT 1", 60)
            break
        except QueryFailed:
            continue
    assert json.loads(whole(worker, "SELECT 1"))["rows"] == [[1]]


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
    assert json.loads(whole(worker, "SELECT 1"))["rows"] == [[1]]
    worker.close()


def test_nothing_is_left_behind_by_queries_that_were_ended(worker: SqlWorker, config: Config) -> None:
    worker.query("SELECT 1", 60)
    with pytest.raises(QueryFailed):
        worker.query("SELECT range FROM range(100000000) ORDER BY hash(range)", 0.5)
    worker.query("SELECT 1", 60)
    with pytest.raises(QueryFailed):
        worker.query(ENDLESS, 0.1)
    worker.query("SELECT 1", 60)
    assert files(config) == []


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
