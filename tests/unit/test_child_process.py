"""Children answer on pipes of their own, have nothing to read, and end whole: with all that they have started."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from eagleray.cluster.child_process import Child
from eagleray.cluster.descendants import descendants
from eagleray.cluster.guardian import guarded

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child("tests.child_work")
    yield made
    made.end()


def ask(child: Child, program: str) -> Any:
    child.send(program)
    return child.receive(time.monotonic() + PATIENCE_S)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


SLEEPERS = {
    "a process": "subprocess.Popen(['sleep', '600'])",
    "one with a session of its own": "subprocess.Popen(['sleep', '600'], start_new_session=True)",
    "one whose parent is gone": "subprocess.Popen('setsid sleep 600 & echo $!', shell=True, stdout=subprocess.PIPE)",
}


def test_messages_of_any_size_and_print_between_them(child: Child) -> None:
    assert ask(child, "print('x' * 100_000) or len(os.read(0, 10))") == 0  # nothing to read
    assert len(ask(child, "b'x' * 20_000_000")) == 20_000_000
    assert ask(child, "os.getsid(0) == os.getpid()") is True


def test_a_child_that_dies_is_the_end_of_its_answers(child: Child) -> None:
    child.send("os._exit(7)")
    with pytest.raises(EOFError):
        child.receive(time.monotonic() + PATIENCE_S)
    child.wait(PATIENCE_S)
    assert not child.alive() and child.end() == 7 and child.end() == 7
    with pytest.raises(BrokenPipeError):
        child.send("1")
    with pytest.raises(EOFError):
        child.receive()


def test_a_deadline_ends_the_wait(child: Child) -> None:
    child.send("time.sleep(600)")
    with pytest.raises(TimeoutError):
        child.receive(time.monotonic() + 0.1)


def test_a_process_with_many_descriptors_has_children_too() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2_048:
        pytest.skip(f"the limit of open files is {hard}; 2,048 are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_048), hard))
    with ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while held.enter_context(open(os.devnull)).fileno() < 1_024:  # more than select() can name
            pass
        child = Child("tests.child_work")
        held.callback(child.end)
        assert child.fileno() > 1_024 and ask(child, "1 + 1") == 2


@pytest.mark.parametrize("what", SLEEPERS)
def test_a_child_ends_with_all_that_it_has_started(child: Child, what: str) -> None:
    started = ask(child, f"[{SLEEPERS[what]}] and 0 or time.sleep(0.2)")
    assert started is None
    below = descendants(child.pid)
    assert below
    child.end()
    eventually(lambda: all(map(gone, below)))


@pytest.mark.parametrize("what", SLEEPERS)
def test_all_of_it_ends_with_the_parent(what: str) -> None:
    program = f"""
import sys, time
from eagleray.cluster.child_process import Child
from eagleray.cluster.descendants import descendants
child = Child("tests.child_work")
child.send({f"[{SLEEPERS[what]}] and 0 or time.sleep(0.2)"!r})
child.receive()
print(child.pid, *descendants(child.pid), flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout
    pids = [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert len(pids) > 1
    eventually(lambda: all(map(gone, pids)))


@pytest.mark.parametrize("what", ["a process", "one with a session of its own"])
def test_what_a_guarded_process_has_started_dies_with_it(what: str) -> None:
    program = f"""
import subprocess, sys, time
from eagleray.cluster.guardian import guarded
with guarded():
    print({SLEEPERS[what]}.pid, flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout
    pid = int(process.stdout.readline())
    time.sleep(1.2)  # two looks of the guardian
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    eventually(lambda: gone(pid))


def test_a_guardian_leaves_with_its_block() -> None:
    before = descendants(os.getpid())
    with guarded():
        (guardian,) = descendants(os.getpid()) - before
    assert gone(guardian)
