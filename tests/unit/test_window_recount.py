"""State and log that no longer reach back: open windows are counted again from the tables, exactly."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from eagleray.actors.window.worker import WindowWorker
from eagleray.cluster.lake.scan import ScanPlan
from eagleray.cluster.log.protocol import Entry, Kind
from eagleray.cluster.log.record import encode_control
from tests.window_rig import COUNT, SECOND, WindowRig, us

HOUR = COUNT | {"tumble": "1h"}


def test_an_open_window_is_counted_again_from_events(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, windows={"w": HOUR})
    rig.post(*(f"12:{minute:02}:00" for minute in range(14)))
    rig.store()
    rig.decide()
    rig.lose_state()
    assert rig.log.bounds("s", 0).first == 14
    rig.up(windows={"w": HOUR})
    rig.post("12:30:00", "13:30:00")
    assert rig.rows() == [("12:00:00", "a", 15)]


def test_a_window_longer_than_the_log_is_kept(tmp_path: Path) -> None:
    week = {"w": {"tumble": "7d", "aggregate": {"n": "count()", "total": "sum(v)", "last": "last(v)"}}}
    rig = WindowRig(tmp_path, windows=week)
    for day, value in (("2015-09-10", 1), ("2015-09-11", 2), ("2015-09-13", 3)):
        rig.post(f"{day}T12:00:00", v=value)
    for _ in range(2):  # and again from what was counted again
        rig.store()
        rig.decide()
        rig.lose_state()
        rig.up(windows=week)
        rig.post("2015-09-16T00:00:00", v=4)
    assert [(row["n"], row["total"], row["last"]) for row in rig.open()] == [(5, 14, 4)]


def test_late_events_and_idle_advances_are_not_counted_again(tmp_path: Path) -> None:
    windows = {"w": COUNT, "hops": {"hop": "4m", "every": "1m", "aggregate": {"n": "count()"}}}
    rig = WindowRig(tmp_path, partitions=2, windows=windows)
    rig.post("12:05:00")
    # Nobody moved the watermark to 12:10 but the wall clock: `events` alone knows nothing of it.
    advance = encode_control({"advance": us("12:10:00"), "expected": rig.log.bounds("s", 0).end})
    rig.log.append("s", [Entry(0, Kind.CONTROL, 0, advance)])
    rig.post("12:07:30", "12:09:40")  # 12:07 is late for w and for some of hops; 12:09 is in time
    late = [rig.late("w"), rig.late("hops")]
    assert late == [[("12:07:00", 2)], [("12:04:00", 2), ("12:05:00", 2)]]
    rig.store()
    rig.decide()
    rig.lose_state()
    rig.up(windows=windows)
    rig.post("12:08:00")  # late, and known to be: the watermark was kept beside what `late` has decided
    rig.post("12:30:00", partition=0)
    rig.post("12:30:00", partition=1)
    assert rig.rows() == [("12:05:00", "a", 1), ("12:09:00", "a", 1)]
    assert rig.late("w") == [("12:07:00", 2), ("12:08:00", 4)]
    assert rig.rows("hops") == [
        (f"12:{minute:02}:00", n) for minute, n in ((2, 1), (3, 1), (4, 1), (5, 1), (6, 3), (7, 3), (8, 2), (9, 1))
    ]


def test_what_events_does_not_hold_yet_is_waited_for(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, windows={"w": HOUR})
    rig.post("12:00:00", "12:01:00", "12:02:00")
    rig.store(upto=2)
    rig.decide()
    rig.lose_state()
    rig.up(windows={"w": HOUR})
    rig.settle()
    assert rig.worker._held == {}
    rig.store()
    rig.worker._retry_at.clear()
    rig.post("13:30:00")
    assert rig.rows() == [("12:00:00", "a", 3)]


def test_only_files_of_open_windows_are_read_once_for_all_windows_and_partitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = {"w": COUNT, "hops": {"hop": "4m", "every": "2m", "aggregate": {"n": "count()"}}}
    rig = WindowRig(tmp_path, partitions=2, windows=windows)
    for minute in range(4, 40, 8):
        rig.post(f"12:{minute:02}:00", partition=0)
        rig.post(f"12:{minute:02}:01", f"12:{minute - 4:02}:02", partition=1)  # the second is late
        rig.store()
    rig.decide()
    rig.up(windows=windows | {"extra": COUNT | {"tumble": "2m"}})  # a new era knows where it begins
    rig.post("12:40:00", partition=0)
    rig.post("12:40:01", partition=1)
    rig.store()
    rig.decide()
    rig.lose_state()
    read: list[str] = []
    batches = ScanPlan.batches

    def spy(plan: ScanPlan, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        read.extend(f"{'late' if 'window' in columns else 'events'}" for _ in plan.files)
        return batches(plan, columns)

    monkeypatch.setattr(ScanPlan, "batches", spy)
    beats: list[str] = []
    monkeypatch.setattr(WindowWorker, "_beat", lambda _: beats.append(read[-1] if read else ""))
    rig.up(windows=windows | {"extra": COUNT | {"tumble": "2m"}})
    rig.settle()
    assert len(rig.worker._held) == 2
    # Of a file for each record, those of minutes that open windows can reach.
    assert 0 < read.count("events") <= 6
    assert read.count("late") <= 1
    assert "events" in beats and ("late" in beats) == ("late" in read)  # a worker that restores is seen to get on
    rig.post("13:30:00", partition=0)
    rig.post("13:30:00", partition=1)
    assert rig.rows()[-2:] == [("12:36:00", "a", 2), ("12:40:00", "a", 2)]
    assert rig.rows("extra") == [("12:40:00", "a", 2)]


def test_a_changed_window_is_counted_again_by_each_definition(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, windows={"w": HOUR}, filter="v > 0")
    rig.post("12:00:00", "12:10:00", v=1)
    rig.post("12:20:00", v=0)
    rig.kill()
    finer = {"w": COUNT | {"tumble": "30m", "group_by": [], "aggregate": {"total": "sum(v)"}}}
    rig.up(windows=finer)
    rig.post("12:30:00", "13:00:10", v=7)
    rig.store()
    rig.decide()
    rig.lose_state()
    rig.up(windows=finer)
    rig.post("12:40:00", "13:10:00", v=1)
    rig.post("15:00:00")
    found = rig.rows("w", "window_start", "k", "n", "total")
    assert found == [("12:00:00", "a", 4, None), ("13:00:00", None, None, 8)]


@pytest.mark.parametrize("seed", range(3))
def test_open_sessions_over_partitions_are_counted_again(tmp_path: Path, seed: int) -> None:
    sessions = {"w": {"session_gap": "1m", "group_by": ["k"], "aggregate": {"n": "count()"}}}
    chance = random.Random(seed)
    rig = WindowRig(tmp_path, partitions=2, windows=sessions)
    sent, now = [], us("12:00:00")
    for step in range(24):
        now += chance.randrange(50) * SECOND
        event = (now - chance.randrange(5) * SECOND, chance.choice("ab"), 1)
        sent.append(event)
        rig.append(step % 2, [event])
        if step % 8 == 7:
            rig.settle()
            if chance.random() < 0.8:
                rig.store()
                rig.decide()
                rig.lose_state()
                rig.up(windows=sessions)
    rig.post("20:00:00", partition=0, k="end")
    rig.post("20:00:00", partition=1, k="end")
    late = {(row["_partition"], row["_offset"]) for row in rig.lake.read("s.late").to_pylist()}
    counted = [event for i, event in enumerate(sent) if (i % 2, i // 2) not in late]
    assert sorted((start, end - start, row["k"], row["n"]) for start, end, row in rig.spans()) == sessions_of(counted)


def sessions_of(events: list[tuple[int, str, int]]) -> list[tuple]:
    found = []
    for key in sorted({k for _, k, _ in events}):
        run: list[int] = []
        for time in [*sorted(t for t, k, _ in events if k == key), 1 << 60]:
            if run and time - run[-1] > 60 * SECOND:
                found.append((run[0], run[-1] + 60 * SECOND - run[0], key, len(run)))
                run = []
            run.append(time)
    return sorted(found)
