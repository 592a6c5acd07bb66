"""docs/changing-a-stream.md: settings of time and identity, with records pending, after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pyiceberg.types import StringType

from eagleray.cluster.clock import ManualClock, SystemClock, iso
from eagleray.cluster.config import load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.builtin import rebuild
from tests.acking_project import AckingProject
from tests.stream_project import INTEGER, TEXT, StreamProject, command
from tests.window_rig import COUNT, SCHEMA, SECOND, WindowRig

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


HOUR = {"w": COUNT | {"tumble": "1h"}}
T2, NUMBER_T, TEXT_T = (
    {**SCHEMA, "properties": {**SCHEMA["properties"], **fields}}
    for fields in ({"t2": SCHEMA["properties"]["t"]}, {"t": INTEGER}, {"t": TEXT})
)
TIMES = {
    "field": (T2, {"time": "t"}, {"time": "t2"}, "streams.s.time: t → t2; counts from the next event on"),
    "unit": (NUMBER_T, {"time_unit": "us"}, {"time_unit": "s"}, "streams.s.time_unit: us → s; "),
    "zone": (TEXT_T, {"time_zone": "UTC"}, {"time_zone": "Asia/Tokyo"}, "streams.s.time_zone: UTC → Asia/Tokyo; "),
}


@pytest.mark.parametrize("what", TIMES)
def test_events_of_before_keep_their_time_where_open_windows_are_counted_again(tmp_path: Path, what: str) -> None:
    schema, before, after, said = TIMES[what]
    rig = WindowRig(tmp_path, schema=schema, windows=HOUR, **before)
    rig.post("12:00:05", "12:01:00")
    rig.store()
    rig.decide()
    rig.kill()
    assert rig.up(schema=schema, windows=HOUR, **after)[0].startswith(said)
    rig.lose_state()
    assert rig.up(schema=schema, windows=HOUR, **after) == []
    rig.settle()
    assert [row["n"] for row in rig.open()] == [2]
    rig.kill()
    # The newest event is one of before: nothing of its window may go to another definition.
    (said,) = rig.up(schema=schema, windows={"w": COUNT}, **after)
    assert "counts from 2015-09-12T13:00:00Z on" in said


def test_windows_are_rebuilt_with_the_times_of_before(tmp_path: Path) -> None:
    rig = WindowRig(tmp_path, schema=T2)
    rig.post("12:00:05", "12:10:00")
    rig.store()
    rig.kill()
    rig.up(schema=T2, time="t2")
    report = rebuild.run(rig.config, rebuild.RebuildOptions("s", "2015-09-12T12:00:00Z", "2015-09-12T12:01:00Z"))
    assert (report.rows_before, report.rows_after) == (1, 1) and rig.rows() == [("12:00:00", "a", 1)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"key": "v"}, "streams.s.key: none → v; counts from the next event on"),
        ({"id": "v"}, "streams.s.id: none → v; counts from the next event on"),
        ({"idle_timeout": "1m"}, "streams.s.idle_timeout: 10s → 1m; counts from the start on"),
        ({"dedup_horizon": "2h"}, "streams.s.dedup_horizon: 1h → 2h; counts from the next event on"),
        ({"max_future": "5m"}, "streams.s.max_future: 1h → 5m; counts from the next event on"),
        ({"time_missing": "arrival"}, "streams.s.time_missing: reject → arrival; counts from the next event on"),
    ],
)
def test_every_setting_that_changes_is_said_by_check_and_by_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], said: str
) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT})
    project.up()
    project.stop()
    project.configure({"v": TEXT}, **settings)
    assert command("check", "--changes", "-c", str(project.file)) == 0
    assert capsys.readouterr().out == f"{said}\n"
    project.up()
    assert project.said == [said]
    project.kill()
    project.up()
    assert project.said == []
    project.kill()


def partitioned(project: StreamProject, partitions: int) -> None:
    streams = {"s": {"schema": "s.json", "time": "t", "key": "v"}}
    project.configure({"v": TEXT}, whole={"log": {"partitions": partitions}, "streams": streams})


def test_check_refuses_another_number_of_partitions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = StreamProject(tmp_path)
    partitioned(project, 4)
    project.up()
    project.kill()
    partitioned(project, 2)
    assert command("check", "--changes", "-c", str(project.file)) == 2
    assert "log.partitions: refused: " in (out := capsys.readouterr().out) and "4 partitions, not 2" in out


def test_fewer_partitions_are_refused_where_the_file_that_says_how_many_is_lost(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    partitioned(project, 4)
    project.up()
    project.accept(*(at(0, v=str(number)) for number in range(40)))
    project.kill()
    (tmp_path / "data" / "log" / "meta.json").unlink()
    partitioned(project, 2)
    with pytest.raises(ConfigError, match="holds records of 4 partitions or more"):
        project.up()
    partitioned(project, 4)
    project.up()
    project.stop()
    assert project.rows("SELECT count(*) FROM s.events") == [(40,)]


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
