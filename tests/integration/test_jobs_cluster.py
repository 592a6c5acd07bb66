"""Jobs on a Ray cluster: attempts as tasks, killed ones told and replaced, and scripts through the job server."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.ray_session import connect, job_server
from eagleray.jobs.model import Job
from eagleray.jobs.period import daily
from eagleray.jobs.project.graph import Graph
from eagleray.jobs.run.cluster import RayWorkers
from eagleray.jobs.run.history import History
from eagleray.jobs.run.plan import plan
from eagleray.jobs.run.process_identity import birth
from eagleray.jobs.run.run_state import Progress
from eagleray.jobs.run.runner import Result, Runner
from eagleray.jobs.submit import submit
from tests.job_work import do, done, make_job
from tests.running_platform import eventually

pytestmark = [
    pytest.mark.platform,
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning"),  # how Ray calls aiohttp
]

DAY = date(2026, 5, 1)
SCRIPT = """
import sys, ray
ray.init()
print("answer", ray.get(ray.remote(lambda: 42).remote()), sys.argv[1:])
sys.exit(int(sys.argv[1]))
"""
JOB = "/* eagleray\noutput: r.one\nmode: full\n*/\nSELECT 1 AS n\n"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a job server of its own; its jobs find this Python as `python`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        with job_server() as url:
            yield url


@pytest.fixture(scope="module")
def cluster(config: Config) -> Iterator[None]:
    """A Ray of its own, joined by this process."""
    session = connect(config, None)
    yield
    session.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return Config.model_validate({"data_dir": tmp_path_factory.mktemp("cluster")})


def run(config: Config, *jobs: Job) -> Result:
    makers = {job.output: job.name for job in jobs}
    graph = Graph({job.name: [makers[table] for table in job.inputs] for job in jobs})
    planned = plan(graph, {job.name: job for job in jobs}, {job.name: [daily(DAY)] for job in jobs}, "--all", str(DAY))
    history, workers = History.open(config), RayWorkers(config, do)
    try:
        return Runner(history, workers, config.jobs_dir / "logs").run(planned)
    finally:
        workers.close()
        history.close()


SHARED = "import ray.data as d; assert d.range(64).map_batches(lambda b: b).count() == 64"


def test_jobs_on_ray_at_once_do_not_wait_for_each_other(config: Config, cluster: None) -> None:
    def make(name: str) -> Job:
        return replace(make_job(name, SHARED, timeout_us=240_000_000, retries=0), engine="ray")

    with ThreadPoolExecutor() as pool:  # two runs, of which neither knows the other, with two jobs each
        results = list(pool.map(lambda names: run(config, *map(make, names)), [("a1", "a2"), ("b1", "b2")]))
    assert [result.board.counts() for result in results] == [{"succeeded": 2}] * 2


def row(result: Result, name: str) -> Progress:
    return result.board.rows[f"{name}@{DAY}"]


def test_a_graph_runs_as_tasks_and_failures_are_told(cluster: None, config: Config) -> None:
    stuck = "(config.data_dir / 'stuck').write_text(str(os.getpid())); time.sleep(600)"
    result = run(
        config,
        make_job("first", "print('said on a worker')"),
        make_job("second", inputs=("t.first",)),
        make_job("killed", "if attempt == 1: os.kill(os.getpid(), signal.SIGKILL)", retries=1),
        make_job("stuck", stuck, timeout_us=20_000_000, retries=0),
        make_job("greedy", "held = bytearray(b'1' * (700 << 20)); time.sleep(60)", retries=0),
        make_job("bad", "fail(job, 'no such column', retryable=False)"),
        make_job("after", inputs=("t.bad",)),
        make_job("giant", memory_bytes=1 << 50),
    )
    assert result.board.counts() == {"succeeded": 3, "failed": 4, "skipped": 1}
    assert "said on a worker" in (config.jobs_dir / "logs" / result.run / f"first@{DAY}.log").read_text()
    assert done(config, "killed") == [f"{DAY} 2"]
    assert "time limit of 20s" in row(result, "stuck").reason
    assert "raise the job's `memory` (now 64 MiB)" in row(result, "greedy").reason
    assert "jobs/x.sql:1: no such column" in row(result, "bad").reason
    assert "no machine has more than" in row(result, "giant").reason
    pid = int((config.data_dir / "stuck").read_text())
    eventually(lambda: birth(pid) is None)


@pytest.mark.parametrize("code", [0, 3])
def test_a_script_is_followed_and_its_exit_code_returned(
    server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], code: int
) -> None:
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    assert submit(script, [str(code), "--x"], server, [], wait=True) == code
    assert f"answer 42 ['{code}', '--x']" in capfd.readouterr().out


def test_a_cluster_elsewhere_gets_eagleray_with_the_script(
    server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = socket.gethostname()  # not one of those that submit takes for this machine
    try:
        here = socket.gethostbyname(name) == "127.0.0.1"
    except OSError:
        here = False
    if not here:
        pytest.skip(f"the name {name!r} does not lead to 127.0.0.1, where the job server listens")
    script = tmp_path / "work.py"
    script.write_text("import eagleray.jobs\nprint(eagleray.__file__, eagleray.jobs.__file__, eagleray.job)\n")
    assert submit(script, [], server.replace("127.0.0.1", name), [], wait=True) == 0
    out, err = capfd.readouterr()
    assert out.count("py_modules_files") == 2 and "eagleray/__init__.py" in out
    assert "INFO" not in err


def test_a_project_runs_on_the_cluster_and_keeps_its_data_here(server: str, capfd: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "eagleray.yaml").write_text("data_dir: ./data\n")
        (project / "jobs").mkdir()
        (project / "jobs" / "one.sql").write_text(JOB)
        assert submit(project, [], server, [], wait=True) == 0
        assert "1 succeeded" in capfd.readouterr().out
        assert list((project / "data" / "lake").rglob("*.parquet"))
