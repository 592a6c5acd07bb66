"""Processes that are stopped under load (SIGSTOP), and woken up after they were replaced: FAULTS 8 and 55.

`pools.stalled_after_s` is short here, so that a minute of standstill takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.trial import Trial, on_trial
from tests.running_platform import RunningPlatform, eventually

pytestmark = [pytest.mark.platform, pytest.mark.faults]

SHORT = {"EAGLERAY__POOLS__STALLED_AFTER_S": "6", "EAGLERAY__EDGE__READY_LAG_S": "6"}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A platform of its own, under load from the first test to the last."""
    with on_trial(tmp_path_factory.mktemp("stopped"), SHORT) as trial:
        eventually(lambda: all(p["alive"] == p["size"] for p in trial.platform.get("/v1/status")["pools"].values()))
        yield trial


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """The processes stand still for the time of the block, and wake up, where they still are, at its end."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it was replaced
                os.kill(pid, signal.SIGCONT)


def unready(platform: RunningPlatform) -> str:
    """What /readyz says is wrong; empty: ready."""
    status, _, answer = platform.request("GET", "/readyz")
    return "" if status == 200 else str(json.loads(answer)["detail"])


def replaced(platform: RunningPlatform, pool: str, gone: list[int]) -> bool:
    """Whether the pool is whole again without the processes `gone`."""
    found = platform.get("/v1/status")
    alive = [row for row in found["processes"] if row["pool"] == pool and row["alive"]]
    size = found["pools"][pool]["size"] if pool in found["pools"] else 1
    return len(alive) == size and not {row["pid"] for row in alive} & set(gone)


def test_a_committer_that_stands_still_is_succeeded_and_harms_nothing_when_it_wakes(trial: Trial) -> None:
    (pid,) = trial.platform.pids("committer")
    with stopped(pid):
        assert "committer-0 has not answered" in eventually(lambda: unready(trial.platform))
        eventually(lambda: replaced(trial.platform, "committer", [pid]))
        trial.assert_progress()  # while it stands still
        eventually(lambda: not unready(trial.platform))
    trial.assert_progress()


def test_one_worker_of_every_kind_stands_still_at_once(trial: Trial) -> None:
    pools = ("validate", "window", "writer", "sql", "committer")
    pids = {pool: trial.platform.pids(pool)[0] for pool in pools}
    with stopped(*pids.values()):
        for pool, pid in pids.items():
            eventually(lambda pool=pool, pid=pid: replaced(trial.platform, pool, [pid]))
        trial.assert_progress()
    counted = {row["pool"]: row["replaced"] for row in trial.platform.get("/v1/status")["processes"] if row["replaced"]}
    assert set(counted) >= set(pools)
    trial.assert_progress()


def test_an_edge_and_the_controller_stand_still(trial: Trial) -> None:
    for pool in ("controller", "edge"):
        pids = trial.platform.pids(pool)
        with stopped(*pids):
            eventually(lambda pool=pool, pids=pids: replaced(trial.platform, pool, pids))
            trial.assert_progress()


def holder(lock: Path) -> int:
    """The process that holds the file's lock; 0: nobody."""
    inode = f":{lock.stat().st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].endswith(inode):
            return int(words[4])
    return 0


def test_a_validator_that_stands_still_with_the_logs_lock_blocks_nobody_for_long(trial: Trial) -> None:
    lock = trial.platform.data / "log" / "orders" / "records.lock"
    validators = trial.platform.pids("validate")
    deadline = time.monotonic() + 60
    while True:  # until one is met in the midst of an append
        pid = holder(lock)
        if pid in validators:
            os.kill(pid, signal.SIGSTOP)
            if holder(lock) == pid:
                break
            os.kill(pid, signal.SIGCONT)
        assert time.monotonic() < deadline, "no validator was met with the lock"
    with stopped(pid):
        eventually(lambda: replaced(trial.platform, "validate", [pid]))
        trial.assert_progress()


def test_stateful_workers_that_get_no_more_memory_hold_nothing_up(trial: Trial) -> None:
    """They find room in what they have, end, or go round and fail until they are replaced."""
    pids = [pid for pool in ("window", "writer") for pid in trial.platform.pids(pool)]
    for pid in pids:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize(), resource.RLIM_INFINITY))
    stored, final = trial.platform.count("orders.events"), trial.platform.count("orders.total")
    eventually(lambda: trial.platform.count("orders.events") > stored, 90)
    eventually(lambda: trial.platform.count("orders.total") > final + 10, 90)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # and then the kernel's answer
    trial.assert_progress()
    eventually(lambda: not unready(trial.platform))


def test_readiness_looks_at_the_lake(trial: Trial) -> None:
    with contextlib.closing(sqlite3.connect(trial.platform.data / "catalog.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "has stood at record" in eventually(lambda: unready(trial.platform))
        other.execute("ROLLBACK")
    eventually(lambda: not unready(trial.platform))
    trial.assert_progress()


def test_after_all_of_it_everything_acked_is_there_once(trial: Trial) -> None:
    trial.assert_all_is_there_once()
