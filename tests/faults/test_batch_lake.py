"""The batch plane against the stream on one table, in processes of their own that are killed: FAULTS 11, 12, 14.

Seconds in the suite; EAGLERAY_SOAK_S sets how long the stream commits, such as 600.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import date
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.lake import bin_packing as packing
from eagleray.cluster.lake.compaction import compact
from eagleray.cluster.lake.expire import Retention
from eagleray.cluster.lake.lake import Lake
from eagleray.sql.query import Sql
from tests.lake_tables import EVENTS, catalog_commits, event_rows, make_lake, make_stream, numbers
from tests.published import OUTPUT, check, content, make_job, open_lake, rows, run

pytestmark = pytest.mark.faults
SOAK_S = float(os.environ.get("EAGLERAY_SOAK_S", "8"))
ROWS = 20
SPAWN = multiprocessing.get_context("spawn")
MINUTE_US = 60_000_000
COUNT = 'SELECT count(*) AS n, count(DISTINCT n) AS d, max(n) + 1 AS m FROM "s".events'


def stream(config: Config, seconds: float, done: Any) -> None:
    """What the committer does: append and move progress, then expire now and then."""
    lake = Lake.open(config)
    at = lake.progress(EVENTS).get("p0", 0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        lake.commit(EVENTS, lake.write(EVENTS, event_rows(ROWS, at)), {"p0": at}, {"p0": at + ROWS})
        at += ROWS
        if at % (10 * ROWS) == 0:
            lake.expire(EVENTS)
    done.value = at


def maintain(config: Config) -> None:
    """Compaction and expiry without a pause."""
    packing.FILES_MIN = 2
    lake = Lake.open(config)
    while True:
        compact(lake, EVENTS, 1 << 20, 2)
        lake.expire(EVENTS, Retention(1, 0, MINUTE_US))


@pytest.fixture
def processes() -> Iterator[list[BaseProcess]]:
    started: list[BaseProcess] = []
    yield started
    for process in started:
        if process.pid is not None and process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()


def start(processes: list[BaseProcess], work: Any, *args: Any) -> BaseProcess:
    process = SPAWN.Process(target=work, args=args)
    process.start()
    processes.append(process)
    return process


def test_stream_compaction_and_queries_at_once_while_compaction_is_killed(
    tmp_path: Path, processes: list[BaseProcess]
) -> None:
    layout = {"partition_by": ["user"], "sort_by": ["time"]}
    lake = make_lake(tmp_path, make_stream(lake=layout), snapshots_kept=5)
    done = SPAWN.Value("q", 0)
    committer = start(processes, stream, lake.config, SOAK_S, done)
    chance = random.Random(1)
    asked = 0
    with Sql(lake.config) as sql:
        while committer.exitcode is None:
            maintenance = start(processes, maintain, lake.config)
            killed_at = time.monotonic() + 2 + 2 * chance.random()
            while time.monotonic() < killed_at and committer.exitcode is None:
                (row,) = sql.query(COUNT, 60).table.to_pylist()
                assert row["n"] == row["d"] == (row["m"] or 0)  # every snapshot is a whole number of commits
                asked += 1
                committer.join(0.02)
            assert maintenance.pid is not None
            os.kill(maintenance.pid, signal.SIGKILL)
            maintenance.join()
    assert committer.exitcode == 0
    assert asked > 0
    assert numbers(lake) == list(range(done.value))
    assert lake.progress(EVENTS) == {"p0": done.value}
    # What is left works: one more compaction, and all history but the head is forgotten.
    compact(lake, EVENTS, 1 << 20, 2)
    lake.expire(EVENTS, Retention(1, 0, 0))
    reopened = Lake.open(lake.config)
    assert reopened.progress(EVENTS) == {"p0": done.value}
    assert numbers(reopened) == list(range(done.value))


def publish_and_die(config: Config, at: int, after: bool) -> None:
    """Publish the second result, and end by SIGKILL at the `at`-th commit, before or after the catalog took it."""
    left = [at]

    def around(real: Any) -> Any:
        def commit_table(*args: Any) -> Any:
            left[0] -= 1
            if left[0] < 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = real(*args)
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return commit_table

    lake = Lake.open(config)
    with catalog_commits(lake, around):
        second(lake)


JOB = make_job("merge", key=("k",), checks=(check("unique", "unique(k)", columns=("k",)),))
DAY = date(2015, 9, 12)


def second(lake: Lake) -> None:
    run(lake, JOB, rows((DAY, "b", 2), (DAY, "c", 2)), "r2")


@pytest.mark.parametrize(("at", "after"), [(0, False), (0, True), (1, False), (1, True)])
def test_publisher_killed_around_its_commits_leaves_before_or_after_and_can_run_again(
    tmp_path: Path, processes: list[BaseProcess], at: int, after: bool
) -> None:
    lake = open_lake(tmp_path)
    run(lake, JOB, rows((DAY, "a", 1), (DAY, "b", 1)), "r1")
    killed = start(processes, publish_and_die, lake.config, at, after)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    whole = [(DAY, "a", 1), (DAY, "b", 2), (DAY, "c", 2)]
    assert content(lake) == (whole if (at, after) == (1, True) else [(DAY, "a", 1), (DAY, "b", 1)])
    second(Lake.open(lake.config))
    assert content(lake) == whole
    assert lake.branches(OUTPUT) == []
