"""A lost session: what it leaves for the next, when starting again is given up, and that nothing of it lives on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eagleray.cli.session_again import ENDS_MAX, Before, SessionLost, read_before, with_this_end, write_platform
from eagleray.cluster.errors import EaglerayError

# A descendant whose parent is gone, that is stopped: what a lost session leaves at its worst.
PROGRAM = """
import os, signal, subprocess, sys, time
from eagleray.cluster.descendants import adopt_orphans, end_all, reap
adopt_orphans()
parent = subprocess.Popen([sys.executable, "-c", '''
import subprocess, sys
print(subprocess.Popen(["sleep", "600"], start_new_session=True).pid, flush=True)
'''], stdout=subprocess.PIPE, text=True)
orphan = int(parent.stdout.readline())
parent.wait()
os.kill(orphan, signal.SIGSTOP)
end_all(20)
print(orphan, os.path.exists(f"/proc/{orphan}"))
"""


def test_only_the_process_that_wrote_it_goes_on_from_the_word(tmp_path: Path) -> None:
    place = tmp_path / "platform.json"
    before = Before("run", 8080, True, (1.5, 2.5))
    write_platform(place, "http://127.0.0.1:8080", tmp_path, before)
    assert read_before(place) == before
    word = json.loads(place.read_text())
    for key in ("pid", "started"):
        place.write_text(json.dumps(word | {key: word[key] + 1}))
        assert read_before(place) is None
    write_platform(place, "http://127.0.0.1:8080", tmp_path)  # it runs: nothing to go on from
    assert read_before(place) is None and read_before(tmp_path / "none") is None


def test_what_ends_again_and_again_is_not_started_for_ever() -> None:
    before, lost = Before("run"), SessionLost("Ray's raylet was killed by signal 9")
    for count in range(ENDS_MAX):
        before = with_this_end(before, lost)
        assert len(before.ends) == count + 1
    with pytest.raises(EaglerayError, match=r"Ray's raylet was killed by signal 9, the 4th time within 10 minutes"):
        with_this_end(before, lost)
    long_ago = Before("run", ends=tuple(at - 3600 for at in before.ends))
    assert len(with_this_end(long_ago, lost).ends) == 1


def test_no_descendant_outlives_the_fence(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    pid, lives = ran.stdout.split()
    assert lives == "False", os.kill(int(pid), signal.SIGKILL)
