"""A process that judges suspects and stores nothing: started by `isolation` when needed.

Each judgement runs in a fork of it, which says how far it came; `blame` knows what to judge next. It answers one
request after another.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from eagleray.actors.edge.quarantine.blame import Call, Ended, Found, Undecided, search
from eagleray.cluster.child_process import Channel
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.descendants import leave
from eagleray.cluster.events.judge import Judge
from eagleray.cluster.events.stream import load_streams

_PLACE = struct.Struct(">I")
CPU_S = 5  # whole seconds of processor time for one judgement
WAIT_S = 60  # and of real time; a machine so slow, or code that waits, decides nothing
MEMORY_BYTES_MAX = 1 << 30  # that one judgement may add
UNFINISHED = "the search takes longer"
_LIVED = 93  # an exit code that nobody else uses


def fork_and_judge(judge: Judge, calls: Sequence[Call]) -> Ended | None:
    """Judge the calls in turn in a fork; at which it ended and by what, None if it lived. Raises Undecided."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _judge_and_exit(judge, calls, writing)
    os.close(writing)
    try:
        cause = _watch(pid)
        reached = os.read(reading, _PLACE.size * len(calls))
    finally:
        os.close(reading)
    return None if cause is None else Ended(max(0, len(reached) // _PLACE.size - 1), cause)


def _judge_and_exit(judge: Judge, calls: Sequence[Call], progress: int) -> None:
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for at, call in enumerate(calls):
            os.write(progress, _PLACE.pack(at))
            allowed = int(time.process_time()) + 1 + CPU_S
            resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))
            with suppress(Exception):  # an error is an answer, which a worker lives to give
                judge.judge(call, SystemClock().now_us())
        code = _LIVED
    finally:
        os._exit(code)


def _watch(pid: int) -> str | None:
    """Wait for the fork and say what ended it, None if nothing did. Raises Undecided."""
    began, allowed = time.monotonic(), _resident_bytes(os.getpid()) + MEMORY_BYTES_MAX
    pause_s = 0.0005
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return _cause(status)
        # Watched, not limited: at a limit Python raises MemoryError, which a model may catch; a worker has no limit.
        too_large = _resident_bytes(pid) > allowed
        if too_large or time.monotonic() - began > WAIT_S:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            if too_large:
                return f"more than {MEMORY_BYTES_MAX >> 30} GiB of memory"
            raise Undecided(ends=False)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.01)


def _cause(status: int) -> str | None:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"more than {CPU_S} s" if number == signal.SIGXCPU else signal.Signals(number).name
    return None if os.WEXITSTATUS(status) == _LIVED else f"exit code {os.WEXITSTATUS(status)}"


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def main() -> None:
    """Serve until the parent is gone."""
    channel = Channel()
    config = channel.receive()
    judges = {name: Judge(stream, config.edge, 0) for name, stream in load_streams(config).items()}
    with suppress(EOFError):
        while True:
            submissions, timeout_s = channel.receive()
            judgement = partial(fork_and_judge, judges[submissions[0].stream])
            try:
                answer: Found | str | None = search(submissions, judgement, time.monotonic() + timeout_s)
            except Undecided as undecided:
                answer = UNFINISHED if undecided.ends else "the machine is too slow"
            channel.send(answer)
    leave(0)


if __name__ == "__main__":
    main()
