"""What an incremental job has read is its output's, and of the tables that it read, or refused: no row twice."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.period import daily
from eagleray.jobs.project.load import load_project
from eagleray.jobs.run import attempt
from eagleray.jobs.run.outcome import Outcome
from tests.jobs_project import make_project, sql_file

SOURCE = sql_file("SELECT day(CAST($date AS DATE)) AS n", output="src.a", mode="append")


def reading(mode: str, table: str = "src.a", **header: Any) -> str:
    return sql_file(f"SELECT n FROM {table}", output="out.b", mode=mode, **header)


class Runs:
    """Attempts at the jobs of a project, whose files may change in between."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.number = 0

    def config(self, files: dict[str, str]) -> Config:
        for file in (self.directory / "jobs").rglob("*.sql"):
            file.unlink()
        return make_project(self.directory, files)

    def __call__(self, files: dict[str, str], name: str, day: int = 12) -> Outcome:
        config = self.config(files)
        self.number += 1
        attempt._lakes.clear()
        job, period = load_project(config).jobs[name], daily(date(2015, 9, day))
        return attempt.perform(config, job, period, f"r{self.number}", 1, lambda _: None)

    @property
    def lake(self) -> Lake:
        return Lake.open(make_project(self.directory, {}))

    @property
    def rows(self) -> list[int]:
        return sorted(self.lake.read("out.b", ["n"])["n"].to_pylist())


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_a_file_that_is_renamed_and_moved_goes_on(runs: Runs) -> None:
    runs({"src.sql": SOURCE}, "src", 1)
    runs({"src.sql": SOURCE, "b.sql": reading("incremental")}, "b")
    runs({"src.sql": SOURCE}, "src", 2)
    runs({"deep/src.sql": SOURCE, "deep/other.sql": reading("incremental")}, "other")
    assert runs.rows == [1, 2]


@pytest.mark.parametrize("mode", ["full", "append"])
def test_rows_of_another_mode_are_not_read_a_second_time(runs: Runs, mode: str) -> None:
    files = {"src.sql": SOURCE, "b.sql": reading(mode)}
    runs(files, "src", 1)
    runs(files, "b")
    with pytest.raises(ConfigError, match=r"b\.sql:5: mode: nothing says how far .* `eagleray table drop out.b`"):
        runs({**files, "b.sql": reading("incremental")}, "b")
    assert runs.rows == [1]
    runs.lake.drop_table("out.b")
    runs({**files, "b.sql": reading("incremental")}, "b")
    assert runs.rows == [1]


@pytest.mark.parametrize("checks", [{}, {"checks": "[not_null: n]"}])
def test_a_run_of_another_mode_in_between_voids_the_position(runs: Runs, checks: dict[str, str]) -> None:
    files = {"src.sql": SOURCE, "b.sql": reading("incremental")}
    runs(files, "src", 1)
    runs(files, "b")
    runs(files, "src", 2)
    runs({**files, "b.sql": reading("full", **checks)}, "b")
    with pytest.raises(ConfigError, match="nothing says how far"):
        runs(files, "b")
    assert runs.rows == [1, 2]
    runs({**files, "b.sql": reading("incremental", key="n")}, "b")
    runs({**files, "b.sql": reading("incremental", key="n")}, "src", 3)
    runs({**files, "b.sql": reading("incremental")}, "b")  # has a position again
    assert runs.rows == [1, 2, 3]


def test_an_empty_output_has_nothing_to_double(runs: Runs) -> None:
    files = {"src.sql": SOURCE, "b.sql": reading("full").replace("FROM src.a", "FROM src.a WHERE n > 9")}
    runs(files, "src", 1)
    runs(files, "b")
    runs({**files, "b.sql": reading("incremental")}, "b")
    assert runs.rows == [1]


@pytest.mark.parametrize("again", [1, 4])  # fewer runs than were read, and more
def test_an_input_that_was_made_anew_is_not_read_on_from_the_old_ones_numbers(runs: Runs, again: int) -> None:
    files = {"src.sql": SOURCE, "b.sql": reading("incremental")}
    for day in (1, 2, 3):
        runs(files, "src", day)
    runs(files, "b")
    runs.lake.drop_table("src.a")
    for day in range(10, 10 + again):
        runs(files, "src", day)
    with pytest.raises(ConfigError, match=r"src\.a is not the table that was read: it was dropped and made anew"):
        runs(files, "b")
    runs({**files, "b.sql": reading("incremental", key="n")}, "b")
    assert runs.rows == [1, 2, 3, *range(10, 10 + again)]
    runs(files, "src", 20)
    runs(files, "b")
    assert runs.rows == [1, 2, 3, *range(10, 10 + again), 20]


def test_an_input_that_is_renamed_is_read_on(runs: Runs) -> None:
    files = {"src.sql": SOURCE, "b.sql": reading("incremental")}
    runs(files, "src", 1)
    runs(files, "b")
    runs.lake.rename_table("src.a", "src.c")
    renamed = {"src.sql": SOURCE.replace("src.a", "src.c"), "b.sql": reading("incremental", "src.c")}
    runs(renamed, "src", 2)
    for _ in range(2):
        runs(renamed, "b")
        assert runs.rows == [1, 2]
