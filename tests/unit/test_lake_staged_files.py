"""No commit names a file that is gone: writers that were stopped, orphans removed meanwhile, results that take long."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray.actors.window.late import Late
from eagleray.actors.window.partition import View
from eagleray.actors.window.staging import LateStaging
from eagleray.cluster.clock import ManualClock, SystemClock
from eagleray.cluster.errors import CommitFailed, FilesLost
from eagleray.cluster.lake import bin_packing, commit_loop, compaction
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.orphans import remove_orphans
from eagleray.cluster.lake.replace import Change
from eagleray.cluster.lake.staged_files import GRACE_MIN_US, RENEW_US
from eagleray.cluster.lake.stream_tables import LATE_COLUMNS
from eagleray.jobs.builtin import orphans as orphans_job
from tests.lake_tables import EVENTS, catalog_commits, event_rows, in_thread, make_config, make_lake

MINUTE_US = 60_000_000


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_loop, "BACKOFF_S", 0.001)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(SystemClock().now_us())


@pytest.fixture
def lake(tmp_path: Path, clock: ManualClock) -> Lake:
    make_lake(tmp_path)
    return Lake.open(make_config(tmp_path), clock)


def parquet(lake: Lake) -> set[Path]:
    return set(Path(lake.config.warehouse).rglob("*.parquet"))


def orphans(lake: Lake, clock: ManualClock) -> int:
    return orphans_job.run(lake.config, orphans_job.OrphansOptions(grace_us=GRACE_MIN_US), clock).files


def readable(lake: Lake) -> list[int]:
    return sorted(lake.read(EVENTS, ["n"])["n"].to_pylist())


APPENDS: dict[str, Callable[[Lake, list[Any]], object]] = {
    "stream": lambda lake, files: lake.commit(EVENTS, files, {"p0": 3}, {"p0": 6}),
    "job": lambda lake, files: lake.replace(EVENTS, Change((), files)),
    "branch": lambda lake, files: lake.replace(EVENTS, Change((), files, branch="audit")),
    "compaction": lambda lake, files: lake.replace(
        EVENTS, Change(lake.pin(EVENTS).plan().data_files, files, compaction=True)
    ),
}


@pytest.mark.parametrize("kind", APPENDS)
@pytest.mark.parametrize("what", ["old", "gone", "cut"])
def test_a_commit_never_adds_a_file_that_is_old_gone_or_cut(
    lake: Lake, clock: ManualClock, kind: str, what: str
) -> None:
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(3)), {"p0": 0}, {"p0": 3})
    files = lake.write(EVENTS, event_rows(3, 3))
    path = Path(files[0].file_path)
    if what == "old":
        clock.advance(GRACE_MIN_US + MINUTE_US)
    elif what == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 1)
    assert lake.stale(EVENTS, files)
    with pytest.raises(FilesLost, match=rf"{EVENTS}: .*{path.name}.*write"):
        APPENDS[kind](lake, files)
    assert readable(lake) == [0, 1, 2] and lake.progress(EVENTS) == {"p0": 3}
    fresh = lake.write(EVENTS, event_rows(3, 3))
    for file in fresh:
        os.utime(file.file_path, times=(clock.now_us() / 1e6,) * 2)
    APPENDS[kind](lake, fresh)


def test_the_very_same_files_just_young_enough_land(lake: Lake, clock: ManualClock) -> None:
    files = lake.write(EVENTS, event_rows(3))
    clock.advance(GRACE_MIN_US - MINUTE_US)
    assert not lake.stale(EVENTS, files)
    lake.commit(EVENTS, files, {"p0": 0}, {"p0": 3})
    assert readable(lake) == [0, 1, 2]


@pytest.mark.parametrize("kind", APPENDS)
def test_a_committer_stopped_before_the_catalog_while_orphans_go_does_not_land(
    lake: Lake, clock: ManualClock, kind: str
) -> None:
    """The stop is at the worst instant: after the look at the files, before the catalog compares and swaps."""
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(3)), {"p0": 0}, {"p0": 3})
    files = lake.write(EVENTS, event_rows(3, 3))
    removed = 0
    other = Lake.open(lake.config, clock)

    def stopped(commit: Callable[..., Any]) -> Callable[..., Any]:
        def late(*arguments: Any) -> Any:
            nonlocal removed
            if not removed:
                for file in files:
                    os.utime(file.file_path, times=(1.0, 1.0))
                removed = orphans(other, clock)
            return commit(*arguments)

        return late

    with catalog_commits(lake, stopped):
        thread, outcome = in_thread(lambda: APPENDS[kind](lake, files))
        thread.join()
    assert removed >= 1 and isinstance(outcome[0], CommitFailed), outcome
    assert readable(Lake.open(lake.config)) == [0, 1, 2]


def test_orphans_spare_what_was_renewed_or_committed_between_their_looks(lake: Lake, clock: ManualClock) -> None:
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(3)), {"p0": 0}, {"p0": 3})
    staged, lost = lake.write(EVENTS, event_rows(3, 3)), lake.write(EVENTS, event_rows(3, 3))
    clock.advance(2 * GRACE_MIN_US)
    for file in (*staged, *lost):
        os.utime(file.file_path, times=(1.0, 1.0))
    replace = lake.replace

    def renewed(table: str, change: Change) -> int:
        for file in staged:
            os.utime(file.file_path, times=(clock.now_us() / 1e6,) * 2)
        return replace(table, change)

    lake.replace = renewed  # type: ignore[method-assign]
    gone = remove_orphans(lake, EVENTS, GRACE_MIN_US, clock.now_us())
    assert {Path(file.path).name for file in gone if file.path.endswith(".parquet")} == {Path(lost[0].file_path).name}
    lake.commit(EVENTS, staged, {"p0": 3}, {"p0": 6})
    assert readable(lake) == list(range(6))


def test_a_long_result_keeps_its_files_young(lake: Lake, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.utime
    monkeypatch.setattr(os, "utime", lambda path: real(path, times=(clock.now_us() / 1e6,) * 2))
    began_us = clock.now_us()
    rows = event_rows(20).to_batches()[0]
    with lake.stream(EVENTS, sort_bytes=1) as out:
        out._writer.file_bytes_max = 1  # a file for each
        for at in range(20):
            out.write(rows.slice(at, 1))
            out._distribute()
            clock.advance(RENEW_US)
        files = out.finish()
    assert len(files) == 20 and clock.now_us() - began_us > 3 * GRACE_MIN_US
    lake.replace(EVENTS, Change((), files[:-2]))
    assert len(readable(lake)) == 18


def test_a_result_that_was_held_up_for_longer_than_the_grace_is_given_up(lake: Lake, clock: ManualClock) -> None:
    with pytest.raises(FilesLost, match="held up"), lake.stream(EVENTS, sort_bytes=1) as out:
        out.write(event_rows(5))
        out._distribute()
        clock.advance(GRACE_MIN_US + 1)
        out.write(event_rows(5))
        out.finish()
    assert not parquet(lake)


def test_compaction_whose_files_were_lost_plans_again(
    lake: Lake, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bin_packing, "FILES_MIN", 2)
    for step in range(0, 12, 3):
        lake.commit(EVENTS, lake.write(EVENTS, event_rows(3, step)), {"p0": step}, {"p0": step + 3})
    replace, lost = lake.replace, []

    def stopped(table: str, change: Change) -> int:
        if not lost:
            lost.append(Path(change.added[0].file_path))
            lost[0].unlink()
        return replace(table, change)

    lake.replace = stopped  # type: ignore[method-assign]
    done = compaction.compact(lake, EVENTS, 1 << 20, 1)
    assert (done.refused, done.files_after) == (1, 1)
    assert readable(lake) == list(range(12))


def test_late_rows_that_waited_too_long_are_written_again() -> None:
    written: list[str] = []
    stale: set[str] = set()

    def write(table: str, rows: object) -> list[Any]:
        written.append(f"file-{len(written)}")
        return [written[-1]]

    view = View(position=7, late=(Late(pa.Table.from_pylist([], schema=LATE_COLUMNS), 3),))
    staging = LateStaging(write, lambda table, files: bool(stale.intersection(files)), retention_s=3600)
    first, again = staging.offer("s", {0: view}, {}), staging.offer("s", {0: view}, {})
    assert first and again and first.files == again.files == ["file-0"]
    stale.add("file-0")
    renewed = staging.offer("s", {0: view}, {})
    assert renewed and renewed.files == ["file-1"] and renewed.begins == first.begins
