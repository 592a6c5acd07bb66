"""Answers SQL for others, such as the HTTP edge: every query runs in a child process that can be ended at any moment.

A plain class; the platform makes an actor of it. Promise: a query takes at most its time limit and GRACE_S, and
whatever it does to its process, the next query finds a healthy one.
"""

from __future__ import annotations

import os
import pickle
import queue
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError, Overloaded, QueryFailed
from eagleray.cluster.installation import child_environment
from eagleray.sql.child import HEADER, READY, send
from eagleray.sql.limits import GRACE_S

Form = Literal["json", "arrow"]

QUERIES_MAX = 2  # at once; the memory of each is lake.query_memory_max
_LEAST_S = 0.05  # for a query whose child took all the time to start
_CHUNK = 1 << 20


class SqlWorker:
    """Runs queries in child processes; threads may share it."""

    def __init__(self, config: Config, *, queries_max: int = QUERIES_MAX) -> None:
        """Start the first child; the others start when they are needed."""
        self._config = config
        self._slots: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(queries_max - 1):
            self._slots.put(None)
        self._slots.put(_Child(config))

    def query(self, text: str, timeout_s: float, form: Form = "json") -> dict[str, Any] | bytes:
        """`form` json: `{"columns", "rows"}` as `sql.answer` has it; arrow: an IPC stream.

        Raises QueryRejected, QueryFailed, and Overloaded where no child is free or started within `timeout_s`.
        """
        deadline = monotonic() + timeout_s
        try:
            child = self._slots.get(timeout=timeout_s)
        except queue.Empty:
            raise Overloaded("the number of SQL queries at once", retry_after_s=1) from None
        try:
            if child is None or not child.alive():
                child = self._replace(child)
            answer = child.ask(text, timeout_s, form, deadline)
            if isinstance(answer, QueryFailed):
                child = self._replace(child)  # it may hold on to much memory
        finally:
            self._slots.put(child)
        if isinstance(answer, EaglerayError):
            raise answer
        return answer  # type: ignore[no-any-return]

    def _replace(self, child: _Child | None) -> _Child:
        if child:
            child.end()
        return _Child(self._config)

    def close(self) -> None:
        """End the children; queries that run fail."""
        while not self._slots.empty():
            if child := self._slots.get():
                child.end()


class _Child:
    """One child process and the pipes to it."""

    def __init__(self, config: Config) -> None:
        temp = config.data_dir / "tmp"
        temp.mkdir(parents=True, exist_ok=True)
        self._temp_dir = Path(tempfile.mkdtemp(prefix="sql-", dir=temp))
        # -P: nothing in the current directory may stand in for a library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "eagleray.sql.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout
        send(self._requests, (config, self._temp_dir))
        self._ready = False

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, text: str, timeout_s: float, form: Form, deadline: float) -> Any:
        """The child's answer; errors are values. Ends the child where it does not answer."""
        try:
            if not self._started(deadline):
                return Overloaded("the time for a SQL process to start", retry_after_s=1)
            send(self._requests, (text, max(_LEAST_S, deadline - monotonic()), form))
            return self._receive(deadline + GRACE_S)
        except TimeoutError:
            self.end()
            return QueryFailed(f"the query was stopped after its time limit of {timeout_s:g} s")
        except (EOFError, BrokenPipeError):
            self.end()
            return QueryFailed("the query ended its process, most likely for want of memory (lake.query_memory_max)")

    def _started(self, deadline: float) -> bool:
        if not self._ready and select.select([self._answers], [], [], max(0.0, deadline - monotonic()))[0]:
            self._ready = self._receive(deadline + GRACE_S) == READY
        return self._ready

    def _receive(self, deadline: float) -> Any:
        (size,) = HEADER.unpack(self._read(HEADER.size, deadline))
        return pickle.loads(self._read(size, deadline))

    def _read(self, size: int, deadline: float) -> bytes:
        parts = []
        while size:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - monotonic()))
            if not ready:
                raise TimeoutError
            part = os.read(self._answers.fileno(), min(size, _CHUNK))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self._answers.close()
        shutil.rmtree(self._temp_dir, ignore_errors=True)  # what a query that was ended had spilled
