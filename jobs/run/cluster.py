"""Runs attempts as tasks of the Ray cluster that this process has joined, with their memory and cores reserved.

Ray never runs an attempt twice by itself (`max_retries=0`): retries are the runner's. Worker processes are Ray's, which
keeps them for the next task, so an attempt costs a call, not the start of a process.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, TaskCancelledError

from eagleray.cluster.config import Config
from eagleray.cluster.guardian import guarded
from eagleray.cluster.masking import Mask
from eagleray.cluster.ray_session import as_here
from eagleray.jobs.run.carry import carry_out
from eagleray.jobs.run.failure import death_of
from eagleray.jobs.run.memory import out_of_memory
from eagleray.jobs.run.outcome import Ending, Failure
from eagleray.jobs.run.run_state import Capacity
from eagleray.jobs.run.workers import Task, Work

LOG_BYTES_MAX = 4 << 20  # of a log that comes back from another machine


@dataclass(frozen=True)
class Answer:
    """How an attempt ended, and its log where the machine that ran it is another."""

    ending: Ending
    log: bytes | None


def attempt(config: Config, task: Task, work: Work | None, host: str) -> Answer:
    """The body of the Ray task. `host` is where the runner is."""
    config = as_here(config)
    with guarded():  # Ray ends the worker alone, and would leave what the job has started
        if socket.gethostname() == host:
            return Answer(carry_out(config, task, work=work), None)
        before = task.log.stat().st_size if task.log.exists() else 0
        ending = carry_out(config, task, work=work)
    with task.log.open("rb") as file:
        file.seek(max(before, task.log.stat().st_size - LOG_BYTES_MAX))
        return Answer(ending, file.read())


class RayWorkers:
    """Tasks of the joined cluster."""

    def __init__(self, config: Config, work: Work | None = None) -> None:
        """The cluster is joined already (`cluster.ray_session.connect`)."""
        remote: Any = ray.remote
        self._attempt = remote(attempt)
        self._config = ray.put(config)
        self._concurrency = config.jobs.concurrency
        self._work = work
        self._host = socket.gethostname()
        self._mask = Mask(config.secret_values())
        self._tasks: dict[Any, Task] = {}

    @property
    def capacity(self) -> Capacity:
        """The cluster's cores and memory, and `jobs.concurrency` attempts or one per core."""
        found = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cpus = float(found.get("CPU", 1))
        return Capacity(self._concurrency or max(1, int(cpus)), cpus, int(found.get("memory", 0)))

    def largest(self) -> Capacity:
        """One attempt runs on one node."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        cpus = max((float(node.get("CPU", 0)) for node in nodes), default=0.0)
        return Capacity(1, cpus, int(max((node.get("memory", 0) for node in nodes), default=0)))

    def start(self, task: Task) -> None:
        """Submit the attempt. One on Daft or Ray Data holds no core in Ray, where its tasks need them all."""
        limits, here = task.job.limits, task.job.engine == "duckdb"
        reference = self._attempt.options(
            name=task.key,
            num_cpus=limits.cpus if here else 0,
            memory=limits.memory_bytes,
            max_retries=0,
        ).remote(self._config, task, self._work, self._host)
        self._tasks[reference] = task

    def wait(self, timeout_s: float | None) -> Sequence[tuple[str, Ending]]:
        """The attempts that ended; returns as soon as there are any."""
        if not self._tasks:
            time.sleep(timeout_s or 0)
            return []
        first, _ = ray.wait(list(self._tasks), num_returns=1, timeout=timeout_s)
        if not first:
            return []
        done, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return [(self._tasks[one].key, self._ending(one)) for one in {*first, *done}]

    def _ending(self, reference: Any) -> Ending:
        task = self._tasks.pop(reference)
        try:
            answer: Answer = ray.get(reference)
        except OutOfMemoryError:
            what = "its machine ran out of memory, so Ray killed it (lower jobs.concurrency, if others took it)"
            return out_of_memory(what, task.job.limits.memory_bytes, retry=True)
        except (NodeDiedError, TaskCancelledError) as error:
            return Failure("killed", f"{type(error).__name__}: {error}", retry=True)
        except RayError:
            with suppress(FileNotFoundError):
                self._mask.file(task.log)
            return death_of(task.job, task.log, None)
        if answer.log is not None:
            task.log.parent.mkdir(parents=True, exist_ok=True)
            with task.log.open("ab") as file:
                file.write(answer.log)
        return answer.ending

    def stop(self, key: str) -> None:
        """Kill the attempt's process."""
        for reference in [one for one, task in self._tasks.items() if task.key == key]:
            del self._tasks[reference]
            ray.cancel(reference, force=True)

    def close(self) -> None:
        """Kill every attempt."""
        for task in list(self._tasks.values()):
            self.stop(task.key)
