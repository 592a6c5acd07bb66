"""What `eagleray job run` and `backfill` do: plan, choose workers, run with live progress, say how it ended."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from types import FrameType

from eagleray.cli.jobs_progress import progress
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.telemetry import tracing
from eagleray.jobs.notify.courier import Courier
from eagleray.jobs.notify.outbox import Outbox
from eagleray.jobs.project.load import Project, read_project
from eagleray.jobs.project.variables import given
from eagleray.jobs.run import reports
from eagleray.jobs.run.history import History
from eagleray.jobs.run.placement import open_workers
from eagleray.jobs.run.plan import Plan
from eagleray.jobs.run.resume import UNFINISHED, resumed
from eagleray.jobs.run.runner import Interrupted, Result, Runner
from eagleray.jobs.run.selection import Selection, plan_day, plan_days

_MARGIN = timedelta(days=400)  # no period of a job is longer


def run_jobs(
    config: Config,
    names: tuple[str, ...],
    everything: bool,
    day: str | None,
    resume: bool | None,
    *,
    upstream: bool,
    downstream: bool,
    late: bool,
    parallel: int | None,
    address: str | None,
    var: Sequence[str] | None = None,
) -> int:
    """Run jobs for a date; returns the exit code."""
    project = read_project(config, given(var or ()))
    selection = Selection(names, everything, upstream, downstream)
    left_out = _left_out(project, selection)
    with _history(config) as history:
        if late:
            from eagleray.jobs.run.late_dates import plan_late

            plan = plan_late(config, project, selection, history)
            if not plan.nodes:
                print("no date has late events")
                return left_out
        else:
            plan = plan_day(project, selection, _date("--date", day), SystemClock(), config.jobs.timezone)
        return _run(config, history, plan, "late" if late else "run", resume, parallel, address) or left_out


def backfill_job(
    config: Config,
    name: str,
    first: str,
    last: str,
    *,
    parallel: int | None,
    downstream: bool,
    resume: bool | None,
    address: str | None,
    var: Sequence[str] | None = None,
) -> int:
    """Run a job for every date from `first` to `last`; returns the exit code."""
    begin, end = _date("--from", first), _date("--to", last)
    assert begin and end
    project = read_project(config, given(var or ()))
    plan = plan_days(project, Selection((name,), downstream=downstream), begin, end, config.jobs.timezone)
    with _history(config) as history:
        return _run(config, history, plan, "backfill", resume, parallel, address)


def _left_out(project: Project, selection: Selection) -> int:
    """Say which files are broken; the exit code where the selection is of all jobs, and so of theirs: 2."""
    for one in project.broken:
        print(f"left out: {one.error}", file=sys.stderr)
    return 2 if project.broken and not selection.names else 0


def _run(
    config: Config,
    history: History,
    plan: Plan,
    kind: str,
    resume: bool | None,
    parallel: int | None,
    address: str | None,
) -> int:
    plan, resumes = _resumed(history, plan, resume)
    if plan.nodes and len(plan.done) == len(plan.nodes):
        print(f"nothing to resume: run {resumes} did everything")
        return 0
    jobs = [node.job for node in plan.nodes if node.key not in plan.done]
    tracing.start("eagleray job run")
    try:
        with (
            _courier(config, history) as courier,
            open_workers(config, jobs, address) as workers,
            _signals(),
            progress(len(plan.nodes)) as watch,
        ):
            runner = Runner(history, workers, config.jobs_dir / "logs", watch, parallel, courier)
            result = runner.run(plan, kind, resumes)
    except (Interrupted, KeyboardInterrupt):
        print("interrupted; the same command resumes from there", file=sys.stderr)
        return 1
    _say(result)
    return 1 if result.failed else 0


def _resumed(history: History, plan: Plan, resume: bool | None) -> tuple[Plan, str | None]:
    """`plan` without what the last run of it had done, and that run's id."""
    last = reports.last_run(history.engine, plan.what, plan.date)
    if last is None or resume is False or (resume is None and last["state"] not in UNFINISHED):
        return plan, None
    found = resumed(plan, last["id"], reports.nodes_of(history.engine, last["id"]))
    if not found.done:
        return plan, None
    print(f"resuming run {last['id']}: {len(found.done)} of {len(plan.nodes)} are done", file=sys.stderr)
    return found, last["id"]


def _say(result: Result) -> None:
    for key, row in result.board.rows.items():
        if row.state == "failed":
            print(f"\n{key}: {row.reason}", file=sys.stderr)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(result.board.counts().items(), reverse=True))
    print(f"run {result.run}: {counts}")
    if result.failed:
        print(f"see `eagleray job logs {result.run}`; the same command resumes with what failed", file=sys.stderr)


def _date(option: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = date.min
    if not date.min + _MARGIN <= day <= date.max - _MARGIN:  # its period ends a day later, in any time zone
        raise ConfigError(option, f"expected a date such as 2015-09-12, found {text!r}")
    return day


@contextmanager
def _history(config: Config) -> Iterator[History]:
    history = History.open(config)
    try:
        history.reap()
        yield history
    finally:
        history.close()


@contextmanager
def _courier(config: Config, history: History) -> Iterator[Courier]:
    """Tells of what the run does; at its end what is due goes out, for some seconds at most."""
    courier = Courier(config, Outbox(history.engine, config.jobs), history.clock)
    try:
        yield courier
    finally:
        courier.close()


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: what runs is ended, and written down as interrupted."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
