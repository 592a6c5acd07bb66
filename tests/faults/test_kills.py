"""Real processes killed under load, one after the other on one platform; a checker judges what is left at the end.

Each event carries (producer, seq). Safe means: every acked event is in the table or in the dead letters, none twice;
the order of each key holds; each window equals a recomputation from `events`; progress resumes within 30 s.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.trial import Trial, names, watch
from tests.running_platform import RunningPlatform

pytestmark = [pytest.mark.platform, pytest.mark.faults]


@pytest.fixture(scope="module")
def trial(platform: RunningPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """The load, running from the first of these tests to the last."""
    trial = Trial(platform, tmp_path_factory.mktemp("notes"))
    trial.begin()
    yield trial
    trial.end()


def test_edge_killed_under_load(trial: Trial) -> None:
    for _ in range(2):
        trial.wait_replaced("edge", trial.kill("edge"))
    trial.assert_progress()


def test_validators_killed_in_bursts(trial: Trial) -> None:
    for _ in range(3):
        trial.kill("validate", only=0)
        time.sleep(0.3)
    trial.wait_replaced("validate", trial.kill("validate"))
    trial.assert_progress()


def test_window_workers_killed_between_batches_and_in_them(trial: Trial) -> None:
    trial.wait_replaced("window", trial.kill("window", only=0))
    trial.wait_replaced("window", trial.kill("window"))
    trial.assert_progress()


def test_window_worker_killed_while_it_saves_its_state(trial: Trial) -> None:
    state = trial.platform.data / "state"
    assert watch(lambda: names(state, "*")), "no state was saved meanwhile"
    trial.wait_replaced("window", trial.kill("window"))
    trial.assert_progress()


def test_window_worker_killed_again_while_it_recovers(trial: Trial) -> None:
    for pause_s in (0.0, 0.2, 0.6):
        gone = trial.kill("window")
        trial.wait_replaced("window", gone)
        time.sleep(pause_s)
    trial.wait_replaced("window", trial.kill("window"))
    trial.assert_progress()


def test_writers_killed_between_parquet_and_commit(trial: Trial) -> None:
    lake = trial.platform.data / "lake"
    for _ in range(2):
        pids = trial.platform.pids("writer")
        assert watch(lambda: names(lake, "*.parquet"))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        trial.wait_replaced("writer", pids)
    trial.assert_progress()


def _heads(catalog: Path) -> list[tuple[str, str]]:
    """Which metadata each table of the catalog points at."""
    with sqlite3.connect(f"file:{catalog}?mode=ro", uri=True, timeout=10) as db:
        query = "SELECT table_name, metadata_location FROM iceberg_tables WHERE table_namespace = 'orders' ORDER BY 1"
        return db.execute(query).fetchall()


@pytest.mark.parametrize("turn", range(3))
def test_committer_killed_right_after_a_commit_landed(trial: Trial, turn: int) -> None:
    (pid,) = trial.platform.pids("committer")
    assert watch(lambda: _heads(trial.platform.data / "catalog.db"))
    os.kill(pid, signal.SIGKILL)
    trial.wait_replaced("committer", [pid])
    trial.assert_progress()


def test_committer_killed_right_after_files_were_written(trial: Trial) -> None:
    (pid,) = trial.platform.pids("committer")
    assert watch(lambda: names(trial.platform.data / "lake", "*.avro"))
    os.kill(pid, signal.SIGKILL)
    trial.wait_replaced("committer", [pid])
    trial.assert_progress()


def test_pools_scaled_under_load(trial: Trial) -> None:
    command = [str(Path(sys.executable).parent / "eagleray"), "scale"]
    for sizes in (("window=1", "writer=1"), ("window=2", "writer=2")):
        for size in sizes:
            subprocess.run(
                [*command, size, "-c", str(trial.platform.directory / "eagleray.yaml")],
                check=True,
                cwd=trial.platform.directory,
                timeout=60,
            )
        trial.assert_progress()


def test_everything_killed_at_once_and_started_again(trial: Trial) -> None:
    """A power cut: acked events are on disk, everything else is made anew from the log."""
    trial.end()
    first = 1_000_000
    trial.begin(first, patience_s=180)
    time.sleep(2)
    url = trial.platform.url
    trial.platform.kill()
    trial.platform.start(port=int(url.rpartition(":")[2]))
    assert trial.platform.url == url
    trial.assert_progress()


def test_after_all_of_it_everything_acked_is_there_once(trial: Trial) -> None:
    trial.assert_all_is_there_once()
