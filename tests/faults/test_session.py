"""Ray's own processes killed under load: `up` says so in a line and starts its session again; nothing acked is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.trial import Trial, on_trial
from tests.running_platform import RunningPlatform, eventually

pytestmark = [pytest.mark.platform, pytest.mark.faults]

SAID = "starting the session again"


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A platform of its own, under load from the first test to the last."""
    with on_trial(tmp_path_factory.mktemp("session")) as trial:
        yield trial


def the_process(platform: RunningPlatform, words: bytes) -> int:
    """The pid of the one process whose command line has `words`."""
    found = [pid for pid in platform.processes() if words in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 1, found
    return found[0]


def said(platform: RunningPlatform) -> list[str]:
    """What `up` has said of lost sessions."""
    return [line for line in (platform.directory / "up.stderr").read_text().splitlines() if SAID in line]


def kill_and_see(trial: Trial, words: bytes, what: str) -> None:
    """Kill; then one line more, the same `up` on the same port, none of the old processes, and progress."""
    platform = trial.platform
    before, old, up = len(said(platform)), set(platform.processes()), platform.process
    assert up is not None
    os.kill(the_process(platform, words), signal.SIGKILL)
    eventually(lambda: len(said(platform)) == before + 1)
    assert what in said(platform)[-1]
    eventually(lambda: "ready again" in (platform.directory / "up.stderr").read_text().split(SAID)[-1])
    assert up.poll() is None and old & set(platform.processes()) == {up.pid}
    trial.assert_progress()


def test_an_agent_killed_takes_its_raylet_along_and_sizes_stay(trial: Trial) -> None:
    body = b'{"size": 3}'
    answer = trial.platform.request("POST", "/v1/admin/pools/writer", body, {"Content-Type": "application/json"})
    assert answer[0] == 200
    kill_and_see(trial, b"agent_on_demand.py\x000\x00", "Ray's raylet exited with")
    assert trial.platform.get("/v1/status")["pools"]["writer"]["size"] == 3


def test_a_control_server_killed(trial: Trial) -> None:
    kill_and_see(trial, b"gcs_server", "Ray's gcs_server was killed by signal 9")
    trial.end()
    trial.close_windows()
    trial.assert_safe()
