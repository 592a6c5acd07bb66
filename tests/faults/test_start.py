"""Starts that go wrong: what cannot start is named at once; workers start also without their warm parent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from eagleray.cli.init import TEMPLATE
from tests.running_platform import RunningPlatform, eventually, running

EVENT = b'{"event_id": "%d", "time": "2026-06-01T12:20:00Z", "player": "you", "kind": "login"}'


@pytest.fixture
def platform(tmp_path: Path) -> RunningPlatform:
    return RunningPlatform(tmp_path / "project", TEMPLATE)


def test_workers_start_without_their_warm_parent(platform: RunningPlatform) -> None:
    with running(platform):
        up = platform.process
        assert up is not None
        children = Path(f"/proc/{up.pid}/task/{up.pid}/children").read_text().split()
        own = Path(f"/proc/{up.pid}/cmdline").read_bytes()
        warm = [int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == own]
        assert len(warm) == 1  # a fork of `up`, with its very command
        os.kill(warm[0], signal.SIGKILL)
        before = set(platform.pids("validate"))
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: platform.post("plays", EVENT % 1)[0] == 200, 90)
        eventually(lambda: len(platform.pids("validate")) == 2 and not before & set(platform.pids("validate")), 90)
        assert platform.post("plays", EVENT % 2) == (200, {"accepted": 1, "rejected": []})


def test_acked_before_everything_is_up_is_in_the_table_after_a_stop(platform: RunningPlatform) -> None:
    platform.start()
    assert platform.post("plays", EVENT % 7)[0] == 200
    assert platform.stop() == 0  # at once: the workers behind may not be there yet
    command = [sys.executable, "-m", "eagleray", "sql", "--format", "csv", "SELECT count(*) AS n FROM plays.events"]
    asked = subprocess.run(command, cwd=platform.directory, capture_output=True, text=True, timeout=60)
    assert asked.stdout.split() == ["n", "1"], asked.stderr


def test_a_catalog_that_is_none_is_said_and_ends_the_start(platform: RunningPlatform) -> None:
    platform.data.mkdir()
    (platform.data / "catalog.db").write_bytes(b"this is no database at all" * 100)
    command = [sys.executable, "-m", "eagleray", "up", "-c", "eagleray.yaml", "--port", "0"]
    ran = subprocess.run(command, cwd=platform.directory, capture_output=True, text=True, timeout=100)
    assert ran.returncode in (1, 2) and not ran.stdout
    assert "Traceback" not in ran.stderr and "catalog" in ran.stderr.splitlines()[-1]


def test_a_worker_whose_process_ends_at_its_start_is_named(platform: RunningPlatform) -> None:
    """Only where validators work: `up` and the others load the model and live."""
    model = """
        import os
        from pydantic import BaseModel

        class Play(BaseModel):
            event_id: str
            time: str

        if os.environ.get("RAY_RAYLET_PID"):
            os._exit(3)
        """
    (platform.directory / "play_model.py").write_text(textwrap.dedent(model))
    (platform.directory / "eagleray.yaml").write_text(
        "edge: {auth: off}\nstreams: {plays: {schema: 'play_model:Play', time: time, id: event_id}}\n"
    )
    command = [sys.executable, "-m", "eagleray", "up", "-c", "eagleray.yaml", "--port", "0"]
    ran = subprocess.run(command, cwd=platform.directory, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 1 and not ran.stdout
    assert re.match(
        r"eagleray: \w+-\d cannot start: its process ended \d+ times; see .*\.log", ran.stderr.splitlines()[-1]
    )
