"""What `eagleray job pause` and `resume` do. The scheduler of a running platform follows within seconds."""

from __future__ import annotations

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.jobs.project.load import read_project
from eagleray.jobs.run.history import History
from eagleray.jobs.run.selection import known
from eagleray.jobs.schedule import pauses


def pause_jobs(config: Config, names: tuple[str, ...]) -> None:
    """Pause jobs that have a schedule; raises ConfigError for others."""
    project = read_project(config)
    for name in names:
        if known(project, name).schedule is None:
            raise ConfigError(name, "has no schedule that could be paused")
    history = History.open(config)
    try:
        pauses.pause(history, names)
    finally:
        history.close()
    print(f"paused: {', '.join(names)}; `eagleray job resume` starts them again")


def resume_jobs(config: Config, names: tuple[str, ...]) -> None:
    """Resume jobs, also those that are no longer there; raises ConfigError for one that is not paused."""
    history = History.open(config)
    try:
        there = pauses.paused(history.engine)
        if unknown := [name for name in names if name not in there]:
            raise ConfigError(unknown[0], f"is not paused; paused are {', '.join(sorted(there)) or 'none'}")
        pauses.resume(history, names)
    finally:
        history.close()
    print(f"resumed: {', '.join(names)}")
