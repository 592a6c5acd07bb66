"""What `eagleray job list`, `status`, `logs`, `show` and `rejected` print: the project and its history, read-only."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Engine

from eagleray.cli.terminal_table import print_table
from eagleray.cluster.clock import SystemClock, iso
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, QueryRejected
from eagleray.cluster.quantities import format_duration
from eagleray.jobs.model import Job
from eagleray.jobs.notify.outbox import Message, late_periods, undelivered
from eagleray.jobs.project.load import read_project
from eagleray.jobs.run import reports
from eagleray.jobs.run.history import History
from eagleray.jobs.run.runner import log_name
from eagleray.jobs.run.selection import known
from eagleray.jobs.schedule import pauses
from eagleray.jobs.schedule.ticks import ticks

RUNS_SHOWN = 5
_HIDDEN = ("run", "fingerprint")


def list_jobs(config: Config, form: str) -> None:
    """Every job in the order in which they run."""
    project = read_project(config)
    with _history(config) as engine:
        last = reports.latest_states(engine, project.jobs)
        paused = pauses.paused(engine)
    now = datetime.fromtimestamp(SystemClock().now_us() / 1e6, UTC)
    rows = []
    for name in project.graph.order():
        job, node = project.jobs[name], last.get(name)
        rows.append(
            {
                "job": name,
                "output": job.output,
                "mode": job.mode,
                "engine": job.engine,
                "needs": ", ".join(sorted(project.graph.needs(name))),
                "schedule": f"{job.schedule.cron} {job.schedule.timezone}" if job.schedule else "",
                "next": _next(job, now, paused),
                "last": f"{node['state']} {node['period']}" if node else "never ran",
            }
        )
    names = rows[0] if rows else ("job",)
    for one in project.broken:
        where = str(one.file.relative_to(config.jobs_folder))
        rows.append({**dict.fromkeys(names, ""), "job": where, "broken": str(one.error)})
    rows = [{**row, "broken": row.get("broken", "")} for row in rows] if project.broken else rows
    _print(rows, form, "no jobs; `eagleray docs jobs` shows how to write one")


def _next(job: Job, now: datetime, paused: Collection[str]) -> str:
    if job.schedule is None:
        return ""
    return "paused" if job.name in paused else iso(int(next(ticks(job.schedule, now)).at.timestamp() * 1e6))


def _untold(messages: Iterable[Message]) -> None:
    """Say which messages did not arrive, on stderr."""
    for one in messages:
        state = "was not told" if one.state == "failed" else f"could not be told yet ({one.attempts} tries)"
        about = f"{one.job}@{one.period} {one.event}"
        print(f"{one.target} {state}: {about}: {one.error}", file=sys.stderr)


def show_status(config: Config, run_id: str | None, limit: int, form: str) -> None:
    """The latest runs, or one run's nodes."""
    with _history(config) as engine:
        if run_id is None:
            rows = [_run_row(run) for run in reports.newest_runs(engine, limit)]
            _print(rows, form, "no job has run yet")
            _untold(undelivered(engine))
            return
        run = _find(engine, run_id)
        nodes = reports.nodes_of(engine, run["id"])
        tries = reports.attempts_of(engine, run["id"])
        untold = undelivered(engine, run["id"])
    if form == "json":
        shown = {name: value for name, value in run.items() if name not in ("owner", "seen_us")}
        nodes = [{name: value for name, value in node.items() if name not in _HIDDEN} for node in nodes]
        tries = [{name: value for name, value in attempt.items() if name != "run"} for attempt in tries]
        left = [
            {"target": m.target, "event": m.event, "job": m.job, "state": m.state, "error": m.error} for m in untold
        ]
        print(json.dumps({**shown, "jobs": nodes, "attempts": tries, "undelivered": left}, indent=2))
        return
    print(f"run {run['id']} ({run['kind']}) of {run['what']} for {run['date']}: {run['state']}")
    if run["resumes"]:
        print(f"resumes {run['resumes']}")
    _print([_node_row(node) for node in nodes], form, "no jobs")
    for node in nodes:
        if node["state"] == "failed":
            print(f"\n{node['job']}@{node['period']}, attempt {node['attempts']}: {node['reason']}")
    _untold(untold)


def show_logs(config: Config, run_id: str | None, name: str | None) -> None:
    """What the jobs of a run printed."""
    with _history(config) as engine:
        run = _find(engine, run_id)
        nodes = [node for node in reports.nodes_of(engine, run["id"]) if name in (None, node["job"])]
    if not nodes:
        raise ConfigError("--job", f"run {run['id']} has no job {name!r}")
    for node in nodes:
        key = f"{node['job']}@{node['period']}"
        file = config.jobs_dir / "logs" / run["id"] / log_name(key)
        if file.exists():
            print(f"── {key}: {node['state']}")
            with file.open(encoding="utf-8", errors="replace") as lines:
                sys.stdout.writelines(lines)
        elif name:
            print(f"── {key}: {node['state']} {node['reason']}".rstrip())


def show_job(config: Config, name: str) -> None:
    """All about one job."""
    project = read_project(config)
    job = known(project, name)
    for label, value in _facts(job, project.graph.needs(name), project.graph.feeds(name)):
        if value:
            print(f"{label + ':':<13} {value}")
    with _history(config) as engine:
        rows = [_node_row(node) | {"run": node["run"]} for node in reports.newest_of_job(engine, name, RUNS_SHOWN)]
        since_us = pauses.paused(engine).get(name)
        late = late_periods(engine, name)
    if since_us is not None:
        print(f"{'paused:':<13} since {iso(since_us)}; `eagleray job resume {name}` starts it again")
    if late:
        print(f"{'late for:':<13} {', '.join(one.period for one in late)}")
    _print(rows, "table", "never ran")


def show_rejected(config: Config, name: str, limit: int) -> None:
    """The checks that refused the job's last result, and that result."""
    from eagleray.cli.query_result import write
    from eagleray.sql.query import Sql

    job = known(read_project(config), name)
    with _history(config) as engine:
        failed = [node for node in reports.newest_of_job(engine, name, RUNS_SHOWN) if node["state"] == "failed"]
        found = reports.checks_of(engine, failed[0]["run"]) if failed else []
    for check in found:
        print(f"{check['name']}: {check['bad_rows']:,} bad rows")
        for row in check["sample"] or []:
            print(f"  {json.dumps(row, default=str, ensure_ascii=False)}")
    namespace, _, table = job.output.partition(".")
    try:
        with Sql(config) as sql:
            query = f'SELECT * FROM {namespace}."{table}@rejected" LIMIT {limit}'
            write(sql.query(query, config.edge.query_timeout_s), "table", sys.stdout)
    except QueryRejected:
        print(f"{job.output} has no rejected result")


def _facts(job: Job, needs: Iterable[str], feeds: Iterable[str]) -> Iterator[tuple[str, str]]:
    limits = job.limits
    yield "job", job.name
    yield "about", job.description
    yield "declared in", f"{job.source.file}:{job.source.line}"
    yield "makes", f"{job.output} ({job.mode}, {job.engine})"
    yield "key", ", ".join(job.key)
    yield "partitions", ", ".join(job.partition_by)
    yield "sorted by", ", ".join(job.sort_by)
    yield "reads", ", ".join(job.inputs)
    yield "needs", ", ".join(sorted(needs))
    yield "feeds", ", ".join(sorted(feeds))
    yield "checks", ", ".join(check.name for check in job.checks)
    yield (
        "limits",
        (
            f"memory {limits.memory_bytes / 2**20:,.0f} MiB, cpus {limits.cpus:g}, "
            f"timeout {format_duration(limits.timeout_us)}, retries {limits.retries}"
        ),
    )
    if job.schedule:
        now = datetime.fromtimestamp(SystemClock().now_us() / 1e6, UTC)
        tick = next(ticks(job.schedule, now))
        yield "schedule", f"{job.schedule.cron} {job.schedule.timezone}"
        if job.schedule.calendar:
            yield "calendar", job.schedule.calendar.name
        yield "waits for", ", ".join(f"{one.kind} {one.what}" for one in job.schedule.waits)
        yield "done within", format_duration(job.schedule.sla_us) if job.schedule.sla_us else ""
        yield "next run", f"{tick.at:%Y-%m-%d %H:%M}Z for {tick.period.label}"


def _run_row(run: Mapping[str, Any]) -> dict[str, str]:
    return {
        "run": run["id"],
        "kind": run["kind"],
        "what": run["what"],
        "date": run["date"],
        "state": run["state"],
        "jobs": ", ".join(f"{count} {state}" for state, count in sorted(run["counts"].items())),
        "started": iso(run["started_us"] // 1_000_000 * 1_000_000),
        "took": _took(run),
    }


def _node_row(node: Mapping[str, Any]) -> dict[str, str]:
    return {
        "job": node["job"],
        "period": node["period"],
        "state": node["state"],
        "rows": "" if node["rows"] is None else f"{node['rows']:,}",
        "attempts": str(node["attempts"] or ""),
        "took": _took(node),
        "why": (str(node["reason"]).splitlines() or [""])[0],
    }


def _took(row: Mapping[str, Any]) -> str:
    if row["started_us"] is None:
        return ""
    until = row["ended_us"] or SystemClock().now_us()
    return f"{(until - row['started_us']) / 1e6:,.1f} s"


def _find(engine: Engine, run_id: str | None) -> dict[str, Any]:
    found = reports.find_run(engine, run_id)
    if found is None:
        raise ConfigError("RUN", f"no run {run_id}; `eagleray job status` lists them" if run_id else "no job has run")
    return found


def _print(rows: Sequence[Mapping[str, str]], form: str, nothing: str) -> None:
    if form == "json":
        print(json.dumps(list(rows), indent=2))
        return
    if not rows:
        print(nothing)
        return
    print_table(
        list(rows[0]),
        [list(row.values()) for row in rows],
        sys.stdout,
        right=("rows", "took", "attempts"),
        whole=("run", "job", "period"),
        first_to_go=("engine", "mode", "needs", "kind", "output", "started", "date"),
    )


@contextmanager
def _history(config: Config) -> Iterator[Engine]:
    history = History.open(config)
    try:
        history.reap()
        yield history.engine
    finally:
        history.close()
