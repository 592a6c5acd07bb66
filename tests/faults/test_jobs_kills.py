"""Jobs whose processes are killed, whose disk is full, whose input is poisoned: run again, the table is exact."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from eagleray.cluster.config import Config, load_config
from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.period import daily
from eagleray.jobs.project.load import load_project
from eagleray.jobs.run.attempt import perform
from eagleray.jobs.run.history import History
from eagleray.jobs.run.reports import find_run, newest_runs, nodes_of
from eagleray.jobs.schedule.claims import newest
from tests.faults.trial import names, watch
from tests.running_platform import MARK, eventually

pytestmark = pytest.mark.faults

ROWS = 100_000
PATIENCE_S = 240.0
SEED = f"""/* eagleray
output: t.numbers
mode: full
*/
SELECT unnest(range({ROWS})) AS id
"""
BIG = """/* eagleray
output: t.{name}
mode: {mode}
retries: {retries}
{more}*/
SELECT id, (hash(id) >> 1)::BIGINT AS h, sha256(id::VARCHAR) AS text FROM t.numbers
"""
AFTER = """/* eagleray
output: t.counted
mode: full
*/
SELECT count(*) AS n, count(DISTINCT id) AS ids FROM t.big
"""
TICKS = """/* eagleray
output: t.ticks
mode: append
schedule: "* * * * *"
catch_up: true
retries: 0
*/
SELECT epoch_us($start) AS start
"""


class Project:
    """A project of SQL jobs, driven by the command line; its processes carry a mark, so that all can be killed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "jobs").mkdir()
        (directory / "eagleray.yaml").write_text("data_dir: ./data\njobs: {concurrency: 2}\n")
        self.mark = directory.name
        self.environ = {**os.environ, MARK: self.mark}

    def job(self, name: str, text: str) -> None:
        (self.directory / "jobs" / f"{name}.sql").write_text(text)

    @property
    def config(self) -> Config:
        return load_config(self.directory / "eagleray.yaml")

    def begin(self, *words: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).parent / "eagleray"), "job", *words]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.directory, env=self.environ, preexec_fn=limit, **pipes)

    def run(self, *words: str, limit: Callable[[], None] | None = None) -> tuple[int, str]:
        process = self.begin(*words, limit=limit)
        said, _ = process.communicate(timeout=240)
        return process.returncode, said

    def children(self, parent: int) -> list[int]:
        found = Path(f"/proc/{parent}/task/{parent}/children")
        return [int(pid) for pid in found.read_text().split()] if found.exists() else []

    def left(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def read(self, table: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = Lake.open(self.config).read(table).to_pylist()
        return rows

    def logs(self, job: str) -> frozenset[tuple[str, int]]:
        return names(self.directory / "data" / "jobs" / "logs", f"{job}@*.log")

    def history(self) -> History:
        return History.open(self.config)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    for pid in made.left():
        os.kill(pid, signal.SIGKILL)


def big(name: str = "big", mode: str = "full", retries: int = 0, more: str = "") -> str:
    return BIG.format(name=name, mode=mode, retries=retries, more=more)


def exact(project: Project, table: str = "t.big") -> None:
    found = Lake.open(project.config).read(table, ["id"]).column("id").to_pylist()
    assert sorted(found) == list(range(ROWS))


@pytest.mark.parametrize("mode", ["full", "append", "merge"])
def test_a_driver_killed_between_files_and_commit_and_run_again_gives_the_exact_table(
    project: Project, mode: str
) -> None:
    project.job("numbers", SEED)
    project.job("big", big(mode=mode, more="key: [id]\n" if mode == "merge" else ""))
    project.job("after", AFTER)
    assert project.run("run", "numbers")[0] == 0
    lake = project.directory / "data" / "lake"
    for run in range(2):  # into an empty table, and into one that has the rows already
        process = project.begin("run", "big", "after", "--date", "2026-05-01", "--no-resume")
        assert watch(lambda: names(lake, "*.parquet"), PATIENCE_S)
        process.kill()
        process.communicate()
        eventually(lambda: project.left() == [], 20)  # the children leave by themselves
        code, said = project.run("run", "big", "after", "--date", "2026-05-01")
        assert code == 0, (run, said)
        exact(project)
        assert project.read("t.counted") == [{"n": ROWS, "ids": ROWS}]
    history = project.history()
    states = [row["state"] for row in newest_runs(history.engine, 10)]
    history.close()
    assert states == ["succeeded", "interrupted"] * 2 + ["succeeded"]


def test_a_worker_killed_in_its_work_is_told_and_replaced(project: Project) -> None:
    project.job("numbers", SEED)
    project.job("big", big(retries=2, more="backoff: 100ms\n"))
    assert project.run("run", "numbers")[0] == 0
    process = project.begin("run", "big")
    assert watch(lambda: project.logs("big"), PATIENCE_S)
    (worker,) = project.children(process.pid)
    os.kill(worker, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "attempt 1 failed" in said and "SIGKILL" in said, said
    exact(project)


def test_a_run_that_is_terminated_ends_its_jobs_and_goes_on_later(project: Project) -> None:
    project.job("numbers", SEED)
    project.job("big", big())
    project.job("after", AFTER)
    assert project.run("run", "numbers")[0] == 0
    process = project.begin("run", "--all", "--date", "2026-05-01")
    assert watch(lambda: project.logs("big"), PATIENCE_S)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "interrupted" in said
    eventually(lambda: project.left() == [], 20)
    code, said = project.run("run", "--all", "--date", "2026-05-01")
    assert code == 0 and "resuming run" in said
    exact(project)


def test_a_full_disk_leaves_the_table_as_it_was(project: Project) -> None:
    project.job("numbers", SEED)
    project.job("big", big())
    assert project.run("run", "numbers")[0] == 0

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))  # the result takes twice that

    code, said = project.run("run", "big", limit=limit)
    assert code == 1 and "File too large" in said, said
    code, said = project.run("run", "big")
    assert code == 0, said
    exact(project)


def test_a_poisoned_file_fails_its_readers_alone_and_is_named(project: Project) -> None:
    project.job("numbers", SEED)
    project.job("big", big())
    project.job("after", AFTER)
    assert project.run("run", "numbers", "big")[0] == 0
    (file,) = (project.directory / "data" / "lake" / "t" / "big").rglob("*.parquet")
    sound = file.read_bytes()
    file.write_bytes(b"PAR1" + os.urandom(len(sound) - 8) + b"PAR1")
    project.job("other", SEED.replace("t.numbers", "t.other"))
    code, said = project.run("run", "after", "other", "--date", "2026-05-01")
    assert code == 1 and file.name in said and "1 succeeded" in said and "1 failed" in said, said
    file.write_bytes(sound)
    code, said = project.run("run", "after", "other", "--date", "2026-05-01")
    assert code == 0, said
    assert project.read("t.counted") == [{"n": ROWS, "ids": ROWS}]


def test_a_job_reads_its_input_as_it_was_when_it_began(project: Project) -> None:
    project.job("numbers", SEED)
    project.job("big", big())
    assert project.run("run", "numbers")[0] == 0
    loaded = load_project(project.config)

    def change(line: str) -> None:
        if line.startswith("reads t.numbers"):  # pinned, and not yet read
            project.job("numbers", SEED.replace(f"range({ROWS})", "range(5)"))
            assert project.run("run", "numbers", "--no-resume")[0] == 0

    period = daily(date(2026, 5, 1))
    assert perform(project.config, loaded.jobs["big"], period, "run.0", 1, change).rows == ROWS
    exact(project)
    assert len(project.read("t.numbers")) == 5


def test_schedulers_killed_and_started_again_miss_and_double_nothing(project: Project) -> None:
    project.job("ticks", TICKS)
    script = [sys.executable, str(Path(__file__).parent / "fast_scheduler.py"), str(project.directory)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(script, env=project.environ)

    history = project.history()
    pair = [start(), start()]
    try:
        eventually(lambda: newest(history.engine))
        began = newest(history.engine)["ticks"]
        for victim in (0, 1, 0, 1):
            before = newest(history.engine)["ticks"]
            eventually(lambda before=before: newest(history.engine)["ticks"] > before, 90, 0.02)
            pair[victim].kill()
            pair[victim].wait()
            pair[victim] = start()
        before = newest(history.engine)["ticks"]
        eventually(lambda: newest(history.engine)["ticks"] > before, 90)
        eventually(lambda: _settled(project, history, began), 120)
    finally:
        for process in pair:
            process.kill()
            process.wait()
        history.close()


def _settled(project: Project, history: History, began: int) -> bool:
    """Every minute since the first claim is in the table once, up to the newest that is done."""
    starts = sorted(row["start"] for row in project.read("t.ticks"))
    assert len(set(starts)) == len(starts), "doubled"
    minutes = list(range(starts[0], starts[-1] + 1, 60_000_000))
    return bool(starts == minutes and starts[0] <= began and len(starts) > 4)


def test_status_tells_a_killed_run_from_a_running_one(project: Project) -> None:
    project.job("numbers", SEED)
    project.job("big", big())
    assert project.run("run", "numbers")[0] == 0
    process = project.begin("run", "big")
    assert watch(lambda: project.logs("big"), PATIENCE_S)
    history = project.history()
    found = find_run(history.engine, None)
    assert found is not None and found["state"] == "running"
    process.kill()
    process.communicate()
    code, said = project.run("status", "--format", "json")
    assert code == 0 and json.loads(said)[0]["state"] == "interrupted"
    assert [node["state"] for node in nodes_of(history.engine, found["id"])] == ["interrupted"]
    history.close()
