"""From what an attempt raised, or how its process died, to a Failure that says what to do and whether to try again."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from eagleray.cluster.errors import ChecksFailed, ConfigError, EaglerayError, JobFailed, QueryRejected, said
from eagleray.cluster.masking import Mask
from eagleray.jobs.model import Job
from eagleray.jobs.run import memory
from eagleray.jobs.run.outcome import CheckFailure, Failure

_FIXED = (TypeError, ValueError, LookupError, AttributeError)
"""What publishing the same rows raises again. (What users' code raises comes as JobFailed, which says itself.)"""

_SHOWN = 5  # lines of a traceback in the message; the log has all


def failure_of(error: BaseException, job: Job) -> Failure:
    """What `error`, raised within an attempt at `job`, means."""
    if isinstance(error, ChecksFailed):
        found = tuple(CheckFailure(name, count, tuple(sample)) for name, count, sample in error.failures)
        return Failure("checks", str(error), checks=found)
    where = f"job {job.name} failed ({job.engine})\n{job.source.place}"
    if isinstance(error, ConfigError):
        return Failure("wrong", str(error))
    if isinstance(error, QueryRejected):
        return Failure("wrong", f"{where}: {error}")
    if isinstance(error, MemoryError):
        return memory.out_of_memory("an allocation was refused", job.limits.memory_bytes, retry=False)
    if isinstance(error, JobFailed):
        return Failure("failed", str(error), retry=error.retryable)
    if isinstance(error, (EaglerayError, OSError)):
        return Failure("failed", f"{where}: {error}", retry=True)
    frames = "".join(traceback.format_tb(error.__traceback__)[-_SHOWN:])
    return Failure("failed", f"{where}: {said(error)}\n{frames}", retry=not isinstance(error, _FIXED))


def masked(failure: Failure, mask: Mask) -> Failure:
    """`failure` without secrets in its message, nor in text of the rows that broke a check."""
    checks = tuple(
        replace(one, name=mask(one.name), sample=tuple(map(partial(_row, mask), one.sample))) for one in failure.checks
    )
    return replace(failure, message=mask(failure.message), checks=checks)


def _row(mask: Mask, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: mask(value) if isinstance(value, str) else value for name, value in row.items()}


def death_of(job: Job, log: Path, exit_code: int | None) -> Failure:
    """What the end of the process in the middle of an attempt means; `exit_code` as `subprocess` has it, or None."""
    if out := memory.explained(log, job.limits.memory_bytes):
        return out
    limit = f"{job.limits.memory_bytes / 2**20:,.0f} MiB"
    if exit_code is not None and exit_code >= 0:
        message = f"its process ended by itself with code {exit_code}; the log may say why"
    elif exit_code is None or -exit_code == signal.SIGKILL:
        message = (
            "its process was killed (SIGKILL): by the operating system, if memory ran out (then reserve more with"
            f" `memory`, now {limit}, or lower jobs.concurrency), or by somebody"
        )
    else:
        name = signal.Signals(-exit_code).name
        message = f"its process was ended by {name}; its log may show the error of a native library"
    return Failure("killed", message, retry=True)
