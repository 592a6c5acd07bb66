"""Starts jobs by their schedules: one actor of the platform, one of any number that share a history.

All it must not forget is in the history, as claims: it can be killed at any instruction and goes on when it is back.
Jobs that are due at once run as one graph. A job waits for those it needs while they run by schedule, and is skipped
where they failed for the same period.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from eagleray.cluster.clock import Clock, SystemClock, iso
from eagleray.cluster.config import Config
from eagleray.cluster.log.ingest_clock import IngestClock
from eagleray.cluster.pulse import Pulse
from eagleray.cluster.telemetry.histogram import Histogram
from eagleray.cluster.telemetry.metrics import sample
from eagleray.cluster.telemetry.prometheus import histogram_samples
from eagleray.jobs.model import Job
from eagleray.jobs.notify.courier import Courier
from eagleray.jobs.notify.outbox import Outbox
from eagleray.jobs.period import Period
from eagleray.jobs.project.graph import Graph
from eagleray.jobs.project.load import Project, read_project
from eagleray.jobs.run import reports
from eagleray.jobs.run.history import History
from eagleray.jobs.run.plan import Plan, key_of, plan
from eagleray.jobs.run.run_state import FINAL, Board
from eagleray.jobs.run.runner import Runner
from eagleray.jobs.run.workers import Workers
from eagleray.jobs.schedule import claims, pauses
from eagleray.jobs.schedule.claims import Claim
from eagleray.jobs.schedule.due import Due, due, due_since, find, next_tick_us
from eagleray.jobs.schedule.sensors import Sensors
from eagleray.jobs.schedule.timetable import Commands, timetable

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0  # at the project's folder, for changes
READ_BROKEN_S = 60.0  # until a project with broken files is read again, though none has changed
LOOP = "scheduling"
ROUND_S = 60.0  # that a round may take: it reads the project, and waits for the history's locks


class Scheduler:
    """Works in a thread of its own from the start on; a plain class that the platform makes an actor of."""

    def __init__(
        self, config: Config, clock: Clock | None = None, workers: Callable[[], Workers] | None = None
    ) -> None:
        """`clock`: the schedules' own; `workers` makes those of a run, default: tasks of the joined Ray cluster."""
        self._config = config
        self._clock = clock or SystemClock()
        self._times = IngestClock(self._clock, config.anchor)
        self._opened: History | None = None
        self._opened_courier: Courier | None = None
        self._sensors = Sensors(config, self.look)
        self._workers = workers or self._ray_workers
        self._timetable = timetable(config)
        self._commands = Commands(config)
        self._project = Project({}, Graph({}))
        self._stamp: object = None
        self._read_s = 0.0
        self._broken: dict[str, float] = {}
        self._wake = threading.Event()
        self._closed = False
        self._runs: list[threading.Thread] = []
        self._counters: defaultdict[str, float] = defaultdict(float)
        self._durations: dict[str, Histogram] = {}  # by job, microseconds
        self._due_since: dict[str, int | None] = {}  # by job, microseconds since the epoch
        self._known: tuple[list[Job], dict[str, int]] = [], {}  # scheduled jobs, and the ticks claimed last
        self._mutex = threading.Lock()
        self.pulse = Pulse()
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def _history(self) -> History:
        """Opened when it is needed first: a platform without jobs has none, and one that is down stops no start."""
        if self._opened is None:
            self._opened = History.open(self._config)
        return self._opened

    def _ray_workers(self) -> Workers:
        from eagleray.jobs.run.cluster import RayWorkers

        return RayWorkers(self._config)

    def close(self) -> None:
        """Start no more; jobs that run go on to their end, or to that of the process, and commands end."""
        self._closed = True
        self._commands.close()
        self._sensors.close()
        self._wake.set()
        self._thread.join()
        if self._opened_courier is not None:
            self._opened_courier.close()

    def look(self) -> None:
        """Look now at what is due."""
        self._wake.set()

    def running(self) -> int:
        """Runs that go on."""
        return sum(thread.is_alive() for thread in self._runs)

    def stats(self) -> dict[str, float]:
        """Metric samples of the runs that this scheduler started."""
        with self._mutex:
            none = {sample("job_runs_total", job_name=job, state="failed"): 0.0 for job in self._due_since}
            found = {**none, **self._counters, **self._broken, sample("jobs_running"): self.running()}
            durations = list(self._durations.items())
        now_us = self._clock.now_us()
        for job, since_us in list(self._due_since.items()):
            late_us = 0 if since_us is None else max(0, now_us - since_us)
            found[sample("job_late_seconds", job_name=job)] = late_us / 1e6
        for job, histogram in durations:
            found |= histogram_samples("job_duration_seconds", histogram, job_name=job)
        return found

    def _took(self, job: str, seconds: float) -> None:
        with self._mutex:
            self._durations.setdefault(job, Histogram()).record(int(seconds * 1e6))

    def _count(self, job: str, state: str) -> None:
        with self._mutex:
            self._counters[sample("job_runs_total", job_name=job, state=state)] += 1
            if state == "succeeded":
                self._counters[sample("job_last_success_seconds", job_name=job)] = self._clock.now_us() / 1e6

    def _ended(self, ended: Iterable[tuple[Claim, str]]) -> None:
        """Close claims, each with the state in which its job ended."""
        closed = list(ended)
        claims.ended(self._history.engine, self._history.owner, closed)
        for claim, state in closed:
            self._count(claim.job, state)
            logger.info("job ended", extra={"job": claim.job, "period": claim.period, "state": state})

    def _work(self) -> None:
        while not self._closed:
            self.pulse.beat(LOOP, ROUND_S)
            try:
                wait_s = self._round()
            except Exception:
                logger.exception("scheduling failed; trying again")
                later = due_since(*self._known, {}, self._clock.now_us())  # what is due meanwhile is late
                self._due_since = {**later, **{job: at for job, at in self._due_since.items() if at is not None}}
                wait_s = LOOK_EVERY_S
            self.pulse.beat(LOOP, wait_s)
            self._wake.wait(wait_s)
            self._wake.clear()
        self.pulse.rest(LOOP)

    def _round(self) -> float:
        """Start what is due; returns the seconds until the next look."""
        # 1. the project as it is now, without files that cannot be read
        project = self._load()
        if not (project.jobs or self._timetable):
            self._due_since = {}
            return LOOK_EVERY_S
        commands = self._timetable
        jobs = [job for job in project.jobs.values() if job.schedule]
        scheduled = [*jobs, *commands.values()]
        engine, owner = self._history.engine, self._history.owner
        now_us = self._times.now_us()  # raises where the clock was set forward: no period is taken before it is over
        here_us = self._history.steady.now_us()
        # 2. what a scheduler that died has left
        self._history.reap()
        adopted = claims.adopt(engine, owner, here_us)
        # 3. what is due, and nobody has claimed
        since = claims.newest(engine)
        claims.see(engine, owner, (job.name for job in scheduled if job.name not in since), now_us, here_us)
        busy = claims.open_jobs(engine)
        paused = pauses.paused(engine)
        free = [*(job for job in jobs if not project.graph.upstream(job.name) & busy), *commands.values()]
        free = [job for job in free if job.name not in paused]
        found = [one for one in due(free, since, busy, now_us) if self._sensors.met(one.job, one.period)]
        wanted = {one.claim: one for one in found}
        taken = [wanted[claim] for claim in claims.take(engine, owner, wanted, here_us)]
        self._known = scheduled, since
        self._due_since = due_since(scheduled, since, claims.oldest_open(engine), now_us)
        self._tell_late([job for job in jobs if job.name not in paused], since, now_us)
        # 4. run both as one graph, and commands by themselves
        chosen = [*self._found(project, adopted), *taken]
        self._start(project, [one for one in chosen if one.job.name not in commands])
        for one in (one for one in chosen if one.job.name in commands):
            self._in_thread(self._command, one)
        tick_us = next_tick_us(scheduled, now_us)
        return LOOK_EVERY_S if tick_us is None else min(LOOK_EVERY_S, max(0.0, (tick_us - now_us) / 1e6))

    def _tell_late(self, jobs: Iterable[Job], since: Mapping[str, int], now_us: int) -> None:
        """Note the periods that were to be done by now: claimed ones that run, and the newest that does not."""
        running = claims.open_claims(self._history.engine)
        for job in jobs:
            sla_us = job.schedule.sla_us if job.schedule else None
            if sla_us is None:
                continue
            late = [one.period for one in running if one.job == job.name and one.tick_us + sla_us <= now_us]
            late += [one.period.label for one in due([job], since, (), now_us - sla_us)[-1:]]
            for period in late:
                self._courier.late(job, period)

    @property
    def _courier(self) -> Courier:
        if self._opened_courier is None:
            outbox = Outbox(self._history.engine, self._config.jobs)
            self._opened_courier = Courier(self._config, outbox, self._history.clock)
        return self._opened_courier

    def _load(self) -> Project:
        stamp = _stamp(self._config.jobs_folder)
        again = self._project.broken and time.monotonic() > self._read_s + READ_BROKEN_S  # a table may be there now
        if stamp != self._stamp or again:
            project = read_project(self._config)
            self._stamp, self._project, self._read_s = stamp, project, time.monotonic()
            for one in project.broken:
                logger.error("left out of the schedule: %s", one.error)
            folder = self._config.jobs_folder
            files = sorted({str(one.file.relative_to(folder)) for one in project.broken})
            with self._mutex:
                self._broken = {sample("job_files_broken", file=file): 1.0 for file in files}
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
        started = [f"{one.job.name} {one.period.label}" for one in chosen]
        logger.info("jobs start", extra={"count": len(started), "first": started[:10]})
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
        engine, owner, clock = self._history.engine, self._history.owner, self._history.steady
        began = time.monotonic()
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
        self._took(one.job.name, time.monotonic() - began)
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
        since_s: dict[str, float] = {}  # by node, when its first attempt began

        def watch(run_id: str, board: Board) -> None:
            if not begun:  # before the first node starts
                claims.begun(engine, owner, list(left.values()), run_id)
                begun.append(run_id)
            for key in board.running:
                since_s.setdefault(key, time.monotonic())
            over = {key: board.rows[key].state for key in left if board.rows[key].state in FINAL}
            for key in over.keys() & since_s.keys():
                self._took(left[key].job, time.monotonic() - since_s[key])
            if over:
                self._ended((left.pop(key), state) for key, state in over.items())
                self._wake.set()  # what waited for one of them may be due

        try:
            workers = self._workers()
            try:
                Runner(self._history, workers, self._logs, watch, teller=self._courier).run(run, "schedule")
            finally:
                workers.close()
        except Exception:
            logger.exception("scheduled jobs failed before they ended: %s", ", ".join(sorted(left)))
            self._ended((claim, "failed") for claim in left.values())
        finally:
            self._wake.set()

    @property
    def _logs(self) -> Path:
        return self._config.jobs_dir / "logs"


def _stamp(folder: Path) -> list[tuple[str, int, int]]:
    """What tells that a file has come, gone or changed; one that goes meanwhile is gone."""
    found = []
    for file in folder.rglob("*"):
        with suppress(OSError):
            if file.is_file():
                found.append((str(file), file.stat().st_mtime_ns, file.stat().st_size))
    return sorted(found)
