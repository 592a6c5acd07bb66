"""The history of jobs: the same law in SQLite and Postgres."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Barrier, Thread

import pytest
import sqlalchemy as sa

from eagleray.cluster.clock import ManualClock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.file_lock import locked_beside
from eagleray.jobs.run import reports
from eagleray.jobs.run.history import Ended, History
from eagleray.jobs.run.history_schema import leases, meta, metadata
from eagleray.jobs.run.leases import LEASE_US
from eagleray.jobs.run.outcome import CheckFailure, Failure, Outcome
from eagleray.jobs.run.process_identity import surely_dead, this_process
from eagleray.jobs.run.run_state import Board, Capacity, Progress
from tests.lake_tables import in_thread
from tests.servers.postgres import missing, postgres_server
from tests.unit.test_run_state import make_plan

NOW_US = 1_790_000_000_000_000
HOUR_US = 3_600_000_000
PLAN = make_plan({"clean": [], "facts": ["clean"]})


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a temporary Postgres."""
    pytest.importorskip("psycopg")
    if why := missing():
        pytest.skip(why)
    with postgres_server() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgres"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Config]:
    """A configuration with an empty history."""
    url = None
    if request.param == "postgres":
        url = request.getfixturevalue("postgres")
    yield Config.model_validate({"data_dir": tmp_path, "jobs": {"history": url}})
    if url:
        engine = sa.create_engine(url.replace("postgresql", "postgresql+psycopg"))
        metadata.drop_all(engine)
        engine.dispose()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_US)


@pytest.fixture
def history(config: Config, clock: ManualClock) -> Iterator[History]:
    opened = History.open(config, clock)
    yield opened
    opened.close()


def begun(history: History) -> tuple[str, Board]:
    board = Board(PLAN.nodes, Capacity(9, 9, 1 << 40), {})
    return history.begin(PLAN, "run", list(board.rows.values())), board


def test_a_run_is_written_and_read_back(history: History, clock: ManualClock) -> None:
    run, board = begun(history)
    first = board.rows["clean@2026-05-01"]
    assert history.start(run, [first]) == {}
    board.start(first.node.key)
    clock.advance(5)
    inputs = {"s.events": {"snapshot": 2**62, "position": {"p0": 7}}}
    ending = Outcome(rows=3, bytes=2**40, files=1, snapshot_id=2**62, inputs=inputs)
    board.end(first.node.key, ending, 0)
    history.end(run, [Ended(first, ending)], [], {"t.clean"})
    (found,) = reports.newest_runs(history.engine, 5)
    assert (found["id"], found["state"], found["what"], found["date"]) == (run, "running", "--all", "2026-05-01")
    assert found["counts"] == {"succeeded": 1, "waiting": 1}
    clean, facts = reports.nodes_of(history.engine, run)
    assert (clean["state"], clean["rows"], clean["bytes"], clean["snapshot_id"]) == ("succeeded", 3, 2**40, 2**62)
    assert clean["inputs"] == inputs and (clean["started_us"], clean["ended_us"]) == (NOW_US, NOW_US + 5)
    assert (facts["state"], facts["started_us"]) == ("waiting", None)
    history.finish(run, "succeeded", [])
    assert reports.find_run(history.engine, run[:17])["state"] == "succeeded"  # type: ignore[index]
    assert [row["kind"] for row in reports.attempts_of(history.engine, run)] == ["succeeded"]


def test_failed_checks_are_kept_with_their_rows(history: History) -> None:
    run, board = begun(history)
    first = board.rows["clean@2026-05-01"]
    for _ in range(2):  # the second attempt's findings replace the first's
        history.start(run, [first])
        board.start(first.node.key)
        failure = Failure("checks", "bad", retry=True, checks=(CheckFailure("unique(a)", 2, ({"a": 1, "é": None},)),))
        board.end(first.node.key, failure, 0)
        history.end(run, [Ended(first, failure)], [], set())
    (found,) = reports.checks_of(history.engine, run)
    assert (found["name"], found["bad_rows"], found["sample"]) == ("unique(a)", 2, [{"a": 1, "é": None}])
    assert [row["kind"] for row in reports.attempts_of(history.engine, run)] == ["checks", "checks"]


def test_a_table_has_one_writer(history: History, clock: ManualClock) -> None:
    one, board = begun(history)
    other, _ = begun(history)
    row = board.rows["clean@2026-05-01"]
    assert history.start(one, [row]) == {}
    assert history.start(other, [row]) == {"t.clean": one}
    assert reports.attempts_of(history.engine, other) == []
    assert history.alive(one, {"t.clean"}) == set()
    history.end(one, [], [], {"t.clean"})
    assert history.start(other, [row]) == {}
    assert history.alive(one, {"t.clean"}) == {"t.clean"}  # lost: it was given away


def test_a_lease_that_ran_out_goes_to_the_next(history: History, clock: ManualClock) -> None:
    one, board = begun(history)
    other, _ = begun(history)
    row = board.rows["clean@2026-05-01"]
    history.start(one, [row])
    clock.advance(LEASE_US - 1)
    assert history.start(other, [row]) == {"t.clean": one}
    clock.advance(1)
    assert history.start(other, [row]) == {}
    assert history.alive(one, {"t.clean"}) == {"t.clean"}


@pytest.mark.parametrize("step_h", [1, -1])
def test_a_machine_whose_clock_is_wrong_takes_no_lease_of_another(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_h: int
) -> None:
    configs = [Config.model_validate({"data_dir": tmp_path / name, "jobs": {"history": postgres}}) for name in "ab"]
    for config in configs:
        config.data_dir.mkdir()
    right = History.open(configs[0])
    run, board = begun(right)
    row = board.rows["clean@2026-05-01"]
    assert right.start(run, [row]) == {}
    true_us = SystemClock.now_us
    monkeypatch.setattr(SystemClock, "now_us", lambda clock: true_us(clock) + step_h * HOUR_US)
    wrong = History.open(configs[1])
    wrong.owner = "another machine|1|1"
    another, _ = begun(wrong)
    assert wrong.start(another, [row]) == {"t.clean": run}
    assert wrong.reap() == []  # nor is a run dead that was seen a moment ago
    assert right.alive(run, {"t.clean"}) == set()
    right.finish(run, "succeeded", [])
    assert wrong.start(another, [row]) == {}
    monkeypatch.undo()
    third, _ = begun(right)
    assert right.start(third, [row]) == {"t.clean": another}
    for opened in (right, wrong):
        opened.close()
    engine = sa.create_engine(postgres.replace("postgresql", "postgresql+psycopg"))
    metadata.drop_all(engine)
    engine.dispose()


def test_what_a_dead_process_held_is_free_at_once(history: History) -> None:
    mine = history.owner
    machine = mine.split("|")[0]
    history.owner = f"{machine}|999999999|1"
    dead, board = begun(history)
    row = board.rows["clean@2026-05-01"]
    history.start(dead, [row])
    history.owner = mine
    other, _ = begun(history)
    assert history.start(other, [row]) == {}
    assert history.reap() == [dead]
    found = reports.find_run(history.engine, dead)
    assert found is not None and found["state"] == "interrupted"
    assert {node["state"] for node in reports.nodes_of(history.engine, dead)} == {"interrupted"}
    assert history.reap() == []
    with history.engine.connect() as connection:
        assert connection.execute(sa.select(leases.c.run)).scalars().all() == [other]


def test_of_many_that_ask_at_once_one_gets_the_table(config: Config) -> None:
    histories = [History.open(config) for _ in range(4)]
    starts = [begun(history) for history in histories]
    barrier, taken = Barrier(len(histories)), []

    def ask(history: History, run: str, row: Progress) -> None:
        barrier.wait()
        if not history.start(run, [row]):
            taken.append(run)

    threads = [
        Thread(target=ask, args=(history, run, board.rows["clean@2026-05-01"]))
        for history, (run, board) in zip(histories, starts, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for history in histories:
        history.close()
    assert len(taken) == 1


def test_who_opens_a_history_waits_for_who_makes_it(tmp_path: Path) -> None:
    config = Config.model_validate({"data_dir": tmp_path})
    file = tmp_path / "jobs.db"
    with locked_beside(file), closing(sqlite3.connect(file, isolation_level=None)) as maker:
        maker.execute("BEGIN IMMEDIATE")  # SQLite refuses at once to change the mode now, whatever its timeout
        thread, outcome = in_thread(lambda: History.open(config, SystemClock()).close())
        thread.join(0.5)
        maker.execute("COMMIT")
    thread.join()
    assert outcome == [None]


def test_a_history_of_another_version_is_refused(config: Config, history: History) -> None:
    with history.engine.begin() as connection:
        connection.execute(sa.update(meta).values(value="99"))
    with pytest.raises(ConfigError, match=r"jobs\.history: the history is of version 99"):
        History.open(config)


def test_the_newest_success_of_each_period_is_found(history: History, clock: ManualClock) -> None:
    for rows_ in (1, 2):
        run, board = begun(history)
        first = board.rows["clean@2026-05-01"]
        history.start(run, [first])
        board.start(first.node.key)
        ending = Outcome(rows=rows_, bytes=1, files=1, snapshot_id=1)
        board.end(first.node.key, ending, 0)
        history.end(run, [Ended(first, ending)], [], {"t.clean"})
        clock.advance(2_000_000)
    found = reports.latest_successes(history.engine, ["clean", "facts"])
    assert {key: row["rows"] for key, row in found.items()} == {("clean", "2026-05-01"): 2}
    assert reports.latest_states(history.engine, ["facts"])["facts"]["state"] == "waiting"
    assert [row["rows"] for row in reports.newest_of_job(history.engine, "clean", 5)] == [2, 1]


def test_wrong_urls_are_configuration_errors(tmp_path: Path) -> None:
    for url in ("nonsense", "nosuch://host/db", "postgresql://nobody@127.0.0.1:1/none"):
        with pytest.raises(ConfigError, match=r"jobs\.history"):
            History.open(Config.model_validate({"data_dir": tmp_path, "jobs": {"history": url}}))


def test_a_process_knows_itself_from_its_namesakes() -> None:
    machine, pid, birth = this_process().split("|")
    assert not surely_dead(this_process())
    assert surely_dead(f"{machine}|{pid}|{int(birth) - 1}")
    assert not surely_dead(f"elsewhere|{pid}|{int(birth) - 1}")
