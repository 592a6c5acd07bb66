"""Carries out an attempt in a process made for it: captures what it prints, limits its memory, makes errors values.

The same in a child process (`jobs.run.child`) and in a Ray task (`jobs.run.cluster`).
"""

from __future__ import annotations

import traceback
from pathlib import Path

from eagleray.cluster.config import Config
from eagleray.cluster.masking import Mask
from eagleray.cluster.telemetry import tracing
from eagleray.jobs.run.capture import captured
from eagleray.jobs.run.failure import failure_of, masked
from eagleray.jobs.run.memory import limited
from eagleray.jobs.run.outcome import Ending
from eagleray.jobs.run.workers import Task, Work


def carry_out(config: Config, task: Task, scratch: Path | None = None, work: Work | None = None) -> Ending:
    """Make one attempt; never raises. What it prints is in `task.log` when it returns."""
    if not task.trace:
        return _carried(config, task, scratch, work)
    tracing.start(f"job {task.job.name}")
    with tracing.begin(f"job {task.job.name}", (task.trace,), period=task.period.label, attempt=task.attempt) as spans:
        ending = _carried(config, task, scratch, work)
        spans.note(ended=type(ending).__name__.lower())
    tracing.flush()  # this process may be ended at any moment
    return ending


def _carried(config: Config, task: Task, scratch: Path | None, work: Work | None) -> Ending:
    job = task.job
    mask = Mask(config.secret_values())
    with captured(task.log, mask) as log:
        try:
            log.write(f"attempt {task.attempt} of {task.key}\n")
            with limited(job.limits.memory_bytes, task.log):
                return (work or _perform())(
                    config, job, task.period, task.run_id, task.attempt, lambda line: print(line, file=log), scratch
                )
        except KeyboardInterrupt:  # how Ray ends a task
            raise
        except BaseException as error:  # an end of the process that the job's function asks for is one of the attempt
            traceback.print_exc(file=log)
            failure = masked(failure_of(error, job), mask)
            log.write(f"{failure.message}\n")
            return failure


def _perform() -> Work:
    from eagleray.jobs.run.attempt import perform  # only here: the runner that starts attempts needs no engine

    return perform
