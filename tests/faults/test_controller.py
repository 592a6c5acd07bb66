"""The controller killed, and then others: its successor works by itself, with the same workers, sizes and port."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.checker import Acked, read_lake
from tests.faults.trial import Trial, on_trial
from tests.running_platform import RunningPlatform, eventually

pytestmark = [pytest.mark.platform, pytest.mark.faults]

WORKER = re.compile(rb"ray::(edge|validate|window|writer|committer|sql|scheduler)\b")


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A platform of its own, which the last test stops, under load."""
    with on_trial(tmp_path_factory.mktemp("controller")) as trial:
        yield trial


def workers(platform: RunningPlatform) -> dict[str, set[int]]:
    """Pids of living worker processes by pool, as the operating system has them."""
    found: dict[str, set[int]] = {}
    for pid in platform.processes():
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if match := WORKER.match(title):
            found.setdefault(match[1].decode(), set()).add(pid)
    return found


def rows(platform: RunningPlatform, stream: str, *columns: str) -> list[tuple[int, ...]]:
    """Of the table `events`, read without the platform."""
    found = read_lake(platform.data, stream)["events"]
    return list(zip(*(found.column(name).to_pylist() for name in columns), strict=True))


def kill_controller(trial: Trial) -> None:
    """And wait for another."""
    gone = trial.kill("controller")
    eventually(lambda: not set(trial.platform.pids("controller")) & set(gone))


def resize(platform: RunningPlatform, pool: str, size: int) -> None:
    """As `eagleray scale` does, and wait until all are there."""
    body = json.dumps({"size": size}).encode()
    status, _, answer = platform.request("POST", f"/v1/admin/pools/{pool}", body, {"Content-Type": "application/json"})
    assert status == 200, answer
    eventually(lambda: len(platform.pids(pool)) == size)


def test_a_successor_keeps_the_workers_and_the_sizes(trial: Trial) -> None:
    resize(trial.platform, "writer", 3)
    before = eventually(lambda: (found := workers(trial.platform)) and len(found.get("writer", ())) == 3 and found)
    kill_controller(trial)
    pools = eventually(
        lambda: (
            (found := trial.platform.get("/v1/status")["pools"])
            and all(p["alive"] == p["size"] for p in found.values())
            and found
        )
    )
    assert pools["writer"]["size"] == 3
    assert workers(trial.platform) == before
    trial.assert_progress()


def test_without_word_of_its_predecessor_it_counts_the_workers(trial: Trial) -> None:
    before = workers(trial.platform)
    topology = trial.platform.get("/v1/status")["topology"]
    (trial.platform.data / "state" / "controller.json").unlink()
    kill_controller(trial)
    later = eventually(lambda: (now := trial.platform.get("/v1/status")["topology"]) > topology and now)
    assert later[0] > topology[0]
    assert workers(trial.platform) == before
    resize(trial.platform, "writer", 2)
    eventually(lambda: len(workers(trial.platform)["writer"]) == 2)  # who is too much leaves
    trial.assert_progress()


def test_an_edge_killed_after_the_controller_listens_again_on_its_port(trial: Trial) -> None:
    kill_controller(trial)
    trial.wait_replaced("edge", trial.kill("edge"))
    gone = trial.kill("controller") + trial.kill("edge")  # and both at once
    eventually(lambda: not set(trial.platform.pids("controller") + trial.platform.pids("edge")) & set(gone))
    trial.assert_progress()


def test_a_restart_by_sigterm_under_load_loses_nothing_acked(trial: Trial) -> None:
    port = int(trial.platform.url.rpartition(":")[2])
    assert trial.platform.stop() == 0
    acked = {(producer, seq) for producer, seqs in Acked.read(trial.directory).seqs.items() for seq in seqs}
    assert acked <= set(rows(trial.platform, "orders", "producer", "seq"))
    trial.platform.start(port)
    trial.assert_progress()


def test_what_was_acked_is_drained_after_the_controller_was_killed(trial: Trial) -> None:
    trial.end()
    trial.close_windows()
    trial.assert_safe()
    kill_controller(trial)
    order = {"producer": 1, "time": "2026-06-01T12:00:00Z", "kind": "buy", "amount": 1}
    trial.platform.send("hot", [json.dumps(order | {"id": f"last-{n}", "seq": n}).encode() for n in range(7)], rows=1)
    for pid in trial.platform.pids("controller"):  # and in the midst of it
        os.kill(pid, signal.SIGKILL)
    assert trial.platform.stop() == 0
    assert sorted(rows(trial.platform, "hot", "seq")) == [(n,) for n in range(7)]
    assert not workers(trial.platform)
