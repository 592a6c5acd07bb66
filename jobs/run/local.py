"""Runs attempts in child processes of this one: for `eagleray job run` where no cluster is asked for.

Starting Ray takes longer than most jobs (docs/adr/0010-jobs-run-in-children-or-on-ray.md). A child serves many
attempts, one at a time; one that dies or is stopped is replaced. Children end with their parent, however it ends.
"""

from __future__ import annotations

import selectors
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eagleray.cluster.child_process import Child
from eagleray.cluster.config import Config
from eagleray.cluster.masking import Mask
from eagleray.jobs.run.failure import death_of
from eagleray.jobs.run.machine import machine_capacity
from eagleray.jobs.run.outcome import Ending
from eagleray.jobs.run.run_state import Capacity
from eagleray.jobs.run.scratch import make_scratch, sweep
from eagleray.jobs.run.workers import Task, Work

EXIT_S = 2.0  # between the end of a child's answers and its own


@dataclass
class _Child:
    process: Child
    scratch: Path
    task: Task | None = None


class LocalWorkers:
    """Child processes, as many as attempts run at once."""

    def __init__(self, config: Config, work: Work | None = None) -> None:
        """Children are started when they are needed."""
        self._config = config
        self._work = work
        self._capacity = machine_capacity(config)
        self._idle: list[_Child] = []
        self._busy: dict[str, _Child] = {}
        self._selector = selectors.DefaultSelector()
        sweep(config)

    @property
    def capacity(self) -> Capacity:
        """What may run at once on this machine."""
        return self._capacity

    def largest(self) -> Capacity:
        """One attempt may have all of the machine."""
        return self._capacity

    def start(self, task: Task) -> None:
        """Give the attempt to an idle child, or to a new one."""
        child = self._idle.pop() if self._idle else self._spawn()
        child.task = task
        self._busy[task.key] = child
        self._selector.register(child.process, selectors.EVENT_READ, child)
        with suppress(BrokenPipeError):  # it died while idle: `wait` finds its end
            child.process.send(task)

    def wait(self, timeout_s: float | None) -> Sequence[tuple[str, Ending]]:
        """The attempts that ended; returns as soon as there are any."""
        ended = []
        for child in {id(found.data): found.data for found, _ in self._selector.select(timeout_s)}.values():
            task = child.task
            assert task
            try:
                answer: Ending = child.process.receive()
                self._release(task.key)
                self._idle.append(child)
            except EOFError:
                self._release(task.key)
                child.process.wait(EXIT_S)  # how it ended tells why
                answer = death_of(task.job, task.log, self._end(child))
                self._mask(task)
            ended.append((task.key, answer))
        return ended

    def stop(self, key: str) -> None:
        """Kill the attempt's process, and all that it has started."""
        if key in self._busy:
            task = self._busy[key].task
            self._end(self._release(key))
            if task is not None:
                self._mask(task)

    def close(self) -> None:
        """Kill every child."""
        for key in list(self._busy):
            self.stop(key)
        while self._idle:
            self._end(self._idle.pop())
        self._selector.close()

    def _spawn(self) -> _Child:
        child = _Child(Child("eagleray.jobs.run.child"), make_scratch(self._config))
        with suppress(BrokenPipeError):
            child.process.send((self._config, child.scratch, self._work))
        return child

    def _release(self, key: str) -> _Child:
        child = self._busy.pop(key)
        self._selector.unregister(child.process)
        child.task = None
        return child

    def _mask(self, task: Task) -> None:
        """Mask the log of an attempt that could not do so itself."""
        with suppress(FileNotFoundError):
            Mask(self._config.secret_values()).file(task.log)

    def _end(self, child: _Child) -> int:
        code = child.process.end()
        shutil.rmtree(child.scratch, ignore_errors=True)
        return code
