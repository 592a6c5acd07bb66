"""Carries out an attempt in a process made for it: captures what it prints, limits its memory, makes errors values.

The same in a child process (`jobs.run.child`) and in a Ray task (`jobs.run.cluster`).
"""

from __future__ import annotations

import traceback
from pathlib import Path

from eagleray.cluster.config import Config
from eagleray.jobs.run.capture import captured
from eagleray.jobs.run.failure import failure_of
from eagleray.jobs.run.memory import limited
from eagleray.jobs.run.outcome import Ending
from eagleray.jobs.run.workers import Task, Work


def carry_out(config: Config, task: Task, scratch: Path | None = None, work: Work | None = None) -> Ending:
    """Make one attempt; never raises. What it prints is in `task.log` when it returns."""
    job = task.job
    with captured(task.log) as log:
        try:
            log.write(f"attempt {task.attempt} of {task.key}\n")
            with limited(job.limits.memory_bytes, task.log):
                return (work or _perform())(
                    config, job, task.period, task.run_id, task.attempt, lambda line: print(line, file=log), scratch
                )
        except (Exception, SystemExit) as error:
            traceback.print_exc(file=log)
            failure = failure_of(error, job)
            log.write(f"{failure.message}\n")
            return failure


def _perform() -> Work:
    from eagleray.jobs.run.attempt import perform  # only here: the runner that starts attempts needs no engine

    return perform
