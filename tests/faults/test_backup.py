"""A backup taken under load, the original destroyed, and a platform that goes on from it elsewhere: FAULTS 50, 53."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from eagleray.cluster.backup.manifest import read_manifest
from tests.faults.trial import Trial
from tests.running_platform import RunningPlatform, eventually

pytestmark = [pytest.mark.platform, pytest.mark.faults]
PROJECT = Path(__file__).parent / "project"
SECOND_LOAD = 1_000_000  # where its producers' numbers begin


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[RunningPlatform, RunningPlatform]]:
    platforms = RunningPlatform(tmp_path / "one", PROJECT), RunningPlatform(tmp_path / "two", PROJECT)
    yield platforms
    for platform in platforms:
        if platform.process:
            platform.kill()


def eagleray(*words: str) -> None:
    command = [str(Path(sys.executable).parent / "eagleray"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


def promised(notes: Path, before: float) -> list[str]:
    """Lines of acked.jsonl that were acked `before`, on the monotonic clock."""
    lines = (notes / "acked.jsonl").read_text().split("\n")[:-1]
    return [line for line in lines if json.loads(line).get("at", before) < before]


def test_the_original_destroyed_under_load_goes_on_from_its_backup(
    two: tuple[RunningPlatform, RunningPlatform], tmp_path: Path
) -> None:
    one, other = two
    one.start()
    trial = Trial(one, tmp_path / "notes")
    trial.begin()
    eventually(lambda: one.count("orders.total") > 3)
    # 1. a backup while events, commits and closings go on
    monotonic_of = time.monotonic() - time.clock_gettime(time.CLOCK_REALTIME)
    eagleray("backup", str(tmp_path / "backup"), "-c", str(one.directory / "eagleray.yaml"))
    acked = trial.acked()
    eventually(lambda: trial.acked() > acked + 20)
    # 2. everything gone, in the middle of it
    assert trial.load
    trial.load.kill()
    trial.load.wait()
    one.kill()
    shutil.rmtree(one.data)
    # 3. what was acked before the backup's instant is what the checker asks for, and all that comes after the restore
    instant = datetime.fromisoformat(read_manifest(tmp_path / "backup").instant).timestamp() + monotonic_of
    (tmp_path / "after").mkdir()
    shutil.copy(tmp_path / "notes" / "sent.jsonl", tmp_path / "after")
    kept = promised(tmp_path / "notes", instant)
    assert 10 < len(kept) < len((tmp_path / "notes" / "acked.jsonl").read_text().splitlines())
    (tmp_path / "after" / "acked.jsonl").write_text("".join(f"{line}\n" for line in kept))
    # 4. elsewhere
    eagleray("restore", str(tmp_path / "backup"), "-c", str(other.directory / "eagleray.yaml"))
    other.start()
    again = Trial(other, tmp_path / "after")
    again.begin(first=SECOND_LOAD)
    again.assert_progress()
    again.end()
    again.close_windows()
    again.assert_safe()
    assert other.stop() == 0
