"""A changed configuration is applied: one row per window and group for ever, and no event left out in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from eagleray.cluster.lake.window_history import DEFINITIONS
from tests.window_rig import COUNT, WindowRig

WIDE = {"allowed_lateness": "1h"}


@pytest.mark.parametrize("state", [None, False, True])
def test_a_longer_lateness_writes_no_row_twice(tmp_path: Path, state: bool | None) -> None:
    rig = WindowRig(tmp_path)
    rig.post("12:00:05", "12:01:05", "12:01:06", "12:02:05", "12:03:05", "12:10:00")
    assert rig.rows() == [("12:00:00", "a", 1), ("12:01:00", "a", 2), ("12:02:00", "a", 1), ("12:03:00", "a", 1)]
    rig.kill(snapshot=bool(state))
    if state is None:
        rig.lose_state(trim=False)
    assert rig.up(**WIDE) == [
        "streams.s.windows.w: allowed_lateness 30s → 1h; counts from 2015-09-12T12:11:00Z on; "
        "windows that start before stay as they are"
    ]
    rig.post("13:20:00")
    assert sum(n for *_, n in rig.rows()) == 6 and len(rig.rows()) == 5
    rig.kill()
    assert rig.up(**WIDE) == []
    rig.post("12:15:00", "13:30:00", "15:00:00")
    assert rig.rows()[4:] == [("12:10:00", "a", 1), ("13:20:00", "a", 1), ("13:30:00", "a", 1)]
    assert rig.late() == [("12:15:00", 7)]  # an hour after 12:16 was over


def test_a_shorter_lateness_leaves_no_window_out(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, **WIDE)
    rig.post("10:00:00", "11:30:05", "11:45:05", "12:01:05", "12:10:00")
    rig.kill()
    rig.up()
    rig.post("12:20:00", "13:20:00")
    assert [start for start, *_ in rig.rows()] == [
        "10:00:00",
        "11:30:00",
        "11:45:00",
        "12:01:00",
        "12:10:00",
        "12:20:00",
    ]
    assert {n for *_, n in rig.rows()} == {1} and rig.late() == []


def test_windows_of_a_shorter_lateness_wait_for_those_before(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, **WIDE)
    rig.post("12:00:05")
    rig.kill()
    rig.up()
    rig.post("12:05:00", "12:10:00")  # 12:00 waits until 13:01
    assert rig.rows() == []  # or jobs that read on from the last end would never see 12:00
    rig.post("12:00:30", "13:05:00")
    assert rig.rows() == [("12:00:00", "a", 2), ("12:05:00", "a", 1), ("12:10:00", "a", 1)]


def test_more_disorder_holds_from_the_next_event_on(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path)
    rig.post("12:00:05", "12:03:05", "12:10:00")
    rig.kill()
    assert rig.up(max_out_of_orderness="10m") == [
        "streams.s.max_out_of_orderness: 10s → 10m; counts from the next event on"
    ]
    rig.post("12:05:00", "13:20:00")
    assert rig.rows() == [("12:00:00", "a", 1), ("12:03:00", "a", 1), ("12:10:00", "a", 1)]
    assert rig.late() == [("12:05:00", 3)]
    rig.post("13:11:00", "13:40:00")
    assert rig.late() == [("12:05:00", 3)]  # 13:11 is in time now


def test_less_disorder_holds_from_the_next_event_on(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, max_out_of_orderness="10m")
    rig.post("12:00:05", "12:03:05", "12:10:00", "12:04:00")
    rig.kill()
    rig.up()
    rig.post("12:02:00", "12:20:00", "12:02:01")
    assert [row[0] for row in rig.rows()] == ["12:00:00", "12:02:00", "12:03:00", "12:04:00", "12:10:00"]
    assert rig.late() == [("12:02:00", 6)]


@pytest.mark.parametrize("pending", [False, True])
def test_a_resized_window_begins_where_the_old_one_ends(tmp_path: Path, pending: bool) -> None:
    rig = WindowRig(tmp_path, windows={"w": COUNT | {"tumble": "5m"}})
    rig.post("12:00:05", "12:01:05", "12:02:05")
    rig.post("12:07:00", "12:08:00", wait=pending)  # acked, and nobody has counted them when the platform is killed
    rig.kill()
    rig.up()
    rig.post("12:09:00", "12:10:30", "12:11:30", "12:30:00")
    assert rig.rows() == [("12:00:00", "a", 3), ("12:05:00", "a", 3), ("12:10:00", "a", 1), ("12:11:00", "a", 1)]
    assert [(end - start) // 60_000_000 for start, end, _ in sorted(rig.spans(), key=lambda s: s[0])] == [5, 5, 1, 1]


def test_another_group_and_other_aggregates_stand_beside_the_old(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path)
    rig.post("12:00:05", "12:00:06")
    rig.kill()
    rig.up(windows={"w": {"tumble": "1m", "group_by": ["g"], "aggregate": {"total": "sum(v)"}}})
    rig.post("12:00:07", v=5)
    rig.post("12:01:00", "12:01:01", "12:30:00", v=3)
    assert rig.rows("w", "window_start", "k", "n", "g", "total") == [
        ("12:00:00", "a", 3, None, None),
        ("12:01:00", None, None, "g0", 3),
        ("12:01:00", None, None, "g1", 3),
    ]


def test_a_filter_holds_from_the_next_window_on(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path)
    rig.post("12:00:05", v=1)
    rig.kill()
    (said,) = rig.up(filter="v > 1")
    assert "filter none → 'v > 1'" in said and "12:01:00Z" in said
    rig.post("12:00:10", "12:01:10", v=1)
    rig.post("12:01:20", "12:30:00", v=2)
    assert rig.rows() == [("12:00:00", "a", 2), ("12:01:00", "a", 1)]


def test_a_window_added_beside_others_touches_none(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, windows={"w": COUNT | {"tumble": "1h"}})
    rig.post(*(f"12:{minute:02}:00" for minute in range(14)))
    rig.store()
    rig.decide()
    rig.kill(snapshot=True)
    rig.log.trim("s", 0, 10, 1 << 60)
    said = rig.up(windows={"w": COUNT | {"tumble": "1h"}, "other": COUNT | {"tumble": "5m"}})
    assert said == ["streams.s.windows.other: added; counts from 2015-09-12T12:15:00Z on"]
    rig.post("12:30:00", "13:30:00")
    assert rig.rows() == [("12:00:00", "a", 15)]
    assert rig.rows("other") == [("12:30:00", "a", 1)]


def test_a_removed_window_is_finished_and_a_returning_one_begins_anew(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, windows={"w": COUNT, "gone": COUNT})
    rig.post("12:00:05", "12:01:05")
    rig.kill()
    (said,) = rig.up()
    assert said == "streams.s.windows.gone: removed; counts until 2015-09-12T12:02:00Z, and its rows stay"
    rig.post("12:01:30", "12:02:05", "12:10:00")
    assert rig.rows("gone") == [("12:00:00", "a", 1), ("12:01:00", "a", 2)]
    rig.kill()
    rig.up(windows={"w": COUNT, "gone": COUNT})
    rig.post("12:10:30", "12:11:30", "12:30:00")
    assert rig.rows("gone") == [("12:00:00", "a", 1), ("12:01:00", "a", 2), ("12:11:00", "a", 1)]
    assert [start for start, *_ in rig.rows()] == ["12:00:00", "12:01:00", "12:02:00", "12:10:00", "12:11:00"]
    rig.kill()
    rig.up(windows={})
    rig.post("12:30:10", "13:00:00")
    assert rig.rows()[-1] == ("12:30:00", "a", 2)
    rig.post("14:00:00")
    assert rig.worker._held == {}  # nothing counts any more, so nothing is read


def test_sessions_of_another_gap_meet_at_the_boundary(tmp_path: Path) -> None:
    sessions = {"session_gap": "5m", "group_by": ["k"], "aggregate": {"n": "count()"}}
    rig = WindowRig(tmp_path, windows={"w": sessions})
    rig.post("12:00:00", "12:03:00", "12:06:00")
    rig.kill()
    rig.up(windows={"w": sessions | {"session_gap": "1m"}})
    rig.post("12:01:30", "12:06:30", "12:07:00", "12:20:00", "13:00:00")
    spans = sorted((start, end, row["n"]) for start, end, row in rig.spans())
    assert [n for *_, n in spans] == [4, 2, 1]
    assert spans[0][1] <= spans[1][0]


def test_a_start_that_was_killed_halfway_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = WindowRig(tmp_path, windows={"v": COUNT, "w": COUNT})
    rig.post("12:00:05")
    rig.kill()
    whole = type(rig.lake).set_properties

    def dies(self, table, properties):
        if table == "s.w" and DEFINITIONS in properties:
            raise KeyboardInterrupt
        whole(self, table, properties)

    monkeypatch.setattr(type(rig.lake), "set_properties", dies)
    with pytest.raises(KeyboardInterrupt):
        rig.up(windows={"v": COUNT, "w": COUNT}, **WIDE)
    monkeypatch.undo()
    assert [said.partition(":")[0] for said in rig.up(windows={"v": COUNT, "w": COUNT}, **WIDE)] == [
        "streams.s.windows.w"
    ]
    rig.post("12:00:10", "12:01:05", "14:00:00")
    assert rig.rows("v") == rig.rows("w") == [("12:00:00", "a", 2), ("12:01:00", "a", 1)]


def test_windows_without_rows_are_closed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = WindowRig(tmp_path, filter="v > 1", windows={"w": COUNT, "visits": {"session_gap": "1m", **_COUNT_ONLY}})
    rig.post("12:00:05", "12:30:00", v=1)
    merges: list[str] = []
    merge = type(rig.worker).merge
    monkeypatch.setattr(type(rig.worker), "merge", lambda self, *a: merges.append(a[1]) or merge(self, *a))
    for _ in range(3):
        rig.round()
    assert merges == []
    rig.post("12:31:00", v=1)
    assert sorted(merges) == ["visits", "w"]  # once more, for the watermark moved


_COUNT_ONLY = {"aggregate": {"n": "count()"}}


def test_a_field_that_left_the_schema_is_still_counted_where_it_was(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, windows={"w": {"tumble": "1m", "aggregate": {"total": "sum(v)"}}})
    rig.post("12:00:05", "12:00:06", v=5)
    rig.kill()
    schema = {"type": "object", "properties": {n: {"type": "string"} for n in ("t", "k", "g")}, "required": ["t"]}
    schema["properties"]["t"] = {"type": "string", "format": "date-time"}
    rig.up(schema=schema, windows={"w": {"tumble": "1m", "aggregate": {"n": "count()"}}})
    rig.post("12:01:05", "12:30:00")
    assert rig.rows("w", "window_start", "total", "n") == [("12:00:00", 10, None), ("12:01:00", None, 1)]
