"""Files are replaced in one snapshot, exactly: beside appends, against one another, whatever answers get lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.exceptions import CommitFailedException

from eagleray.cluster.clock import ManualClock, SystemClock
from eagleray.cluster.errors import CommitFailed, CommitUnknown
from eagleray.cluster.lake import bin_packing as packing
from eagleray.cluster.lake import commit_loop as attempts
from eagleray.cluster.lake.compaction import compact
from eagleray.cluster.lake.expire import Retention
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.cluster.lake.predicate import Compare
from eagleray.cluster.lake.replace import Change
from tests.examples import examples
from tests.lake_tables import EVENTS, answer_lost, catalog_commits, event_rows, in_thread, make_lake, make_stream

HOUR_US = 3_600_000_000


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make_lake(tmp_path)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BACKOFF_S", 0.001)


def land(lake: Lake, step: int, count: int = 1) -> None:
    """Append `count` rows that start at `step`, as the stream does."""
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(count, step)), {"p0": step}, {"p0": step + count})


def numbers(lake: Lake, at: str | int | None = None) -> list[int]:
    plan = lake.pin(EVENTS, at).plan()
    return sorted(n for batch in plan.batches(["n"]) for n in batch["n"].to_pylist()) if plan.files else []


def merged(lake: Lake) -> Change:
    """All files of now as one."""
    plan = lake.pin(EVENTS).plan()
    with lake.stream(EVENTS) as out:
        out.write_all(plan.batches(plan.columns))
        return Change(plan.data_files, out.finish(), compaction=True)


def test_files_are_swapped_and_progress_stays(lake: Lake) -> None:
    for step in range(5):
        land(lake, step)
    lake.replace(EVENTS, merged(lake))
    assert numbers(lake) == [0, 1, 2, 3, 4]
    assert len(lake.pin(EVENTS).plan().files) == 1
    assert lake.progress(EVENTS) == {"p0": 5}
    table = lake.load(EVENTS)
    head = table.current_snapshot()
    assert head is not None and head.summary is not None
    assert (head.summary.operation.value, head.summary["total-records"]) == ("replace", "5")
    assert lake.pin(EVENTS, head.snapshot_id).progress == {"p0": 5}
    land(lake, 5)
    assert numbers(lake) == [0, 1, 2, 3, 4, 5]


def test_append_that_comes_first_is_kept(lake: Lake) -> None:
    land(lake, 0, 3)
    change = merged(lake)

    def overtaken(real: Callable[..., Any]) -> Callable[..., Any]:
        def commit_table(*args: Any) -> Any:
            lake._catalog.commit_table = real  # type: ignore[method-assign]
            land(lake, 3, 2)
            return real(*args)

        return commit_table

    with catalog_commits(lake, overtaken):
        lake.replace(EVENTS, change)
    assert numbers(lake) == [0, 1, 2, 3, 4]
    assert lake.progress(EVENTS) == {"p0": 5}


def test_a_compaction_is_patient_with_a_stream_that_comes_first_again_and_again(lake: Lake) -> None:
    for step in range(3):
        land(lake, step)
    steps = iter(range(3, 12))

    def overtaken(real: Callable[..., Any]) -> Callable[..., Any]:
        def commit(*args: Any, **kwargs: Any) -> Any:
            if (step := next(steps, None)) is not None:
                lake._catalog.commit_table = real  # type: ignore[method-assign]
                land(lake, step)
                lake._catalog.commit_table = commit  # type: ignore[method-assign]
            return real(*args, **kwargs)

        return commit

    change = merged(lake)
    with catalog_commits(lake, overtaken):
        lake.replace(EVENTS, change)
    assert next(steps, None) is None
    assert numbers(lake) == list(range(12))
    assert len(lake.pin(EVENTS).plan().files) == 10


def test_file_that_is_gone_already_refuses_the_change(lake: Lake) -> None:
    land(lake, 0)
    land(lake, 1)
    first, second = merged(lake), merged(lake)
    lake.replace(EVENTS, first)
    with pytest.raises(CommitFailed, match="plan again"):
        lake.replace(EVENTS, second)
    assert numbers(lake) == [0, 1]


def test_exclusive_change_is_refused_by_an_append_and_not_by_a_compaction(lake: Lake) -> None:
    land(lake, 0)
    land(lake, 1)
    base = lake.pin(EVENTS).snapshot_id
    added = lake.write(EVENTS, event_rows(1, 7))
    lake.replace(EVENTS, merged(lake))
    lake.replace(EVENTS, Change(added=added, base=base, exclusive=True))
    with pytest.raises(CommitFailed, match="moved on"):
        lake.replace(EVENTS, Change(added=lake.write(EVENTS, event_rows(1, 8)), base=base, exclusive=True))
    assert numbers(lake) == [0, 1, 7]


@pytest.mark.parametrize("error", [OSError("connection reset"), CommitFailedException("409 to a repeated request")])
def test_answer_lost_after_landing_is_found_by_its_mark(lake: Lake, error: Exception) -> None:
    land(lake, 0)
    land(lake, 1)
    change = merged(lake)

    with catalog_commits(lake, answer_lost(error)):
        snapshot = lake.replace(EVENTS, change)
    assert lake.pin(EVENTS).snapshot_id == snapshot
    assert numbers(lake) == [0, 1]


def test_unreachable_catalog_leaves_the_outcome_unknown_and_every_file(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(lake, 0)
    change = merged(lake)

    def gone(table: str) -> Any:
        raise OSError("no route to host")

    with monkeypatch.context() as patched:
        patched.setattr(lake, "load", gone)
        with pytest.raises(CommitUnknown):
            lake.replace(EVENTS, change)
    assert all(Path(file.file_path).exists() for file in [*change.removed, *change.added])
    lake.replace(EVENTS, change)
    assert numbers(lake) == [0]


def test_base_snapshot_expired_before_the_commit_changes_nothing_for_it(lake: Lake) -> None:
    for step in range(3):
        land(lake, step)
    change = merged(lake)
    for step in range(3, 6):
        land(lake, step)
    lake.expire(EVENTS, Retention(1, 0, 0))
    lake.replace(EVENTS, change)
    assert numbers(lake) == [0, 1, 2, 3, 4, 5]


def test_branch_is_read_by_name_and_becomes_main_only_where_main_stood(lake: Lake) -> None:
    land(lake, 0, 2)
    for branch in ("one", "two"):
        lake.replace(EVENTS, Change(added=lake.write(EVENTS, event_rows(1, 5)), branch=branch))
    assert numbers(lake) == [0, 1]
    assert numbers(lake, "one") == [0, 1, 5]
    found = open_snapshots(lake.config).pin([EVENTS, f"{EVENTS}@one", f"{EVENTS}@none"])
    assert {name: table.plan().rows for name, table in found.items()} == {EVENTS: 2, f"{EVENTS}@one": 3}
    lake.forward(EVENTS, "one", {"said": "yes"})
    assert numbers(lake) == [0, 1, 5]
    assert lake.properties(EVENTS)["said"] == "yes"
    with pytest.raises(CommitFailed, match="stage again"):
        lake.forward(EVENTS, "two", {})
    lake.keep_branch(EVENTS, "two", "rejected", 1000)
    assert lake.branches(EVENTS) == ["rejected"]


def test_replaced_files_stay_for_their_grace_and_go_afterwards(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().now_us())
    lake = Lake.open(make_lake(tmp_path).config, clock)
    for step in range(4):
        land(lake, step)
    before = lake.pin(EVENTS)
    change = merged(lake)
    lake.replace(EVENTS, change)
    land(lake, 4)
    retention = Retention(1, 0, HOUR_US)
    lake.expire(EVENTS, retention)
    assert sum(batch.num_rows for batch in before.over(change.removed).batches(["n"])) == 4  # a slow reader
    clock.advance(2 * HOUR_US)
    gone = lake.expire(EVENTS, retention)
    assert (gone.files, gone.bytes) == (4, sum(file.file_size_in_bytes for file in change.removed))
    assert not any(Path(file.file_path).exists() for file in change.removed)
    assert numbers(lake) == [0, 1, 2, 3, 4]


def test_file_that_a_branch_still_has_is_not_deleted(lake: Lake) -> None:
    land(lake, 0)
    lake.replace(EVENTS, Change(branch="look"))
    change = merged(lake)
    lake.replace(EVENTS, change)
    land(lake, 1)
    assert lake.expire(EVENTS, Retention(1, 0, 0)).files == 0
    assert numbers(lake, "look") == [0]
    lake.drop_branch(EVENTS, "look")
    land(lake, 2)
    lake.expire(EVENTS, Retention(1, 0, 0))
    assert numbers(lake) == [0, 1, 2]


def test_only_manifests_of_touched_partitions_are_rewritten(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, make_stream(lake={"partition_by": ["user"]}))
    for step in range(0, 10, 5):
        land(lake, step, 5)
    rows = event_rows(2, 10)
    lake.commit(EVENTS, lake.write(EVENTS, rows.set_column(1, "user", [[None, None]])), {"p0": 10}, {"p0": 12})
    plan = lake.pin(EVENTS).plan(Compare("user", "=", "user-3"))
    lake.replace(EVENTS, Change(plan.data_files))
    assert numbers(lake) == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11]
    nulls = lake.pin(EVENTS).plan().only(lambda file: file.partition[0] is None)
    lake.replace(EVENTS, Change(nulls.data_files))
    assert numbers(lake) == [0, 1, 2, 4, 5, 6, 7, 9]


STEP = st.sampled_from(["append", "compact", "swap", "expire", "stage", "forward", "drop"])


@examples(12)
@given(steps=st.lists(STEP, min_size=4, max_size=14))
def test_any_interleaving_keeps_exactly_the_rows(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    lake = make_lake(tmp_path_factory.mktemp("lake"))
    expected: set[int] = set()
    staged: set[int] | None = None
    at, number = 0, 1000
    for step in steps:
        if step == "append":
            land(lake, at, 2)
            expected |= {at, at + 1}
            at += 2
        elif step == "compact":
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(packing, "FILES_MIN", 2)
                compact(lake, EVENTS, 1 << 20, 1)
        elif step == "swap" and expected:
            gone = min(expected)
            plan = lake.pin(EVENTS).plan(Compare("n", "=", gone))
            rows = [r for b in plan.batches(plan.columns) for r in b.to_pylist() if r["n"] != gone]
            added = lake.write(EVENTS, event_rows(len(rows)).set_column(2, "n", [[r["n"] for r in rows]]))
            lake.replace(EVENTS, Change(plan.data_files, added))
            expected -= {gone}
        elif step == "expire":
            lake.expire(EVENTS, Retention(1, 0, 0))
        elif step == "stage" and expected:
            number += 1  # each staged row has a number of its own, also where nothing was appended in between
            lake.replace(EVENTS, Change(added=lake.write(EVENTS, event_rows(1, number)), branch="audit"))
            staged = expected | {number}
        elif step == "forward" and staged is not None:
            if _forwarded(lake):
                expected = staged
            staged = None
        elif step == "drop":
            lake.drop_branch(EVENTS, "audit")
            staged = None
        assert set(numbers(lake)) == expected
        assert len(numbers(lake)) == len(expected)
    assert lake.progress(EVENTS).get("p0", 0) == at


def _forwarded(lake: Lake) -> bool:
    try:
        lake.forward(EVENTS, "audit", {})
    except CommitFailed:
        lake.drop_branch(EVENTS, "audit")
        return False
    return True


def test_appends_and_compactions_at_once_lose_and_double_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "FILES_MIN", 2)
    monkeypatch.setattr(attempts, "BACKOFF_S", 0.02)
    thread, outcome = in_thread(lambda: [land(lake, step) for step in range(25)])
    other = Lake.open(lake.config)
    while thread.is_alive():
        compact(other, EVENTS, 1 << 20, 1)
        other.expire(EVENTS, Retention(2, 0, 0))
    thread.join()
    assert outcome == [[None] * 25]
    assert numbers(lake) == list(range(25))
    assert lake.progress(EVENTS) == {"p0": 25}
