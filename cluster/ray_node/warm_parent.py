"""The warm parent: a process that has imported everything, and forks a worker in milliseconds when Ray asks for one.

A fork shares what was imported, so nine workers take the time and the memory of one (docs/adr/0017). It never talks to
Ray and has no threads of its own, so that a child begins in a state that a new process could be in.

Rules. 1. Whatever the parent's life left behind (locks, signal handlers, logging) is let go of before the first fork.
2. A child's environment, standard streams and process group are those of the process that asked for it.
3. The parent ends when the process that made it does; its children end with their raylet.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import logging
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from pathlib import Path

BACKLOG = 256
REAP_S = 1.0
_REQUEST_S = 5.0  # a request comes in one piece or is none
_M_ARENA_MAX = -8  # mallopt's number; the environment's MALLOC_ARENA_MAX came too late for this process
_ARENAS = 2


class WarmParent:
    """The parent as its maker sees it: a child process that serves at `path` until `end`."""

    def __init__(self, path: Path) -> None:
        """Fork it from this process, which must have no threads but those that libraries keep through a fork."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(BACKLOG)
        lifeline, self._lifeline = os.pipe()
        gc.collect()
        gc.freeze()  # what is there now stays: the collector of a child need not touch, and copy, its pages
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._lifeline)
            _serve(listener, lifeline)
        gc.unfreeze()
        os.close(lifeline)
        listener.close()

    def end(self) -> None:
        """End it; workers go on."""
        os.close(self._lifeline)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _serve(listener: socket.socket, lifeline: int) -> None:
    """Never returns. Errors of one request are no concern of the next."""
    try:
        _forget(keep={0, 1, 2, listener.fileno(), lifeline})
        while True:
            ready, _, _ = select.select([listener.fileno(), lifeline], [], [], REAP_S)
            _reap()
            if lifeline in ready:
                os._exit(0)
            if ready:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError, ValueError, KeyError):
                    connection.settimeout(_REQUEST_S)
                    _answer(connection, listener, lifeline)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _forget(keep: set[int]) -> None:
    """Rule 1."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):  # they go to the whole group; the maker decides
        signal.signal(number, signal.SIG_IGN)
    logging.getLogger().handlers.clear()
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(name))
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _answer(connection: socket.socket, listener: socket.socket, lifeline: int) -> None:
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    try:
        size = int.from_bytes(head, "big")
        body = b""
        while len(body) < size:
            part = connection.recv(size - len(body))
            if not part:
                return
            body += part
        request = json.loads(body)
        if os.fork() == 0:
            listener.close()
            os.close(lifeline)
            connection.close()
            _become(request["argv"], request["env"], request["oom_score_adj"], streams)
        connection.send(b"+")
    finally:
        for stream in streams:
            os.close(stream)


def _become(words: list[str], environment: dict[str, str], oom_score_adj: str, streams: list[int]) -> None:
    """Be the worker that Ray's command describes; never returns. Rule 2."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environment)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write(oom_score_adj)
        script = next(index for index, word in enumerate(words) if word.endswith(".py"))
        sys.argv = words[script:]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
