"""A broken file of jobs/ is left out and told; the stream and all other jobs go on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eagleray.cli.broken_jobs import BrokenJobs
from eagleray.cli.jobs_run import run_jobs
from eagleray.cli.jobs_shown import list_jobs
from eagleray.cli.up import check
from eagleray.cluster.clock import ManualClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.jobs.project.load import load_project, read_project
from eagleray.jobs.run.local import LocalWorkers
from eagleray.jobs.run.selection import known
from eagleray.jobs.schedule import scheduler as scheduling
from eagleray.jobs.schedule.scheduler import Scheduler
from tests.job_work import do
from tests.jobs_project import make_project, sql_file

GOOD = sql_file("SELECT 1 AS a", output="reports.good", schedule="'0 * * * *'")
FILES = {
    "good.sql": GOOD,
    "broken.sql": sql_file("SELECT 1 AS", output="reports.broken"),
    "after.sql": sql_file("SELECT * FROM reports.broken", output="reports.after"),
    "later.sql": sql_file("SELECT * FROM reports.after", output="reports.later"),
    "upper.SQL": GOOD,
    "raises.py": "1 / 0",
    "exits.py": "import sys; sys.exit(3)",
    "lost.sql": sql_file("SELECT * FROM reports.nowhere", output="reports.lost"),
    "one.sql": sql_file("SELECT * FROM reports.two", output="reports.one"),
    "two.sql": sql_file("SELECT * FROM reports.one", output="reports.two"),
}
SAID = {
    "broken.sql": "syntax error",
    "after.sql": "table reports.broken is made by",
    "later.sql": "table reports.after is made by",
    "upper.SQL": "ends with .SQL; expected .sql",
    "raises.py": "ZeroDivisionError",
    "exits.py": "SystemExit: 3",
    "lost.sql": "table reports.nowhere does not exist",
    "one.sql": "need one another",
    "two.sql": "need one another",
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_project(tmp_path, FILES)


def test_every_broken_file_is_left_out_with_what_needs_it(config: Config) -> None:
    project = read_project(config)
    assert set(project.jobs) == {"good"} == set(project.graph.order())
    assert {one.file.name for one in project.broken} == set(SAID)
    for one in project.broken:
        assert SAID[one.file.name] in str(one.error)
    with pytest.raises(ConfigError):
        load_project(config)


def test_a_job_is_known_by_what_is_wrong_with_it(config: Config) -> None:
    project = read_project(config)
    assert known(project, "good").name == "good"
    with pytest.raises(ConfigError, match="syntax error"):
        known(project, "broken")
    with pytest.raises(ConfigError, match=r"no job is called 'nope'.*broken: after\.sql"):
        known(project, "nope")


def test_the_list_has_good_and_broken(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    list_jobs(config, "json")
    rows = {row["job"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["good"]["broken"] == "" and rows["good"]["output"] == "reports.good"
    assert "syntax error" in rows["broken.sql"]["broken"]


def run(config: Config, *names: str) -> int:
    words: dict[str, Any] = {"upstream": False, "downstream": False, "late": False, "parallel": None, "address": None}
    return run_jobs(config, names, not names, "2015-09-12", None, **words)


def test_good_jobs_run_beside_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_project(tmp_path, {name: FILES[name] for name in ("good.sql", "broken.sql")})
    assert run(config, "good") == 0
    assert "left out: " in capsys.readouterr().err
    with pytest.raises(ConfigError, match="syntax error"):
        run(config, "broken")


def test_a_start_reads_no_job(config: Config) -> None:
    (config.file.parent / "s.json").write_text('{"type": "object", "properties": {"time": {"type": "string"}}}')
    config = config.model_copy(update={"streams": {}})
    said: list[str] = []
    with pytest.raises(ConfigError, match="at least one stream"):
        check(config)
    broken = BrokenJobs(config, said.append)
    broken._tell()
    assert len(said) == len(SAID) and all("left out" in line for line in said)


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Config], Scheduler]]:
    monkeypatch.setattr(scheduling, "LOOK_EVERY_S", 0.1)
    running: list[Scheduler] = []

    def start(config: Config) -> Scheduler:
        running.append(Scheduler(config, ManualClock(0), lambda: LocalWorkers(config, do)))
        return running[-1]

    yield start
    for one in running:
        one.close()


def test_a_scheduler_takes_up_files_that_come_and_change(
    tmp_path: Path, started: Callable[[Config], Scheduler]
) -> None:
    config = make_project(tmp_path, {})
    scheduler = started(config)
    folder = config.jobs_folder
    assert not folder.exists()
    folder.mkdir()
    (folder / "a.sql").write_text(GOOD)
    eventually(lambda: set(scheduler._project.jobs) == {"a"})
    (folder / "b.sql").write_text("SELECT")
    eventually(lambda: scheduler.stats().get("job_files_broken{file=b.sql}") == 1.0)
    assert set(scheduler._project.jobs) == {"a"}
    (folder / "b.sql").write_text(sql_file("SELECT 2 AS b", output="reports.b"))
    eventually(lambda: set(scheduler._project.jobs) == {"a", "b"})
    assert "job_files_broken{file=b.sql}" not in scheduler.stats()
    (folder / "a.sql").unlink()
    eventually(lambda: set(scheduler._project.jobs) == {"b"})
