"""`eagleray dead-letters replay` on a running platform: what is rejected again is one attempt higher."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.running_platform import RunningPlatform, eventually

pytestmark = pytest.mark.platform


def test_an_event_replayed_and_rejected_again_is_in_its_second_attempt(platform: RunningPlatform) -> None:
    status, answer = platform.post("impulse", b'{"broken": ')
    assert status == 400, answer
    lines = b'{"broken 1": \n{"broken 2": '
    assert platform.post("impulse", lines, "application/x-ndjson")[1]["accepted"] == 0
    ours = "SELECT attempt FROM impulse.dead_letters WHERE decode(original) LIKE '%broken _\":%' ORDER BY attempt"
    eventually(lambda: len(platform.sql(ours)) == 2)
    command = [str(Path(sys.executable).parent / "eagleray"), "dead-letters", "replay", "impulse", "--reason", "json"]
    for attempt in (2, 3):
        subprocess.run([*command, "--url", platform.url], check=True, cwd=platform.directory, timeout=120)
        eventually(lambda attempt=attempt: len(platform.sql(ours)) == 2 * attempt)
    assert platform.sql(ours) == [(1,), (1,), (2,), (2,), (3,), (3,)]
