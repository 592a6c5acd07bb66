"""`eagleray job`: what it prints, and how it exits, over a project of real jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eagleray.cli.app import main
from eagleray.jobs.project.job_reader import BUILT_IN as RESERVED
from eagleray.jobs.run.builtin_jobs import BUILT_IN

Eagleray = Callable[..., tuple[int, str, str]]

DAILY = """/* eagleray
output: r.daily
mode: overwrite_partitions
partition_by: [day]
schedule: "0 2 * * *"
description: One row a day.
*/
SELECT $date AS day, 7 AS n
"""
TOTAL = """/* eagleray
output: r.total
mode: full
retries: 0
checks:
- row_count: {min: 1, max: 2}
*/
SELECT day, n FROM r.daily
"""
PYTHON = """
import pyarrow as pa
from eagleray import job, table

@job(output="r.doubled", mode="full", retries=0)
def doubled(total: pa.Table = table("r.total")) -> pa.Table:
    print("doubling", total.num_rows)
    return pa.concat_tables([total, total])
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "eagleray.yaml").write_text("data_dir: ./data\njobs: {concurrency: 1}\n")
    (tmp_path / "jobs" / "daily.sql").write_text(DAILY)
    (tmp_path / "jobs" / "total.sql").write_text(TOTAL)
    (tmp_path / "jobs" / "doubled.py").write_text(PYTHON)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def eagleray(capfd: pytest.CaptureFixture[str]) -> Eagleray:
    def eagleray(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["job", *words])
        said = capfd.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return eagleray


def test_a_graph_runs_breaks_and_is_resumed(project: Path, eagleray: Eagleray) -> None:
    # 1. it runs, in order
    code, out, _ = eagleray("run", "--all", "--date", "2026-05-01")
    assert code == 0 and "3 succeeded" in out
    order = [line.split()[2].split("@")[0] for line in out.splitlines() if "  succeeded  " in line]
    assert order == ["daily", "total", "doubled"]
    # 2. a check fails: what needs the job is skipped, and the failure is named
    sound = (project / "jobs" / "total.sql").read_text()
    (project / "jobs" / "total.sql").write_text(sound.replace("max: 2", "max: 1"))
    code, out, err = eagleray("run", "--all", "--date", "2026-05-02")
    assert code == 1 and "1 succeeded, 1 skipped, 1 failed" in out
    assert "upstream total failed" in out and "row_count" in err and "eagleray job logs" in err
    code, out, _ = eagleray("rejected", "total")
    assert code == 0 and "row_count" in out and "2026-05-02" in out
    # 3. mended, it goes on from there
    (project / "jobs" / "total.sql").write_text(sound)
    code, out, err = eagleray("run", "--all", "--date", "2026-05-02")
    assert code == 0 and "resuming run" in err and "1 of 3 are done" in err
    assert "daily@2026-05-02  1 rows" not in out
    # 4. the history tells all of it
    code, out, _ = eagleray("status", "--format", "json")
    runs = json.loads(out)
    assert [run["state"] for run in runs] == ["succeeded", "failed", "succeeded"]
    code, out, _ = eagleray("status", runs[0]["run"], "--format", "json")
    found = json.loads(out)
    assert found["resumes"] == runs[1]["run"]
    assert {node["job"]: (node["state"], node["rows"]) for node in found["jobs"]} == {
        "daily": ("skipped", None),
        "total": ("succeeded", 2),
        "doubled": ("succeeded", 4),
    }
    code, out, _ = eagleray("logs", "--job", "doubled")
    assert code == 0 and "doubling 2" in out and "reads r.total at snapshot" in out


def test_a_backfill_runs_every_date_and_goes_on_where_it_stopped(project: Path, eagleray: Eagleray) -> None:
    code, out, _ = eagleray("backfill", "daily", "--from", "2026-05-01", "--to", "2026-05-03", "--parallel", "2")
    assert code == 0 and "3 succeeded" in out
    code, out, _ = eagleray("backfill", "daily", "--from", "2026-05-01", "--to", "2026-05-03", "--resume")
    assert code == 0 and "nothing to resume" in out


def test_jobs_are_listed_and_shown(project: Path, eagleray: Eagleray) -> None:
    code, out, _ = eagleray("list", "--format", "json")
    listed = {row["job"]: row for row in json.loads(out)}
    assert code == 0 and list(listed) == ["daily", "total", "doubled"]
    assert listed["total"]["needs"] == "daily" and listed["daily"]["schedule"] == "0 2 * * * UTC"
    code, out, _ = eagleray("show", "daily")
    assert code == 0 and "One row a day." in out and "feeds:        total" in out and "daily.sql:" in out
    code, out, _ = eagleray("list")
    assert code == 0 and "never ran" in out
    assert listed["daily"]["next"] in out and "…" not in out  # a pipe has room for everything


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run",), "expected names of jobs, or --all"),
        (("run", "dayli"), "did you mean daily?"),
        (("run", "daily", "--date", "yesterday"), "expected a date such as 2015-09-12"),
        (("run", "daily", "--nosuch"), "No such option: --nosuch"),
        (("backfill", "daily", "--from", "2026-05-03", "--to", "2026-05-01"), "expected a date from 2026-05-03 on"),
        (("status", "nosuch"), "no run nosuch"),
        (("submit", "nosuch.txt"), "expected a Python script"),
        (("submit", "jobs"), "a project has an eagleray.yaml"),
        (("run", "compact", "--nosuch"), "--nosuch"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_was_expected(
    project: Path, eagleray: Eagleray, words: tuple[str, ...], message: str
) -> None:
    code, _, err = eagleray(*words)
    assert code == 2 and message in err


def test_a_failing_job_names_its_file_and_line(project: Path, eagleray: Eagleray) -> None:
    (project / "jobs" / "total.sql").write_text(TOTAL.replace("SELECT day, n", "SELECT day, 1 / (n - 7) + nosuch"))
    eagleray("run", "daily")
    code, _, err = eagleray("run", "total")
    assert code == 1 and "total.sql:" in err and "nosuch" in err


def test_built_in_jobs_are_those_whose_names_are_taken() -> None:
    assert set(BUILT_IN) == RESERVED
