"""The runner with real child processes: attempts that fail, hang, print, take too much memory, or die."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from eagleray.cluster.config import Config
from eagleray.jobs.model import Job
from eagleray.jobs.period import daily
from eagleray.jobs.project.graph import Graph
from eagleray.jobs.run import reports
from eagleray.jobs.run.history import History
from eagleray.jobs.run.local import LocalWorkers
from eagleray.jobs.run.plan import plan
from eagleray.jobs.run.resume import resumed
from eagleray.jobs.run.run_state import Board, Progress
from eagleray.jobs.run.runner import Interrupted, Result, Runner
from tests.job_work import do, done, fail, make_job

DAY = date(2026, 5, 1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return Config.model_validate({"data_dir": tmp_path_factory.mktemp("runner"), "jobs": {"concurrency": 2}})


@pytest.fixture(scope="module")
def workers(config: Config) -> Iterator[LocalWorkers]:
    opened = LocalWorkers(config, do)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def history(config: Config) -> Iterator[History]:
    opened = History.open(config)
    yield opened
    opened.close()


@pytest.fixture
def runner(config: Config, history: History, workers: LocalWorkers) -> Runner:
    return Runner(history, workers, config.jobs_dir / "logs")


Run = Callable[..., Result]


@pytest.fixture
def run(runner: Runner) -> Run:
    def run(*jobs: Job, **settings: Any) -> Result:
        return runner.run(planned(*jobs), **settings)

    return run


def planned(*jobs: Job) -> Any:
    makers = {job.output: job.name for job in jobs}
    graph = Graph({job.name: [makers[table] for table in job.inputs if table in makers] for job in jobs})
    return plan(graph, {job.name: job for job in jobs}, {job.name: [daily(DAY)] for job in jobs}, "--all", str(DAY))


def row(result: Result, name: str) -> Progress:
    return result.board.rows[f"{name}@{DAY}"]


def log_of(config: Config, result: Result, name: str) -> str:
    return (config.jobs_dir / "logs" / result.run / f"{name}@{DAY}.log").read_text()


def test_a_graph_runs_in_order_and_is_written_down(config: Config, history: History, run: Run) -> None:
    result = run(make_job("g1"), make_job("g2", inputs=("t.g1",)), make_job("g3", inputs=("t.g2",)))
    assert not result.failed and result.board.counts() == {"succeeded": 3}
    found = reports.nodes_of(history.engine, result.run)
    assert [node["job"] for node in sorted(found, key=lambda node: node["started_us"])] == ["g1", "g2", "g3"]
    assert all(node["rows"] == 1 and node["ended_us"] >= node["started_us"] for node in found)
    assert found[0]["inputs"] == {"s.events": {"snapshot": 3}}


def test_one_failure_does_not_stop_what_does_not_depend_on_it(config: Config, run: Run) -> None:
    broken = make_job("bad", "fail(job, 'no such column', retryable=False)")
    result = run(broken, make_job("after", inputs=("t.bad",)), make_job("other"))
    assert result.failed
    assert (row(result, "bad").state, row(result, "other").state) == ("failed", "succeeded")
    assert (row(result, "after").state, row(result, "after").reason) == ("skipped", "upstream bad failed")
    assert "jobs/x.sql:1: no such column" in row(result, "bad").reason
    assert done(config, "after") == []


def test_what_may_pass_is_tried_again(config: Config, history: History, run: Run) -> None:
    result = run(make_job("flaky", "if attempt < 3: fail(job, 'not now')", retries=2))
    assert not result.failed and done(config, "flaky") == [f"{DAY} 3"]
    kinds = [found["kind"] for found in reports.attempts_of(history.engine, result.run)]
    assert kinds == ["failed", "failed", "succeeded"]


def test_what_is_printed_is_in_the_log(config: Config, run: Run) -> None:
    says = (
        "import logging; print('to stdout'); os.write(2, b'from C\\n'); logging.getLogger('x').info('logged'); log('l')"
    )
    text = log_of(config, run(make_job("chatty", says)), "chatty")
    assert all(word in text for word in ("to stdout", "from C", "logged", "\nl\n", "attempt 1 of chatty"))


def test_a_traceback_is_in_the_log_and_its_end_in_the_history(config: Config, run: Run) -> None:
    result = run(make_job("raises", "1 / 0", retries=0))
    assert "ZeroDivisionError" in row(result, "raises").reason
    assert "Traceback" in log_of(config, result, "raises")


def test_a_time_out_ends_the_process(config: Config, run: Run) -> None:
    stuck = (
        "(config.data_dir / 'stuck').write_text(str(os.getpid()));"
        " signal.pthread_sigmask(signal.SIG_BLOCK, [15]); time.sleep(600)"
    )
    result = run(make_job("stuck", stuck, timeout_us=3_000_000, retries=0))
    assert "stopped after its time limit of 3s" in row(result, "stuck").reason
    assert not Path("/proc", (config.data_dir / "stuck").read_text()).exists()


def test_a_killed_process_is_told_and_the_next_attempt_finds_another(
    config: Config, history: History, run: Run
) -> None:
    result = run(make_job("killed", "if attempt == 1: os.kill(os.getpid(), signal.SIGKILL)", retries=1))
    assert done(config, "killed") == [f"{DAY} 2"]
    first, second = reports.attempts_of(history.engine, result.run)
    assert first["kind"] == "killed" and "SIGKILL" in first["message"] and "`memory`, now 64 MiB" in first["message"]
    assert second["kind"] == "succeeded"


def test_too_much_memory_is_told_with_the_setting_to_raise(run: Run) -> None:
    result = run(make_job("greedy", "held = bytearray(b'1' * (700 << 20)); time.sleep(60)", retries=3))
    failed = row(result, "greedy")
    assert failed.failure is not None and failed.failure.kind == "memory" and failed.attempt == 1
    assert "raise the job's `memory` (now 64 MiB)" in failed.reason


def test_a_process_that_ends_itself_is_told(run: Run) -> None:
    result = run(make_job("leaves", "os._exit(3)", retries=0))
    assert "ended by itself with code 3" in row(result, "leaves").reason


def test_an_end_of_its_own_kind_is_one_of_the_attempt(run: Run) -> None:
    result = run(
        make_job("own", "raise type('Own', (BaseException,), {'__module__': 'm'})('mine')", retries=0),
        make_job("exits", "raise SystemExit('some text')", retries=0),
        make_job(
            "mute", "raise type('Mute', (Exception,), {'__module__': 'm', '__str__': lambda self: 1 / 0})()", retries=0
        ),
    )
    assert "Own: mine" in row(result, "own").reason
    assert "SystemExit: some text" in row(result, "exits").reason
    assert "Mute, whose message cannot be read (ZeroDivisionError)" in row(result, "mute").reason


def test_what_no_machine_has_is_refused_at_once(run: Run) -> None:
    result = run(make_job("giant", memory_bytes=1 << 50), make_job("wide", cpus=5000.0))
    assert "no machine has more than" in row(result, "giant").reason
    assert "cpus: 5000" in row(result, "wide").reason


def test_resuming_goes_on_from_the_failed_node(config: Config, history: History, run: Run, runner: Runner) -> None:
    mended = config.data_dir / "mended"
    fragile = make_job("r2", f"Path({str(mended)!r}).exists() or fail(job, 'broken', retryable=False)", ("t.r1",))
    jobs = (make_job("r1"), fragile, make_job("r3", inputs=("t.r2",)))
    first = run(*jobs)
    assert first.failed
    mended.touch()
    again = resumed(planned(*jobs), first.run, reports.nodes_of(history.engine, first.run))
    second = runner.run(again, resumes=first.run)
    assert not second.failed
    assert [done(config, name) for name in ("r1", "r2", "r3")] == [[f"{DAY} 1"]] * 3
    assert row(second, "r1").reason == f"done by run {first.run}"


def test_a_table_that_another_run_writes_is_waited_for(
    config: Config, history: History, run: Run, runner: Runner
) -> None:
    job = make_job("shared")
    other = planned(job)
    board = Board(other.nodes, LocalWorkers(config).capacity, {})
    holder = history.begin(other, "run", list(board.rows.values()))
    assert history.start(holder, list(board.rows.values())) == {}
    waited = []

    def watch(_: str, board: Board) -> None:
        (found,) = board.rows.values()
        if found.state == "waiting" and found.reason:
            waited.append(found.reason)
            history.finish(holder, "succeeded", [])

    result = Runner(history, runner._workers, config.jobs_dir / "logs", watch).run(planned(job))
    assert not result.failed and set(waited) == {f"t.shared is being written by run {holder}"}


def test_an_interruption_ends_what_runs_and_is_written_down(config: Config, history: History, runner: Runner) -> None:
    def watch(run: str, board: Board) -> None:
        if any(row.node.job.name == "b_short" and row.state == "succeeded" for row in board.rows.values()):
            raise Interrupted

    plan_ = planned(
        make_job("a_long", "(config.data_dir / 'begun').touch(); time.sleep(600)"),
        make_job("b_short", "while not (config.data_dir / 'begun').exists(): time.sleep(0.01)"),
        make_job("c_after", inputs=("t.a_long",)),
    )
    stopped = Runner(history, runner._workers, config.jobs_dir / "logs", watch)
    with pytest.raises(Interrupted):
        stopped.run(plan_)
    found = reports.find_run(history.engine, stopped.run_id)
    assert found is not None and found["state"] == "interrupted"
    states = {node["job"]: node["state"] for node in reports.nodes_of(history.engine, stopped.run_id)}
    assert states == {"a_long": "interrupted", "b_short": "succeeded", "c_after": "interrupted"}


WAITING = {
    "input": "input()",
    "breakpoint": "breakpoint()",
    "a subprocess that reads": "import subprocess; assert subprocess.check_output(['cat']) == b''",
    "a pool": "import multiprocessing as m\nwith m.Pool(2) as p: assert p.map(abs, [-1, 2]) == [1, 2]",
    "an executor": "import concurrent.futures as c\nwith c.ProcessPoolExecutor(1) as p: assert [*p.map(abs, [1])]",
}


@pytest.mark.parametrize("what", WAITING)
def test_a_job_that_reads_or_forks_comes_to_an_end(config: Config, run: Run, what: str) -> None:
    result = run(make_job("w", WAITING[what], timeout_us=60_000_000, retries=0))
    if what in ("input", "breakpoint"):  # there is nobody to ask
        assert row(result, "w").failure and row(result, "w").failure.kind == "failed"
        assert ("EOFError" if what == "input" else "BdbQuit") in log_of(config, result, "w")
    else:
        assert row(result, "w").state == "succeeded", row(result, "w").reason


def test_a_time_out_ends_what_the_job_has_started(config: Config, run: Run, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    start = "import subprocess as s; a = [s.Popen(['sleep', '600'], start_new_session=n) for n in (False, True)]"
    note = f"open({str(pids)!r}, 'w').write(' '.join(str(p.pid) for p in a)); time.sleep(600)"
    result = run(make_job("t", f"{start}; {note}", timeout_us=3_000_000, retries=0))
    assert row(result, "t").failure and row(result, "t").failure.kind == "timeout"
    states = [file.read_text() for pid in pids.read_text().split() if (file := Path(f"/proc/{pid}/stat")).exists()]
    assert all(state.rpartition(")")[2].split()[0] in "ZX" for state in states)


def test_what_publishing_the_same_rows_raises_again_is_not_tried_again(run: Run) -> None:
    for error in ("KeyError('idd')", "ValueError('no')", "TypeError('no')"):
        result = run(make_job("k", f"raise {error}", retries=2))
        assert (row(result, "k").state, row(result, "k").attempt) == ("failed", 1)
    assert row(run(make_job("k", "if attempt < 2: raise OSError('no')", retries=2)), "k").attempt == 2


def test_no_secret_is_shown(config: Config, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "s3cret/with+signs")
    own = config.model_copy(update={"jobs": config.jobs.model_copy(update={"secrets": ("SHOP_TOKEN", "NOT_SET")})})
    workers = LocalWorkers(own, do)
    says = "t = os.environ['SHOP_TOKEN']; print('says', t); fail(job, 'GET https://x/?t=' + t, retryable=False)"
    try:
        result = Runner(history, workers, own.jobs_dir / "logs").run(planned(make_job("s", says)))
    finally:
        workers.close()
    assert row(result, "s").reason.endswith("GET https://x/?t=***")
    log = log_of(own, result, "s")
    assert "says ***" in log and "s3cret" not in log
    (node,) = reports.nodes_of(history.engine, result.run)
    assert "s3cret" not in str(node)


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)"])
def test_no_secret_is_shown_by_other_programs(
    config: Config, history: History, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "s3cret/with+signs")
    own = config.model_copy(update={"jobs": config.jobs.model_copy(update={"secrets": ("SHOP_TOKEN",)})})
    workers = LocalWorkers(own, do)
    says = "os.write(1, b'before\\n'); import subprocess; subprocess.run(['sh', '-c', 'echo says $SHOP_TOKEN >&2']); "
    try:
        result = Runner(history, workers, own.jobs_dir / "logs").run(planned(make_job("s", says + end, retries=0)))
    finally:
        workers.close()
    log = log_of(own, result, "s")
    assert "before\nsays ***\n" in log and "s3cret" not in log


def test_scratch_of_attempts_does_not_stay(config: Config) -> None:
    workers = LocalWorkers(config, do)
    workers.close()
    assert fail and list((config.jobs_dir / "tmp").glob("run-*/*/*")) == []
