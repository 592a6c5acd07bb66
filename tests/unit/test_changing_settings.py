"""docs/changing-a-stream.md: settings of time and identity, with records pending, after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pyiceberg.types import StringType

from eagleray.cluster.clock import ManualClock, SystemClock, iso
from eagleray.cluster.config import load_config
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.lake.lake import Lake
from tests.acking_project import AckingProject
from tests.stream_project import INTEGER, TEXT, StreamProject
from tests.window_rig import SECOND, WindowRig

NOW_US = 1_767_312_000_000_000
MINUTE_US = 60_000_000
NOON = 1_767_268_800  # 2026-01-01T12:00:00Z
MODEL = """
from datetime import datetime
from pydantic import BaseModel

class Event(BaseModel):
    t: datetime
    v: str
"""


def at(minute: int, **fields: Any) -> dict[str, Any]:
    return {"t": f"2026-01-01T12:{minute:02}:00Z", **fields}


def test_a_shorter_idle_timeout_holds_from_the_start_on(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, partitions=2, idle_timeout="1h")
    rig.post("12:00:05", "12:00:06", partition=0)
    rig.post("12:00:07", partition=1)
    rig.post("12:05:00", partition=0, wait=True)  # acked, and not read before the kill
    rig.kill()
    rig.up(idle_timeout="2s")
    rig.settle()
    assert rig.rows() == []
    rig.clock.advance(3 * SECOND)
    rig.settle()
    assert rig.rows() == [("12:00:00", "a", 3)]
    rig.kill()
    rig.up(idle_timeout="1h")
    rig.post("12:30:00", partition=0)
    rig.clock.advance(3 * SECOND)
    rig.settle()
    assert rig.rows() == [("12:00:00", "a", 3)]  # the silent partition holds back again


def test_clock_slack_holds_from_the_next_event_on(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, clock_slack="1s")  # it is 23:00 by the recorded time
    rig.post("23:55:00", "22:59:30")
    assert rig.late() == []
    rig.post("22:59:40", wait=True)
    rig.kill()
    assert any("clock_slack" in line for line in rig.up(clock_slack="2h"))
    rig.post("23:55:30", "23:00:00")
    assert rig.late() == [("23:00:00", 4)]
    rig.kill()
    rig.up(clock_slack="1s")
    rig.post("23:59:59", "23:50:00")  # the watermark does not go back, and does not follow any more
    assert rig.late() == [("23:00:00", 4), ("23:50:00", 6)]


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_another_time_field_or_unit_holds_from_the_next_event_on(tmp_path: Path, unit: str) -> None:
    window = {"windows": {"w": {"tumble": "1m", "aggregate": {"n": "count()"}}}}
    old = {"time": "u", "time_unit": "s"} if unit == "ms" else {}
    one = 1000 if unit == "ms" else 1
    project = StreamProject(tmp_path)
    project.configure({"u": INTEGER}, **old, **window)
    project.up()
    project.accept(at(0, u=NOON))
    project.stop()
    project.up()
    project.accept(at(0, u=NOON + 1))  # acked by the old meaning, and stored after the change
    project.kill()
    project.configure({"u": INTEGER}, **window, time="u", time_unit=unit)
    project.up()
    project.accept(at(0, u=(NOON + 600) * one), at(0, u=(NOON + 1200) * one))
    project.stop()
    found = project.rows("SELECT minute(window_start), n FROM s.w ORDER BY window_start")
    assert found[:2] == [(0, 2), (10, 1)]
    assert project.rows("SELECT count(*) FROM s.events") == [(4,)]


def reconfigured(project: AckingProject, horizon: str) -> None:
    file = project.config.file
    text = yaml.safe_load(file.read_text())
    text["streams"]["s"]["dedup_horizon"] = horizon
    file.write_text(yaml.safe_dump(text))
    project.config = load_config(file, environ={})
    project.streams = load_streams(project.config)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "pending"])
@pytest.mark.parametrize(("before", "after", "rows"), [("1h", "5m", 2), ("5m", "1h", 1)])
def test_another_dedup_horizon_judges_from_the_next_event_on(
    tmp_path: Path, before: str, after: str, rows: int, stored: bool
) -> None:
    clock = ManualClock(NOW_US)
    project = AckingProject(tmp_path, clock, dedup_horizon=before)
    project.up()
    project.send(1, id="same")
    for number in range(2, 5):  # more that is saved, and thrown away by a short horizon
        clock.advance(4 * MINUTE_US)
        project.send(number)
        if stored:
            project.store()
    project.down()
    reconfigured(project, after)
    project.up()
    project.send(9, id="same")  # twelve minutes later
    project.store()
    assert project.numbers().count(1) + project.numbers().count(9) == rows
    project.down()


def test_max_future_holds_from_the_next_event_on(tmp_path: Path) -> None:
    ahead = {"t": iso(SystemClock().now_us() + 120 * MINUTE_US), "v": "a"}
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT}, max_future="1h")
    project.up()
    assert project.send(ahead).rejected[0][1] == "future"
    project.kill()
    project.configure({"v": TEXT}, max_future="3h")
    project.up()
    project.accept(ahead)
    project.kill()
    project.configure({"v": TEXT}, max_future="1h")
    project.up()
    assert project.send(ahead).rejected[0][1] == "future"
    project.stop()
    assert project.rows("SELECT v FROM s.events") == [("a",)]  # what was acked stays accepted
    assert project.rows("SELECT reason FROM s.dead_letters") == [("future",)] * 2


def test_a_required_field_is_asked_of_events_from_the_next_on(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT})
    project.up()
    project.accept(at(0, v="a"))
    project.stop()
    project.up()
    project.accept(at(1, v="b"))
    project.kill()
    project.configure({"v": TEXT, "w": TEXT}, required=["w"])
    project.up()
    assert project.send(at(2, v="c")).rejected[0][1] == "schema"
    project.accept(at(3, w="d"))
    project.stop()
    assert project.rows("SELECT v, w FROM s.events ORDER BY t") == [("a", None), ("b", None), (None, "d")]


def test_a_pydantic_model_takes_the_place_of_a_file_and_back(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT})
    (tmp_path / "swapped_model.py").write_text(MODEL)
    project.up()
    project.accept(at(0, v="a"))
    project.stop()
    project.up()
    project.accept(at(1, v="b"))
    project.kill()
    project.configure({"v": TEXT}, schema="swapped_model:Event")
    project.up()
    project.accept(at(2, v="c"))
    assert project.send(at(2)).rejected[0][1] == "schema"
    project.kill()
    project.configure({"v": TEXT})
    project.up()
    project.accept(at(3, v="d"))
    project.stop()
    assert project.rows("SELECT v, _extra FROM s.events ORDER BY t") == [(letter, None) for letter in "abcd"]


def test_columns_and_layout_that_another_engine_changed_are_gone_by(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT, "n": INTEGER})
    project.up()
    project.accept(at(0, v="a", n=1))
    project.stop()
    project.up()
    project.accept(at(1, v="b", n=2))
    project.kill()
    table = Lake.open(project.config).load("s.events")
    with table.update_schema() as update:
        update.add_column("theirs", StringType())
        update.move_first("theirs")
    with table.update_spec() as layout:
        layout.add_identity("v")
    project.up()
    project.accept(at(2, v="c", n=3))
    project.drain()
    with Lake.open(project.config).load("s.events").update_schema() as update:  # while it runs, too
        update.add_column("later", StringType())
    project.accept(at(3, v="d", n=4))
    project.stop()
    found = project.rows("SELECT v, n, theirs, later FROM s.events ORDER BY t")
    assert found == [("a", 1, None, None), ("b", 2, None, None), ("c", 3, None, None), ("d", 4, None, None)]
