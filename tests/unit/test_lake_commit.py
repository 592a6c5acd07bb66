"""Exactly once: whatever is repeated, raced, delayed or answered wrongly, each batch is in the table once."""

from __future__ import annotations

import json
import pickle
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.exceptions import CommitFailedException

from eagleray.cluster.errors import CommitFailed, CommitUnknown
from eagleray.cluster.lake import commit_loop as attempts
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.progress import NEVER, PROPERTY
from tests.lake_tables import (
    EVENTS,
    answer_lost,
    catalog_commits,
    event_rows,
    fight,
    in_thread,
    make_config,
    make_lake,
    make_stream,
    numbers,
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make_lake(tmp_path, make_stream(windows={"w": {"tumble": "1m", "aggregate": {"c": "count()"}}}))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BACKOFF_S", 0.001)


def snapshots(lake: Lake) -> int:
    return len(lake.load(EVENTS).metadata.snapshots)


def test_progress_and_data_land_in_one_snapshot(lake: Lake) -> None:
    assert lake.progress(EVENTS) == {}
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(3)), {"p0": 0}, {"p0": 3})
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(2, 3)), {"p1": 0}, {"p1": 7})
    assert lake.progress(EVENTS) == {"p0": 3, "p1": 7}
    assert numbers(lake) == [0, 1, 2, 3, 4]
    table = lake.load(EVENTS)
    assert [snapshot.summary[PROPERTY] for snapshot in table.metadata.snapshots] == ['{"p0":3}', '{"p0":3,"p1":7}']
    assert table.metadata.snapshots[-1].summary["total-records"] == "5"


def test_replayed_batch_commits_once(lake: Lake) -> None:
    files = lake.write(EVENTS, event_rows(3))
    for _ in range(3):
        assert lake.commit(EVENTS, files, {"p0": 0}, {"p0": 3})
    again = lake.write(EVENTS, event_rows(3))  # the same range, written anew by a successor
    assert lake.commit(EVENTS, again, {"p0": 0}, {"p0": 3})
    assert numbers(lake) == [0, 1, 2]
    assert snapshots(lake) == 1


@pytest.mark.parametrize("begins", [{"p0": 2}, {"p0": 4}, {"p0": 3, "p1": 1}])
def test_batch_that_does_not_start_where_the_table_ends_is_refused(lake: Lake, begins: dict[str, int]) -> None:
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(3)), {"p0": 0}, {"p0": 3})
    files = lake.write(EVENTS, event_rows(1, 3))
    with pytest.raises(CommitFailed):
        lake.commit(EVENTS, files, begins, {key: at + 5 for key, at in begins.items()})
    assert lake.progress(EVENTS) == {"p0": 3}


def test_progress_over_records_without_rows_travels_in_a_snapshot(lake: Lake) -> None:
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(1)), {"p0": 0}, {"p0": 1})
    assert lake.commit(EVENTS, [], {"p0": 1}, {"p0": 9})
    assert lake.commit(EVENTS, [], {"p0": 1}, {"p0": 9})
    assert snapshots(lake) == 2
    assert json.loads(lake.load(EVENTS).current_snapshot().summary["eagleray.progress"]) == {"p0": 9}
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(1, 9)), {"p0": 9}, {"p0": 10})
    assert numbers(lake) == [0, 9]


def test_progress_moves_forward_alone(lake: Lake) -> None:
    files = lake.write(EVENTS, event_rows(1))
    for begins, ends in [({"p0": 0}, {"p0": 0}), ({"p0": 0}, {"p1": 1}), ({"p0": 0, "p1": 5}, {"p0": 1, "p1": 4})]:
        with pytest.raises(ValueError, match="cannot go"):
            lake.commit(EVENTS, files, begins, ends)
    assert snapshots(lake) == 0


def test_windows_never_closed_stand_at_never(lake: Lake) -> None:
    rows = event_rows(1).select([]).append_column("window_start", event_rows(1)["time"])
    rows = rows.append_column("window_end", event_rows(1)["time"])
    assert lake.commit("s.w", lake.write("s.w", rows), {"closed": NEVER}, {"closed": -5})
    assert lake.progress("s.w") == {"closed": -5}


def test_files_pickle_for_the_process_that_commits(lake: Lake) -> None:
    files, other = pickle.loads(pickle.dumps((lake.write(EVENTS, event_rows(3)), lake)))
    assert other.commit(EVENTS, files, {"p0": 0}, {"p0": 3})
    assert numbers(lake) == [0, 1, 2]


def test_two_processes_racing_commit_each_step_once(tmp_path: Path) -> None:
    make_lake(tmp_path)
    config = make_config(tmp_path)
    fight(config, 12, processes=2)
    lake = Lake.open(config)
    assert numbers(lake) == list(range(12))
    assert snapshots(lake) == 12


def test_racing_threads_commit_each_step_once(lake: Lake) -> None:
    files = [lake.write(EVENTS, event_rows(2)) for _ in range(4)]
    threads = [in_thread(lambda f=f: lake.commit(EVENTS, f, {"p0": 0}, {"p0": 2})) for f in files]  # type: ignore[misc]
    for thread, _ in threads:
        thread.join()
    assert [outcome for _, outcome in threads] == [[True]] * 4
    assert numbers(lake) == [0, 1]


def test_zombie_commit_fails_after_its_successors(lake: Lake, tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def stopped(real: Callable[..., Any]) -> Callable[..., Any]:
        def commit_table(*args: Any) -> Any:
            reached.set()
            go_on.wait()
            return real(*args)

        return commit_table

    files = lake.write(EVENTS, event_rows(3))
    successor = Lake.open(lake.config)
    with catalog_commits(lake, stopped):
        thread, outcome = in_thread(lambda: lake.commit(EVENTS, files, {"p0": 0}, {"p0": 3}))
        reached.wait()
        successor.commit(EVENTS, successor.write(EVENTS, event_rows(2)), {"p0": 0}, {"p0": 2})
        go_on.set()
        thread.join()
    assert isinstance(outcome[0], CommitFailed)
    assert numbers(lake) == [0, 1]


def test_commit_overtaken_on_other_keys_lands_after_a_look(lake: Lake) -> None:
    files, others = lake.write(EVENTS, event_rows(1)), lake.write(EVENTS, event_rows(1, 1))

    def overtaken(real: Callable[..., Any]) -> Callable[..., Any]:
        def commit_table(*args: Any) -> Any:
            lake._catalog.commit_table = real  # type: ignore[method-assign]
            lake.commit(EVENTS, others, {"p1": 0}, {"p1": 9})
            return real(*args)

        return commit_table

    with catalog_commits(lake, overtaken):
        assert lake.commit(EVENTS, files, {"p0": 0}, {"p0": 1})
    assert lake.progress(EVENTS) == {"p0": 1, "p1": 9}
    assert numbers(lake) == [0, 1]


@pytest.mark.parametrize("error", [OSError("connection reset"), CommitFailedException("409 to a repeated request")])
def test_answer_lost_after_landing_is_found_in_the_table(lake: Lake, error: Exception) -> None:
    files = lake.write(EVENTS, event_rows(3))
    with catalog_commits(lake, answer_lost(error)):
        assert lake.commit(EVENTS, files, {"p0": 0}, {"p0": 3})
    assert numbers(lake) == [0, 1, 2]
    assert snapshots(lake) == 1


def test_error_before_landing_is_tried_again(lake: Lake) -> None:
    errors = [OSError("503"), sqlite3.OperationalError("database is locked")]

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def commit_table(*args: Any) -> Any:
            if errors:
                raise errors.pop()
            return real(*args)

        return commit_table

    files = lake.write(EVENTS, event_rows(3))
    with catalog_commits(lake, failing):
        assert lake.commit(EVENTS, files, {"p0": 0}, {"p0": 3})
    assert numbers(lake) == [0, 1, 2]
    assert snapshots(lake) == 1


def test_unreadable_catalog_leaves_the_outcome_unknown_and_every_file(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = lake.write(EVENTS, event_rows(3))

    def gone(table: str) -> Any:
        raise OSError("no route to host")

    with monkeypatch.context() as patched:
        patched.setattr(lake, "load", gone)
        with pytest.raises(CommitUnknown):
            lake.commit(EVENTS, files, {"p0": 0}, {"p0": 3})
    assert all(Path(file.file_path).exists() for file in files)
    assert lake.commit(EVENTS, files, {"p0": 0}, {"p0": 3})
    assert numbers(lake) == [0, 1, 2]


def test_delayed_commit_that_lands_after_the_retry_is_refused(lake: Lake) -> None:
    late: list[tuple[Any, ...]] = []

    def delayed(real: Callable[..., Any]) -> Callable[..., Any]:
        def commit_table(*args: Any) -> Any:
            if not late:
                late.append(args)
                raise TimeoutError("no answer yet")
            return real(*args)

        return commit_table

    files = lake.write(EVENTS, event_rows(3))
    with catalog_commits(lake, delayed):
        assert lake.commit(EVENTS, files, {"p0": 0}, {"p0": 3})
    with pytest.raises(CommitFailedException):
        lake._catalog.commit_table(*late[0])
    assert numbers(lake) == [0, 1, 2]
    assert snapshots(lake) == 1


def test_catalog_locked_by_another_process_is_waited_for(lake: Lake, tmp_path: Path) -> None:
    files = lake.write(EVENTS, event_rows(3))
    other = sqlite3.connect(tmp_path / "data" / "catalog.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    thread, outcome = in_thread(lambda: lake.commit(EVENTS, files, {"p0": 0}, {"p0": 3}))
    thread.join(timeout=0.5)
    assert outcome == []
    other.execute("ROLLBACK")
    other.close()
    thread.join()
    assert outcome == [True]
