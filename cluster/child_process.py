"""Python processes that work for this one: `Child` is the parent's side, `Channel` the child's.

Used by `sql.worker`, `jobs.run.local` and `actors.edge.quarantine`. Messages are pickles with their length before them,
on two pipes of their own. So standard input is empty, and what code in the child reads from or prints to the standard
streams is nobody's message. A child has its own session: a signal from the terminal is for the parent, and the child
ends whole, with all that it has started. When the parent ends, its children do (`Channel.listen`).
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait  # takes descriptors of any number, as select() does not
from time import monotonic
from typing import Any

from eagleray.cluster.descendants import adopt_orphans, end_tree, leave
from eagleray.cluster.installation import child_environment

_HEADER = struct.Struct(">Q")
_CHUNK = 1 << 20


class Child:
    """A process that runs `module`, whose main function opens a `Channel`. Not safe to share between threads."""

    def __init__(self, module: str) -> None:
        """Start it."""
        requests, sending = os.pipe()
        receiving, answers = os.pipe()
        # As files, which know that they are closed: a thread that reads while another ends the child never reads
        # from a number that was given again.
        self._requests, self._answers = open(sending, "wb", buffering=0), open(receiving, "rb", buffering=0)
        try:
            # -P: nothing in the current directory may stand in for a library. What it prints goes to our errors.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(requests), str(answers)],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(requests, answers),
                start_new_session=True,
                env=child_environment(),
            )
        finally:
            os.close(requests)
            os.close(answers)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def fileno(self) -> int:
        """What can be read when an answer begins to come, or the child is gone."""
        return self._answers.fileno()

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def send(self, message: object) -> None:
        """Send a message; raises BrokenPipeError where the child is gone."""
        try:
            _send(self._requests.write, message)
        except ValueError as error:  # closed by another thread
            raise BrokenPipeError from error

    def receive(self, deadline_s: float | None = None) -> Any:
        """The next message; raises EOFError where the child is gone, TimeoutError at `deadline_s` (monotonic)."""
        try:
            return _receive(self._answers.read, lambda: self._await(deadline_s))
        except ValueError as error:  # closed by another thread
            raise EOFError from error

    def _await(self, deadline_s: float | None) -> None:
        if deadline_s is not None and not wait([self.fileno()], max(0.0, deadline_s - monotonic())):
            raise TimeoutError

    def wait(self, timeout_s: float) -> None:
        """Let it come to its end by itself, so that its exit code tells why."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)

    def kill(self) -> None:
        """Kill it with all that it has started; does not wait."""
        end_tree(self._process.pid)

    def end(self) -> int:
        """End it with all that it has started, if it has not ended yet; its exit code, as `subprocess` has it."""
        if not self._requests.closed:
            self.kill()
            self._process.wait()
            self._requests.close()
            self._answers.close()
        return int(self._process.returncode)


class Channel:
    """The way to the parent, in a child; made once, first thing."""

    def __init__(self) -> None:
        """Take over the pipes that the command line names; from now on this process adopts orphans."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._requests, self._answers = int(sys.argv[1]), int(sys.argv[2])
        for end in (self._requests, self._answers):
            os.set_inheritable(end, False)
            os.register_at_fork(after_in_child=lambda end=end: _close(end))  # a fork is not this child
        adopt_orphans()

    def send(self, message: object) -> None:
        """Send a message."""
        _send(partial(os.write, self._answers), message)

    def receive(self) -> Any:
        """The next message; raises EOFError where the parent is gone."""
        return _receive(partial(os.read, self._requests))

    def listen(self, take: Callable[[Any], None], at_end: Callable[[], None] = lambda: None) -> None:
        """Hand on every message to `take`, in a thread; when the parent is gone call `at_end` and leave, whole."""

        def serve() -> None:
            with suppress(EOFError, OSError):
                while True:
                    take(self.receive())
            at_end()
            leave(0)

        threading.Thread(target=serve, name="requests", daemon=True).start()


def _send(write: Callable[[memoryview], int | None], message: object) -> None:
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    for part in (_HEADER.pack(len(body)), body):
        view = memoryview(part)
        while view:
            view = view[write(view) or 0 :]


def _receive(read: Callable[[int], bytes | None], ready: Callable[[], None] = lambda: None) -> Any:
    (size,) = _HEADER.unpack(_read(read, ready, _HEADER.size))
    return pickle.loads(_read(read, ready, size))


def _read(read: Callable[[int], bytes | None], ready: Callable[[], None], size: int) -> bytes:
    parts = []
    while size:
        ready()
        part = read(min(size, _CHUNK))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _close(pipe: int) -> None:
    with suppress(OSError):
        os.close(pipe)
