"""Late events: which dates they belong to, exactly, and what is made again."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from eagleray.cluster.clock import ManualClock
from eagleray.cluster.config import Config
from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.model import Job, Source
from eagleray.jobs.period import Period, daily
from eagleray.jobs.project.graph import Graph
from eagleray.jobs.project.load import Project
from eagleray.jobs.run.history import Ended, History
from eagleray.jobs.run.late_dates import plan_late
from eagleray.jobs.run.outcome import Outcome
from eagleray.jobs.run.plan import plan
from eagleray.jobs.run.run_state import Board, Capacity
from eagleray.jobs.run.selection import Selection
from tests.lake_tables import NOON_US, TIME, event_rows, make_stream
from tests.sql_lake import land

DAY = date(2015, 9, 12)
STREAM = {"schema": "s.json", "time": "time"}


def make_job(name: str, output: str, *inputs: str) -> Job:
    return Job(name, output, "overwrite_partitions", Source(Path("x.sql"), 1, sql=name), inputs)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate({"data_dir": tmp_path / "data", "streams": {"s": STREAM}})


@pytest.fixture
def lake(config: Config) -> Lake:
    opened = Lake.open(config)
    opened.ensure({"s": make_stream()})
    return opened


def events(count: int, first: int, days: int) -> pa.Table:
    at = [NOON_US + days * 86_400_000_000 + n for n in range(count)]
    return event_rows(count, first, time=pa.array(at, TIME))


def note(history: History, project: Project, periods: list[Period], offset: int) -> None:
    """A run that made `periods` from events below `offset`."""
    planned = plan(project.graph, project.jobs, dict.fromkeys(project.jobs, periods), "--all", "x")
    board = Board(planned.nodes, Capacity(9, 99, 1 << 50), {})
    run = history.begin(planned, "run", list(board.rows.values()))
    for row in board.rows.values():
        history.start(run, [row])
        board.start(row.node.key)
        read = {"s.events": {"snapshot": 1, "position": {"p0": offset}}}
        ending = Outcome(1, 1, 1, 1, inputs=read if row.node.job.name == "daily" else {})
        board.end(row.node.key, ending, 0)
        history.end(run, [Ended(row, ending)], [], set())
    history.finish(run, "succeeded", [])


def test_dates_with_late_events_are_made_again_and_what_follows_from_them(config: Config, lake: Lake) -> None:
    jobs = {"daily": make_job("daily", "r.daily", "s.events"), "report": make_job("report", "r.report", "r.daily")}
    project = Project(jobs, Graph({"daily": [], "report": ["daily"]}))
    clock = ManualClock(NOON_US)
    history = History.open(config, clock)
    periods = [daily(DAY + timedelta(days=days)) for days in range(3)]
    land(lake, events(10, 0, 0), events(10, 10, 1), events(10, 20, 2))
    note(history, project, periods, 30)
    assert plan_late(config, project, Selection(), history).nodes == []
    land(lake, events(1, 30, 1))
    found = plan_late(config, project, Selection(), history)
    assert [node.key for node in found.nodes] == ["daily@2015-09-13", "report@2015-09-13"]
    clock.advance(1_000_000)
    note(history, project, [periods[1]], 31)  # made again: no longer late
    assert plan_late(config, project, Selection(), history).nodes == []
    history.close()
