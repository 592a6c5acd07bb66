"""Write, audit, publish: no reader sees a result that its checks reject, and no kill leaves half of one."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray.cluster.errors import ChecksFailed, CommitFailed, QueryRejected
from eagleray.cluster.lake import commit_loop as attempts
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.replace import Change
from eagleray.jobs.model import Check, Job
from eagleray.jobs.period import daily
from eagleray.jobs.publish import publish as audit
from eagleray.jobs.publish.checks import breaking
from eagleray.jobs.publish.run_mark import Published
from eagleray.sql.query import Sql
from tests.lake_tables import catalog_commits, in_thread
from tests.published import DAY, NEXT_DAY, OUTPUT, check, content, make_job, open_lake, rows, run

D, E = date(2015, 9, 12), date(2015, 9, 13)
KEYED = check("unique", "unique(k)", columns=("k",))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BACKOFF_S", 0.001)
    monkeypatch.setattr(audit, "BACKOFF_S", 0.01)


def test_rejected_result_is_not_seen_and_can_be_looked_at(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("full", checks=(KEYED, check("not_null", "v", columns=("v",))))
    run(lake, job, rows((D, "a", 1)))
    with pytest.raises(ChecksFailed) as failed:
        run(lake, job, rows((D, "b", 2), (D, "b", None)), "r2")
    assert [(name, count) for name, count, _ in failed.value.failures] == [("unique(k)", 1), ("v", 1)]
    assert failed.value.failures[1][2] == [{"day": D, "k": "b", "v": None}]
    assert 'SELECT * FROM reports."daily@rejected"' in str(failed.value)
    assert content(lake) == [(D, "a", 1)]
    assert content(lake, at="rejected") == [(D, "b", 2), (D, "b", None)]
    with Sql(lake.config) as sql:
        found = sql.query('SELECT count(*) AS n FROM reports."daily@rejected"', 60).table.to_pylist()
    assert found == [{"n": 2}]
    run(lake, job, rows((D, "c", 3)), "r3")
    assert content(lake) == [(D, "c", 3)]
    assert lake.branches(OUTPUT) == ["rejected"]


def test_first_result_of_all_can_be_rejected(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("merge", key=("k",), checks=(check("row_count", "rows", min=5),))
    with pytest.raises(ChecksFailed, match="rows: 1 rows, such as rows=1"):
        run(lake, job, rows((D, "a", 1)))
    assert content(lake) == []
    assert content(lake, at="rejected") == [(D, "a", 1)]


def test_checks_see_the_table_as_readers_would(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("append", checks=(KEYED,))
    run(lake, job, rows((D, "a", 1)))
    with pytest.raises(ChecksFailed):  # unique in itself, and not in the table
        run(lake, job, rows((E, "a", 2)), "r2", NEXT_DAY)
    run(lake, job, rows((D, "a", 3)), "r3")
    assert content(lake) == [(D, "a", 3)]


CASES: list[tuple[Check, list[dict[str, Any]]]] = [
    (check("not_null", columns=("k", "v")), [{"day": D, "k": None, "v": 2}, {"day": E, "k": "b", "v": None}]),
    (check("unique", columns=("day", "k")), [{"day": E, "k": "b", "rows": 2}]),
    (check("accepted_values", column="k", values=("a", "it's")), [{"k": "b"}, {"k": "b"}]),
    (check("accepted_values", column="v", values=(1, 2)), [{"v": 7}]),
    (check("relationships", column="k", to="ref.keys", field="id"), [{"k": "b"}, {"k": "b"}]),
    (check("row_count", min=5), [{"rows": 4}]),
    (check("row_count", max=3), [{"rows": 4}]),
    (check("row_count", min=4, max=4), []),
    (check("freshness", column="day", within_us=86_400_000_000), [{"newest": E}]),
    (check("freshness", column="day", within_us=3 * 86_400_000_000), []),
    (check("sql", query="SELECT * FROM {table} WHERE v > 5 -- large;"), [{"v": 7}]),
]


@pytest.mark.parametrize(("one", "broken"), CASES, ids=lambda value: getattr(value, "kind", ""))
def test_check_selects_the_rows_that_break_it(tmp_path: Path, one: Check, broken: list[dict[str, Any]]) -> None:
    lake = open_lake(tmp_path)
    run(lake, make_job("full"), rows((D, "a", 1), (D, None, 2), (E, "b", None), (E, "b", 7)))
    keys = pa.table({"id": ["a", None]})
    lake.ensure_output("ref.keys", keys.schema)
    lake.replace("ref.keys", Change(added=lake.write("ref.keys", keys)))
    now_us = int(datetime(2015, 9, 14, 12, tzinfo=UTC).timestamp()) * 1_000_000
    types = {(OUTPUT, "k"): "VARCHAR", (OUTPUT, "v"): "BIGINT", ("ref.keys", "id"): "VARCHAR"}
    with Sql(lake.config) as sql:
        found = sql.query(breaking(one, OUTPUT, now_us, types), 60).table.to_pylist()
    found = sorted(({k: row[k] for k in broken[0]} if broken else row for row in found), key=repr)
    assert found == broken


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        ((True, False), {"true", "false"}),
        ((1, 2), {"1", "2"}),
        (("yes", "no"), {"yes", "no"}),
        ((1.5,), {"1.5"}),
    ],
)
def test_accepted_values_of_text_are_text(tmp_path: Path, values: tuple[Any, ...], passes: set[str]) -> None:
    lake, job = open_lake(tmp_path), make_job("full", checks=(check("accepted_values", column="K", values=values),))
    for text in ["t", "1", "false", "true", "01", "2", "yes", "no", "y", "1.5", "1.50"]:
        try:
            run(lake, job, rows((D, text, 1)), text)
        except ChecksFailed:
            assert text not in passes
        else:
            assert text in passes


def test_relationships_of_text_and_numbers_are_of_text(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    keys = pa.table({"id": [1, 2]})
    lake.ensure_output("ref.keys", keys.schema)
    lake.replace("ref.keys", Change(added=lake.write("ref.keys", keys)))
    to = Check("relationships", {"column": "k", "to": "ref.keys", "field": "id"}, "k", ("ref.keys",))
    run(lake, make_job("full", checks=(to,)), rows((D, "1", 1)))
    with pytest.raises(ChecksFailed):
        run(lake, make_job("full", checks=(to,)), rows((D, "01", 1)), "r2")


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (check("not_null", "n", columns=("nope",)), "nope"),
        (check("sql", "s", query="DROP TABLE {table}"), "check s of job daily"),
        (Check("relationships", {"column": "k", "to": "no.table", "field": "f"}, "r", ("no.table",)), "does not exist"),
    ],
)
def test_check_that_cannot_be_asked_is_refused_and_publishes_nothing(tmp_path: Path, one: Check, message: str) -> None:
    lake = open_lake(tmp_path)
    with pytest.raises(QueryRejected, match=message):
        run(lake, make_job("full", checks=(one,)), rows((D, "a", 1)))
    assert content(lake) == [] and lake.branches(OUTPUT) == []


def test_runs_of_several_periods_at_once_all_land(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    job = make_job("overwrite_partitions", partition_by=("day",), checks=(KEYED,))
    run(lake, job, rows((date(2015, 9, 1), "z", 0)), "r0")
    days = [date(2015, 9, day) for day in (12, 13, 14)]

    def publishing(day: date) -> Callable[[], Published]:
        return lambda: run(Lake.open(lake.config), job, rows((day, str(day), 1)), f"r{day}", daily(day))

    threads = [in_thread(publishing(day)) for day in days]
    for thread, _ in threads:
        thread.join()
    assert [type(outcome[0]).__name__ for _, outcome in threads] == ["Published"] * 3
    assert {row[0] for row in content(lake)} == {date(2015, 9, 1), *days}
    assert lake.branches(OUTPUT) == []


class Killed(BaseException):
    """Stands for the end of the process: nothing of the code under test may catch it."""


def killing(at: int, *, after: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Ends the process at the `at`-th commit, before or after the catalog took it."""
    left = [at]

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def commit_table(*args: Any) -> Any:
            left[0] -= 1
            if left[0] < 0 and not after:
                raise Killed
            answer = real(*args)
            if left[0] < 0:
                raise Killed
            return answer

        return commit_table

    return around


JOBS: dict[str, Job] = {
    "full": make_job("full", checks=(KEYED,)),
    "overwrite_partitions": make_job("overwrite_partitions", partition_by=("day",)),
    "append": make_job("append", checks=(KEYED,)),
    "merge": make_job("merge", key=("k",), checks=(KEYED,)),
    "incremental": make_job("incremental", checks=(KEYED,)),
}


@pytest.mark.parametrize("name", JOBS)
def test_killed_at_every_commit_and_run_again_gives_the_same_table(tmp_path: Path, name: str) -> None:
    job = JOBS[name]
    since, positions = {"s": {"p0": 1}}, {"s": {"p0": 2}}

    def prepared(directory: Path) -> Lake:
        lake = open_lake(directory)
        run(lake, job, rows((D, "a", 1), (D, "b", 1)), "r0", NEXT_DAY, positions=since)
        return lake

    def second(lake: Lake) -> None:
        result = rows((D, "n" if name in ("append", "incremental") else "b", 2), (D, "c", 2))
        run(lake, job, result, "r1", DAY, positions, since)

    whole = prepared(tmp_path / "whole")
    second(whole)
    expected = content(whole)
    for after in (False, True):
        for at in range(8):
            lake = prepared(tmp_path / f"{at}-{after}")
            seen = content(lake) if lake.find(OUTPUT) else []
            try:
                with catalog_commits(lake, killing(at, after=after)):
                    second(lake)
            except Killed:
                assert (content(lake) if lake.find(OUTPUT) else []) in (seen, expected)
                second(Lake.open(lake.config))
                done = False
            else:
                done = True
            assert content(lake) == expected
            if done:
                break
        else:
            raise AssertionError("more commits than were counted on")


def test_snapshot_says_which_run_made_it(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    done = run(lake, make_job("full", checks=(KEYED,)), rows((D, "a", 1)))
    snapshot, summary = lake.history(OUTPUT)[0]
    assert snapshot == done.snapshot_id
    assert (summary["eagleray.job"], summary["eagleray.period"]) == ("daily", "2015-09-12")
    assert json.loads(summary["eagleray.inputs"]) == {"s.events": 7}


def test_result_that_others_overtake_again_and_again_says_so(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("full")
    run(lake, job, rows((D, "a", 1)))

    def overtaken(real: Callable[..., Any]) -> Callable[..., Any]:
        def commit_table(*args: Any) -> Any:
            lake._catalog.commit_table = real  # type: ignore[method-assign]
            lake.replace(OUTPUT, Change(added=lake.write(OUTPUT, rows((D, "other", 0)))))
            lake._catalog.commit_table = commit_table  # type: ignore[method-assign]
            return real(*args)

        return commit_table

    with catalog_commits(lake, overtaken), pytest.raises(CommitFailed, match="plan again"):
        run(lake, job, rows((D, "b", 1)), "r2")
    assert ("b", 1) not in content(lake, ("k", "v"))
