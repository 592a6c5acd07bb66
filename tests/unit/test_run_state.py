"""The state of a graph run, without clocks or processes: who may start, who waits, who is given up."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.backoff import backoff_s
from eagleray.jobs.model import Job, Schedule
from eagleray.jobs.period import daily
from eagleray.jobs.project.graph import Graph
from eagleray.jobs.run.outcome import Failure, Outcome
from eagleray.jobs.run.plan import Node, Plan, periods_on, plan
from eagleray.jobs.run.resume import resumed
from eagleray.jobs.run.run_state import Board, Capacity
from tests.job_work import make_job

DAY = date(2026, 5, 1)
GIB = 1 << 30
DONE = Outcome(rows=1, bytes=1, files=1, snapshot_id=1)
BROKEN = Failure("failed", "it broke", retry=False)
PASSING = Failure("failed", "it broke", retry=True)
ANY = Capacity(100, 100.0, 100 * GIB)


def make_plan(needs: dict[str, list[str]], days: int = 1, **limits: Any) -> Plan:
    jobs: dict[str, Job] = {name: make_job(name, **limits) for name in needs}
    periods = [daily(DAY.replace(day=DAY.day + n)) for n in range(days)]
    return plan(Graph(needs), jobs, dict.fromkeys(needs, periods), "--all", DAY.isoformat())


def board(needs: dict[str, list[str]], capacity: Capacity = ANY, **limits: Any) -> Board:
    return Board(make_plan(needs, **limits).nodes, capacity, {})


def key(name: str) -> str:
    return f"{name}@{DAY}"


def names(found: Board, now_s: float = 0.0) -> list[str]:
    return [row.node.job.name for row in found.startable(now_s)]


DIAMOND = {"clean": [], "left": ["clean"], "right": ["clean"], "report": ["left", "right"], "alone": []}


def test_a_node_starts_when_all_it_needs_has_succeeded() -> None:
    found = board(DIAMOND)
    assert names(found) == ["alone", "clean"]
    found.start(key("clean"))
    assert names(found) == ["alone"]
    found.end(key("clean"), DONE, 0)
    assert names(found) == ["alone", "left", "right"]
    for name in ("left", "right"):
        found.start(key(name))
    found.end(key("left"), DONE, 0)
    assert "report" not in names(found)
    found.end(key("right"), DONE, 0)
    assert "report" in names(found)


def test_a_failure_skips_what_follows_from_it_and_nothing_else() -> None:
    found = board(DIAMOND)
    for name in ("clean", "left", "right", "alone"):
        found.start(key(name))
        skipped = found.end(key(name), BROKEN if name == "left" else DONE, 0)
        assert [row.node.job.name for row in skipped] == (["report"] if name == "left" else [])
    assert found.finished
    assert found.counts() == {"succeeded": 3, "failed": 1, "skipped": 1}
    assert found.rows[key("report")].reason == "upstream left failed"


def test_retries_wait_longer_each_time_and_end() -> None:
    found = board({"a": []}, retries=2, backoff_us=1_000_000)
    for attempt in (1, 2):
        found.start(key("a"))
        found.end(key("a"), PASSING, 10.0)
        due = found.next_due_s(10.0)
        assert due is not None and 0.75 * 2 ** (attempt - 1) <= due - 10.0 <= 1.25 * 2 ** (attempt - 1)
        assert names(found, 10.0) == [] and names(found, due) == ["a"]
    found.start(key("a"))
    found.end(key("a"), PASSING, 10.0)
    assert found.rows[key("a")].state == "failed" and found.rows[key("a")].attempt == 3


def test_what_another_attempt_cannot_mend_is_not_tried_again() -> None:
    found = board({"a": []}, retries=5)
    found.start(key("a"))
    found.end(key("a"), BROKEN, 0)
    assert found.finished


def test_memory_and_cores_are_not_promised_twice() -> None:
    needs: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    assert names(board(needs, Capacity(10, 10, 3 * GIB), memory_bytes=2 * GIB)) == ["a"]
    assert names(board(needs, Capacity(10, 2, 9 * GIB), cpus=1.0)) == ["a", "b"]
    assert names(board(needs, Capacity(1, 9, 9 * GIB))) == ["a"]


def test_periods_of_an_incremental_job_run_in_order() -> None:
    incremental = Job(**{**vars(make_job("a")), "mode": "incremental"})
    periods = [node.period for node in make_plan({"a": []}, days=3).nodes]
    chained = plan(Graph({"a": []}), {"a": incremental}, {"a": periods}, "a", "x")
    found = Board(chained.nodes, ANY, {})
    for period in periods:
        (row,) = found.startable(0)
        assert row.node.period == period
        found.start(row.node.key)
        found.end(row.node.key, DONE, 0)


def test_a_table_made_anew_is_made_once_a_date_and_before_whatever_reads_it() -> None:
    hourly = Schedule("0 * * * *")
    full = Job(**{**vars(make_job("a")), "mode": "full", "schedule": hourly})
    reader = Job(**{**vars(make_job("b")), "mode": "append", "schedule": hourly})
    periods = {job.name: periods_on(job, DAY, "UTC") for job in (full, reader)}
    assert (len(periods["a"]), len(periods["b"])) == (1, 24)
    assert periods["a"][0].end == periods["b"][-1].end
    planned = plan(Graph({"a": [], "b": ["a"]}), {"a": full, "b": reader}, periods, "--all", DAY.isoformat())
    (made, *readers) = planned.nodes
    assert all(node.needs == {made.key} for node in readers)


def test_an_interruption_ends_what_has_not_ended() -> None:
    found = board(DIAMOND)
    found.start(key("clean"))
    found.interrupt()
    assert found.finished and found.counts() == {"interrupted": 5}


def test_resuming_runs_what_failed_and_what_follows_from_it() -> None:
    planned = make_plan(DIAMOND)
    rows = _history(planned, {"clean": "succeeded", "left": "failed", "right": "succeeded", "report": "skipped"})
    again = resumed(planned, "run1", rows)
    assert set(again.done) == {key("clean"), key("right")}
    found = Board(again.nodes, ANY, again.done)
    assert names(found) == ["alone", "left"]
    assert found.rows[key("clean")].reason == "done by run run1"


def test_resuming_makes_again_what_was_changed_and_all_that_follows() -> None:
    planned = make_plan(DIAMOND)
    rows = _history(planned, dict.fromkeys(DIAMOND, "succeeded") | {"alone": "failed"})
    for row in rows:
        if row["job"] == "clean":
            row["fingerprint"] = "as it was before"
    assert resumed(planned, "run1", rows).done == {}


def test_resuming_twice_remembers_who_did_it() -> None:
    planned = make_plan(DIAMOND)
    rows = _history(planned, {"clean": "skipped", "left": "failed"}, reason="done by run run0")
    assert resumed(planned, "run1", rows).done == {key("clean"): "run0"}


def _history(planned: Plan, states: dict[str, str], reason: str = "") -> list[dict[str, Any]]:
    from eagleray.jobs.run.plan import fingerprint

    return [
        {"job": node.job.name, "period": node.period.label, "state": states[node.job.name], "reason": reason}
        | {"fingerprint": fingerprint(node.job)}
        for node in planned.nodes
        if node.job.name in states
    ]


@given(st.data())
def test_every_graph_comes_to_an_end(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 12))
    needs = {
        f"j{n}": [f"j{m}" for m in data.draw(st.sets(st.integers(0, n - 1), max_size=3))] if n else []
        for n in range(size)
    }
    found = board(needs, Capacity(data.draw(st.integers(1, 4)), 4, 9 * GIB), retries=1)
    now_s = 0.0
    failed = set()
    while not found.finished:
        rows = found.startable(now_s)
        for row in rows:
            assert all(found.rows[need].state == "succeeded" for need in row.node.needs)
            found.start(row.node.key)
        if not found.running:
            due = found.next_due_s(now_s)
            assert due is not None, "nothing runs and nothing is to come"
            now_s = due
            continue
        one = data.draw(st.sampled_from(sorted(found.running)))
        ending = data.draw(st.sampled_from([DONE, DONE, PASSING, BROKEN]))
        found.end(one, ending, now_s)
        if found.rows[one].state == "failed":
            failed.add(one)
    for row in found.rows.values():
        blocked = any(found.rows[need].state in ("failed", "skipped") for need in row.node.needs)
        assert row.state == ("skipped" if blocked else "failed" if row.node.key in failed else "succeeded")


def test_backoff_is_spread() -> None:
    assert len({backoff_s(1.0, 1) for _ in range(20)}) > 10


@pytest.mark.parametrize("spread", [0.25, 0.5])
def test_backoff_doubles_and_stays_within_its_spread(spread: float) -> None:
    for attempt, middle in ((1, 0.1), (2, 0.2), (5, 1.6)):
        pauses = [backoff_s(0.1, attempt, spread) for _ in range(200)]
        assert middle * (1 - spread) <= min(pauses) < max(pauses) <= middle * (1 + spread)


def test_periods_of_one_table_run_side_by_side_only_where_each_has_partitions_of_its_own() -> None:
    for mode, at_once in (("full", 1), ("append", 1), ("merge", 1), ("overwrite_partitions", 3)):
        nodes = [replace(node, job=replace(node.job, mode=mode)) for node in make_plan({"a": []}, days=3).nodes]
        found = Board(nodes, ANY, {})
        first = found.startable(0.0)
        assert len(first) == at_once
        for row in first:
            found.start(row.node.key)
        assert found.startable(0.0) == []


def test_a_job_on_ray_counts_with_a_task_of_its_own() -> None:
    jobs = [replace(make_job(name), engine=engine) for name, engine in (("a", "ray"), ("b", "daft"), ("c", "duckdb"))]
    nodes = [Node(one, daily(DAY)) for one in jobs]
    for cores, first in ((1.0, ["a"]), (2.0, ["a"]), (3.0, ["a", "c"]), (5.0, ["a", "b", "c"])):
        board = Board(nodes, Capacity(9, cores, 9 << 30), {})
        assert [row.node.job.name for row in board.startable(0.0)] == first
