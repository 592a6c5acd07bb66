"""Where attempts run, as a protocol: child processes of this machine (`local`), or tasks of Ray (`cluster`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.jobs.run.outcome import Ending, Outcome
from eagleray.jobs.run.run_state import Capacity

Work = Callable[..., Outcome]
"""What an attempt does; `jobs.run.attempt.perform` unless told otherwise."""


@dataclass(frozen=True)
class Task:
    """An attempt to make. `run_id` is the node's own, the same for each of its attempts."""

    key: str
    job: Job
    period: Period
    run_id: str
    attempt: int
    log: Path  # what it prints is appended here
    trace: str = ""  # the run's context (`telemetry.tracing`), where it is sampled


class Workers(Protocol):
    """Runs attempts, each in a process that can be ended at any moment."""

    @property
    def capacity(self) -> Capacity:
        """What may run at once."""
        ...

    def largest(self) -> Capacity:
        """What one attempt can have at most."""
        ...

    def start(self, task: Task) -> None:
        """Begin an attempt; does not wait."""
        ...

    def wait(self, timeout_s: float | None) -> Sequence[tuple[str, Ending]]:
        """The attempts that ended, by key, as soon as there are any; none after `timeout_s`."""
        ...

    def stop(self, key: str) -> None:
        """End an attempt's process, now; it is not reported by `wait` any more."""
        ...

    def close(self) -> None:
        """End every process."""
        ...
