"""Starts jobs by their schedules: one actor of the platform, one of any number that share a history.

All it must not forget is in the history, as claims: it can be killed at any instruction and goes on when it is back.
Jobs that are due at once run as one graph. A job waits for those it needs while they run by schedule, and is skipped
where they failed for the same period.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from eagleray.cluster.clock import Clock, SystemClock, iso
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.telemetry.metrics import sample
from eagleray.jobs.period import Period
from eagleray.jobs.project.load import Project, load_project
from eagleray.jobs.run import reports
from eagleray.jobs.run.history import History
from eagleray.jobs.run.plan import Plan, key_of, plan
from eagleray.jobs.run.run_state import FINAL, Board
from eagleray.jobs.run.runner import Runner
from eagleray.jobs.run.workers import Workers
from eagleray.jobs.schedule import claims
from eagleray.jobs.schedule.claims import Claim
from eagleray.jobs.schedule.due import Due, due, find, next_tick_us
from eagleray.jobs.schedule.timetable import Commands, timetable

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0  # at the project's folder, for changes


class Scheduler:
    """Works in a thread of its own from the start on; a plain class that the platform makes an actor of."""

    def __init__(
        self, config: Config, clock: Clock | None = None, workers: Callable[[], Workers] | None = None
    ) -> None:
        """`clock`: the schedules' own; `workers` makes those of a run, default: tasks of the joined Ray cluster."""
        self._config = config
        self._clock = clock or SystemClock()
        self._history = History.open(config)
        self._workers = workers or self._ray_workers
        self._timetable = timetable(config)
        self._commands = Commands(config)
        self._project: Project | None = None
        self._stamp: object = None
        self._wake = threading.Event()
        self._closed = False
        self._runs: list[threading.Thread] = []
        self._counters: defaultdict[str, float] = defaultdict(float)
        self._mutex = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    def _ray_workers(self) -> Workers:
        from eagleray.jobs.run.cluster import RayWorkers

        return RayWorkers(self._config)

    def close(self) -> None:
        """Start no more; jobs that run go on to their end, or to that of the process, and commands end."""
        self._closed = True
        self._commands.close()
        self._wake.set()
        self._thread.join()

    def look(self) -> None:
        """Look now at what is due."""
        self._wake.set()

    def running(self) -> int:
        """Runs that go on."""
        return sum(thread.is_alive() for thread in self._runs)

    def stats(self) -> dict[str, float]:
        """Metric samples of the runs that this scheduler started."""
        with self._mutex:
            return {**self._counters, sample("jobs_running"): self.running()}

    def _count(self, job: str, state: str) -> None:
        with self._mutex:
            self._counters[sample("job_runs_total", job=job, state=state)] += 1
            if state == "succeeded":
                self._counters[sample("job_last_success_seconds", job=job)] = self._clock.now_us() / 1e6

    def _ended(self, ended: Iterable[tuple[Claim, str]]) -> None:
        """Close claims, each with the state in which its job ended."""
        closed = list(ended)
        claims.ended(self._history.engine, self._history.owner, closed)
        for claim, state in closed:
            self._count(claim.job, state)

    def _work(self) -> None:
        while not self._closed:
            try:
                wait_s = self._round()
            except Exception:
                logger.exception("scheduling failed; trying again")
                wait_s = LOOK_EVERY_S
            self._wake.wait(wait_s)
            self._wake.clear()

    def _round(self) -> float:
        """Start what is due; returns the seconds until the next look."""
        # 1. the project as it is now; one that cannot be read leaves the last that could
        project = self._load()
        if project is None:
            return LOOK_EVERY_S
        commands = self._timetable
        jobs = [job for job in project.jobs.values() if job.schedule]
        scheduled = [*jobs, *commands.values()]
        engine, owner, now_us = self._history.engine, self._history.owner, self._clock.now_us()
        here_us = self._history.clock.now_us()
        # 2. what a scheduler that died has left
        self._history.reap()
        adopted = claims.adopt(engine, owner, here_us)
        # 3. what is due, and nobody has claimed
        since = claims.newest(engine)
        claims.see(engine, owner, (job.name for job in scheduled if job.name not in since), now_us, here_us)
        busy = claims.open_jobs(engine)
        free = [*(job for job in jobs if not project.graph.upstream(job.name) & busy), *commands.values()]
        wanted = {one.claim: one for one in due(free, since, busy, now_us)}
        taken = [wanted[claim] for claim in claims.take(engine, owner, wanted, here_us)]
        # 4. run both as one graph, and commands by themselves
        chosen = [*self._found(project, adopted), *taken]
        self._start(project, [one for one in chosen if one.job.name not in commands])
        for one in (one for one in chosen if one.job.name in commands):
            self._in_thread(self._command, one)
        tick_us = next_tick_us(scheduled, now_us)
        return LOOK_EVERY_S if tick_us is None else min(LOOK_EVERY_S, max(0.0, (tick_us - now_us) / 1e6))

    def _load(self) -> Project | None:
        folder = self._config.jobs_folder
        stamp = sorted((str(file), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file())
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._project = load_project(self._config)
            except ConfigError as error:
                logger.error("the jobs cannot be read; going on with those read before: %s", error)
        return self._project

    def _found(self, project: Project, adopted: Iterable[Claim]) -> list[Due]:
        """The adopted claims as jobs and periods; those of jobs that are no more are closed."""
        found, gone = [], []
        for claim in adopted:
            job = project.jobs.get(claim.job) or self._timetable.get(claim.job)
            one = find(job, claim) if job else None
            if one:
                found.append(one)
            else:
                gone.append((claim, "skipped"))
        self._ended(gone)
        return found

    def _start(self, project: Project, chosen: list[Due]) -> None:
        if not chosen:
            return
        periods: dict[str, list[Period]] = {}
        for one in chosen:
            periods.setdefault(one.job.name, []).append(one.period)
        planned = plan(project.graph.subgraph(periods), project.jobs, periods, "schedule", iso(self._clock.now_us()))
        blocked = self._blocked(project, chosen, {node.key for node in planned.nodes})
        run = Plan(planned.what, planned.date, planned.nodes, blocked=blocked)
        by_key = {key_of(one.job.name, one.period): one.claim for one in chosen}
        self._in_thread(self._run, run, by_key)

    def _in_thread(self, work: Callable[..., None], *arguments: object) -> None:
        self._runs = [thread for thread in self._runs if thread.is_alive()]
        self._runs.append(threading.Thread(target=work, args=arguments, name="run", daemon=True))
        self._runs[-1].start()

    def _command(self, one: Due) -> None:
        """Run a command of the timetable in the calling thread; one that `close` ended is still to be done."""
        engine, owner, clock = self._history.engine, self._history.owner, self._history.clock
        try:
            code = self._commands.run(one.job.name, lambda: claims.renew(engine, owner, one.claim, clock.now_us()))
        except Exception:
            logger.exception("`eagleray job run %s` could not be run", one.job.name)
            code = 1
        if code is None:
            return
        if code:
            log = self._commands.log_of(one.job.name)
            logger.error("`eagleray job run %s` ended with %d: see %s", one.job.name, code, log)
        self._ended([(one.claim, "failed" if code else "succeeded")])
        self._wake.set()

    def _blocked(self, project: Project, chosen: list[Due], keys: set[str]) -> dict[str, str]:
        """What needs a job that failed for the same period, in an earlier run."""
        needs = {
            (one, other): (other, one.period.label)
            for one in chosen
            for other in project.graph.needs(one.job.name)
            if key_of(other, one.period) not in keys
        }
        last = reports.latest_of(self._history.engine, set(needs.values()))
        return {
            key_of(one.job.name, one.period): f"upstream {other} failed"
            for (one, other), pair in needs.items()
            if pair in last and last[pair]["state"] in ("failed", "skipped", "interrupted")
        }

    def _run(self, run: Plan, by_key: dict[str, Claim]) -> None:
        """Run the plan in the calling thread; each claim ends with its node."""
        engine, owner, left = self._history.engine, self._history.owner, dict(by_key)

        begun: list[str] = []

        def watch(run_id: str, board: Board) -> None:
            if not begun:  # before the first node starts
                claims.begun(engine, owner, list(left.values()), run_id)
                begun.append(run_id)
            over = {key: board.rows[key].state for key in left if board.rows[key].state in FINAL}
            if over:
                self._ended((left.pop(key), state) for key, state in over.items())
                self._wake.set()  # what waited for one of them may be due

        try:
            workers = self._workers()
            try:
                Runner(self._history, workers, self._logs, watch).run(run, "schedule")
            finally:
                workers.close()
        except Exception:
            logger.exception("a scheduled run failed as a whole")
            self._ended((claim, "failed") for claim in left.values())
        finally:
            self._wake.set()

    @property
    def _logs(self) -> Path:
        return self._config.jobs_dir / "logs"
