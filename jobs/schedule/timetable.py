"""Built-in jobs and late dates at times of the clock: `jobs.timetable`, what would stand after `eagleray job run`.

Each command is a process of its own, so that one which takes too much memory takes nothing with it, and counts as a job
without a table: claimed, adopted and kept from overlapping like any other (`jobs.schedule.claims`).
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.jobs.model import Job, Schedule, Source
from eagleray.jobs.project.header import cron, zone
from eagleray.jobs.run.builtin_jobs import BUILT_IN, parse_options

RETENTION = "retention"
RETENTION_DAILY = "17 3 * * *"  # where a setting asks for it and the timetable does not name it
RENEW_S = 5.0  # how often a command that runs says that it does


def timetable(config: Config) -> dict[str, Job]:
    """The commands by their words; raises ConfigError for what could never run."""
    found: dict[str, Job] = {}
    for at, entry in enumerate(config.jobs.timetable):
        where = f"{config.file}: jobs.timetable.{at}"
        words = _words(f"{where}.run", entry.run)
        timezone = entry.timezone or config.jobs.timezone
        for name, check, text in (("schedule", cron, entry.schedule), ("timezone", zone, timezone)):
            try:
                check(text)
            except ValueError as error:
                raise ConfigError(f"{where}.{name}", str(error)) from None
        name = shlex.join(words)
        if name in found:
            raise ConfigError(f"{where}.run", f"{name!r} is there twice; expected one schedule for it")
        schedule = Schedule(cron(entry.schedule), timezone)
        found[name] = Job(name=name, output="", mode="full", source=Source(config.file, 1), schedule=schedule)
    if config.retains and not any(name.split()[0] == RETENTION for name in found):
        daily = Schedule(RETENTION_DAILY, config.jobs.timezone)
        found[RETENTION] = Job(name=RETENTION, output="", mode="full", source=Source(config.file, 1), schedule=daily)
    return found


def _words(where: str, text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(where, f"{text!r}: {error}") from None
    if words and words[0] in BUILT_IN:
        try:
            parse_options(words[0], words[1:])
        except ConfigError as error:
            raise ConfigError(where, str(error)) from None
        except SystemExit:
            raise ConfigError(where, f"{text!r} asks for help; expected the options of a run") from None
    elif "--late" not in words:
        problem = f"expected --all --late, or one of {', '.join(BUILT_IN)}; other jobs have a schedule of their own"
        raise ConfigError(where, f"found {text!r}; {problem}")
    return words


class Commands:
    """Runs commands in child processes and waits for them."""

    def __init__(self, config: Config) -> None:
        """What they print goes to `data_dir/jobs/logs/timetable`."""
        self._config = config
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, command: str, renew: Callable[[], None]) -> int | None:
        """Run to the end, calling `renew` now and then; the exit code, None where `close` ended it."""
        words = ["job", "run", *shlex.split(command), "-c", str(self._config.file)]
        words += ["--data", str(self._config.data_dir)]
        log = self.log_of(command)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out, self._lock:
            if self._closed:
                return None
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "eagleray", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
            self._running.add(process)
        while True:
            try:
                code = process.wait(RENEW_S)
                break
            except subprocess.TimeoutExpired:
                renew()
        with self._lock:
            self._running.discard(process)
            return None if self._closed and code else code

    def log_of(self, command: str) -> Path:
        """Where the latest run of a command has printed."""
        return self._config.jobs_dir / "logs" / "timetable" / f"{quote(command, safe='')[:200]}.log"

    def close(self) -> None:
        """End what runs; what it has not committed is as if it had never begun."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.terminate()
