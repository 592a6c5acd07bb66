"""docs/changing-a-stream.md, row by row: with events that are stored, and events that were acked before a kill -9."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.lake import Lake
from tests.stream_project import INTEGER, NUMBER, TEXT, StreamProject, command


def at(minute: int, **fields: Any) -> dict[str, Any]:
    return {"t": f"2026-01-01T12:{minute:02}:00Z", **fields}


def struct(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields}


DATE = {"type": "string", "format": "date"}
MAYBE = {"type": ["string", "null"]}
A, A_OR_B = {"enum": ["a"]}, {"enum": ["a", "b"]}
ROWS: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any], str, list[Any]]] = {
    "an optional field is added": ({"v": TEXT}, {"v": TEXT, "w": TEXT}, {"v": "a"}, {"w": "b"}, "w", [None, None, "b"]),
    "a field is removed": (
        {"v": TEXT, "w": TEXT},
        {"w": TEXT},
        {"v": "a"},
        {"v": "b"},
        "v || '/' || coalesce(_extra, ''), v IS NULL AND _extra = '{\"v\":\"b\"}'",
        [("a/", False), ("a/", False), (None, True)],
    ),
    "a field is renamed": ({"v": TEXT}, {"w": TEXT}, {"v": "a"}, {"w": "b"}, "v, w", [("a", None)] * 2 + [(None, "b")]),
    "a constraint is tightened": (
        {"v": INTEGER},
        {"v": {**INTEGER, "minimum": 5}},
        {"v": 1},
        {"v": 5},
        "v",
        [1, 1, 5],
    ),
    "null is allowed": (
        {"v": TEXT},
        {"v": MAYBE},
        {"v": "a"},
        {"v": None},
        "v",
        ["a", "a", None],
    ),
    "an enum gains values": (
        {"v": {"enum": ["a"]}},
        {"v": {"enum": ["a", "b"]}},
        {"v": "a"},
        {"v": "b"},
        "v",
        [*"aab"],
    ),
    "a field within an object is added": (
        {"o": struct(a=TEXT)},
        {"o": struct(a=TEXT, b=INTEGER)},
        {"o": {"a": "x"}},
        {"o": {"a": "y", "b": 2}},
        "o.a || coalesce(o.b::VARCHAR, '')",
        ["x", "x", "y2"],
    ),
    "a field within an object is removed": (
        {"o": struct(a=TEXT, b=TEXT)},
        {"o": struct(a=TEXT)},
        {"o": {"a": "x", "b": "y"}},
        {"o": {"a": "z", "b": "w"}},
        "o.a || coalesce(o.b, '') || coalesce(_extra, '')",
        ["xy", "xy", 'z{"o":{"b":"w"}}'],
    ),
    "an integer becomes a number": (
        {"v": INTEGER, "o": struct(n=INTEGER)},
        {"v": NUMBER, "o": struct(n=NUMBER)},
        {"v": 1, "o": {"n": 2}},
        {"v": 1.5, "o": {"n": 2.5}},
        "v, o.n",
        [(1.0, 2.0), (1.0, 2.0), (1.5, 2.5)],
    ),
    "an integer beyond 53 bits is kept exactly beside the number": (
        {"v": INTEGER},
        {"v": NUMBER},
        {"v": 2**53 + 1},
        {"v": 0.5},
        "v, _extra",
        [(None, f'{{"v":{2**53 + 1}}}'), (None, f'{{"v":{2**53 + 1}}}'), (0.5, None)],
    ),
    "a format is no longer asked for": (
        {"v": DATE},
        {"v": TEXT},
        {"v": "2026-01-02"},
        {"v": "soon"},
        "v",
        ["2026-01-02", "2026-01-02", "soon"],
    ),
    "what was required no longer is": (
        {"v": TEXT},
        {"v": TEXT},
        {"v": "a"},
        {},
        "v",
        ["a", "a", None],
    ),
    "titles": ({"v": TEXT}, {"v": {**TEXT, "title": "V"}}, {"v": "a"}, {"v": "b"}, "v", ["a", "a", "b"]),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_change_of_fields_is_applied_from_the_next_event_on(tmp_path: Path, row: str) -> None:
    before, after, old, new, query, expected = ROWS[row]
    project = StreamProject(tmp_path)
    project.configure(before)
    project.up()
    project.accept(at(0, **old))
    project.stop()
    project.up()
    project.accept(at(1, **old))
    project.kill()
    project.configure(after)
    project.up()
    project.accept(at(2, **new))
    project.stop()
    found = project.rows(f"SELECT {query} FROM s.events ORDER BY t")
    assert found == [value if isinstance(value, tuple) else (value,) for value in expected]


def test_a_window_over_a_widened_field_counts_every_event_once_in_the_new_type(tmp_path: Path) -> None:
    window = {"tumble": "1m", "group_by": ["g"], "aggregate": {"n": "count()", "total": "sum(v)", "top": "max(v)"}}
    project = StreamProject(tmp_path)
    project.configure({"v": INTEGER, "g": INTEGER}, windows={"w": window})
    project.up()
    project.accept(at(0, v=1, g=1), at(0, v=2, g=1), at(5, v=3, g=2))
    project.stop()
    project.up()
    project.accept(at(6, v=4, g=2), at(7, v=5, g=2))
    project.kill()
    project.configure({"v": NUMBER, "g": NUMBER}, windows={"w": window})
    assert command("check", "-c", str(project.file)) == 0
    project.up()
    project.accept(at(7, v=0.5, g=2), at(9, v=0.5, g=2.5), at(50, v=0, g=0))
    project.stop()
    found = project.rows("SELECT minute(window_start), g, n, total, top FROM s.w ORDER BY 1")
    first = [(0, 1.0, 2, 3.0, 2.0), (5, 2.0, 1, 3.0, 3.0), (6, 2.0, 1, 4.0, 4.0)]
    # The window that was open keeps its definition, for which 0.5 is no value of v.
    assert found == [*first, (7, 2.0, 2, 5.0, 5.0), (9, 2.5, 1, 0.5, 0.5)]


def test_what_the_new_schema_refuses_is_refused_from_the_next_event_on(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": INTEGER})
    project.up()
    project.accept(at(0, v=1))
    project.kill()
    project.configure({"v": {**INTEGER, "minimum": 5}})
    project.up()
    assert project.send(at(1, v=1)).rejected[0][1] == "schema"
    project.stop()
    assert project.rows("SELECT v FROM s.events") == [(1,)]


def test_layout_key_and_id_change_for_new_files_and_events(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"k": TEXT, "v": INTEGER}, lake={"partition_by": ["k"], "sort_by": ["v"]}, id="v")
    project.up()
    project.accept(at(0, k="a", v=1), at(0, k="a", v=1))
    project.stop()
    project.up()
    project.accept(at(1, k="b", v=2))
    project.kill()
    project.configure({"k": TEXT, "v": INTEGER}, lake={"partition_by": ["day(t)"]}, id="k", key="k")
    project.up()
    project.accept(at(2, k="c", v=2), at(2, k="c", v=3))
    project.stop()
    assert project.rows("SELECT k, v FROM s.events ORDER BY t") == [("a", 1), ("b", 2), ("c", 2)]
    assert project.rows("SELECT v FROM s.events WHERE t >= '2026-01-01' AND k = 'b'") == [(2,)]


def test_a_stream_is_added_beside_others(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": INTEGER})
    project.up()
    project.accept(at(0, v=1))
    project.kill()
    project.configure({"w": TEXT}, stream="r", whole={})
    both = {name: {"schema": f"{name}.json", "time": "t"} for name in ("s", "r")}
    project.configure({"v": INTEGER}, whole={"streams": both})
    project.up()
    project.accept(at(1, w="x"), stream="r")
    project.stop()
    assert project.rows("SELECT v FROM s.events") == [(1,)]
    assert project.rows("SELECT w FROM r.events") == [("x",)]


def test_a_late_event_of_the_old_type_is_json_in_the_late_table(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    window = {"windows": {"w": {"tumble": "1m", "aggregate": {"n": "count()"}}}, "allowed_lateness": "0s"}
    union = {"type": ["integer", "string"]}
    project.configure({"v": TEXT, "o": {"type": "object"}}, **window)
    project.up()
    project.accept(at(30, v="hello"), at(0, v="hello", o={"a": 1}, x="kept"))
    project.kill()
    project.configure({"v": union, "o": {"type": "object"}}, **window)
    assert command("table", "migrate", "s", "-c", str(project.file)) == 0
    project.up()
    project.accept(at(1, v=5), at(2, v="5"))
    project.stop()
    texts = [text for (text,) in project.rows("SELECT event FROM s.late ORDER BY json_extract_string(event, '$.t')")]
    events = [json.loads(text) for text in texts]
    assert [event["v"] for event in events] == ["hello", 5, "5"]
    assert events[0] == at(0, v="hello", o={"a": 1}, x="kept")
    assert project.rows("SELECT v FROM s.events ORDER BY t") == [('"hello"',), ("5",), ('"5"',), ('"hello"',)]


def test_partitions_of_the_log_stay(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": NUMBER})
    project.up()
    project.accept(at(0, v=1))
    project.kill()
    project.configure({"v": NUMBER}, whole={"log": {"partitions": 2}})
    with pytest.raises(ConfigError, match="partitions"):
        project.up()


W = {"tumble": "1m", "group_by": ["k"], "aggregate": {"n": "count()"}}
BASE = {"allowed_lateness": "30s", "max_out_of_orderness": "10s", "idle_timeout": "1h"}
WINDOWS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "lateness grows": ({}, {"allowed_lateness": "1h"}, "allowed_lateness 30s → 1h"),
    "lateness shrinks": ({"allowed_lateness": "1h"}, {"allowed_lateness": "30s"}, "allowed_lateness 1h → 30s"),
    "out-of-orderness grows": ({}, {"max_out_of_orderness": "10m"}, "10s → 10m; counts from the next event on"),
    "out-of-orderness shrinks": ({"max_out_of_orderness": "10m"}, {"max_out_of_orderness": "10s"}, "10m → 10s"),
    "resized": ({}, {"windows": {"w": {**W, "tumble": "5m"}}}, "tumble 1m → tumble 5m"),
    "shrunk": ({"windows": {"w": {**W, "tumble": "5m"}}}, {"windows": {"w": W}}, "tumble 5m → tumble 1m"),
    "regrouped": ({}, {"windows": {"w": {**W, "group_by": []}}}, "group_by [k] → []"),
    "another added": ({}, {"windows": {"w": W, "other": {**W, "tumble": "5m"}}}, "windows.other: added"),
}


@pytest.mark.parametrize("row", WINDOWS)
def test_a_change_of_windows_and_time_counts_every_event_once(tmp_path: Path, row: str) -> None:
    before, after, said = WINDOWS[row]
    project = StreamProject(tmp_path)
    project.configure({"k": TEXT}, **{"windows": {"w": W}, **BASE, **before})
    project.up()
    project.accept(*(at(minute, k="ab"[minute % 2]) for minute in (0, 1, 2, 3, 10)))
    project.stop()
    project.up()
    project.accept(at(5, k="a"), at(11, k="b"), at(12, k="a"))
    project.kill()
    project.configure({"k": TEXT}, **{"windows": {"w": W}, **BASE, **before, **after})
    project.up()
    assert any(said in line for line in project.said), project.said
    project.accept(at(14, k="a"), at(13, k="b"), at(4, k="b"), at(21, k="a"), at(33, k="b"))
    far = {"t": "2026-01-02T12:00:00Z", "k": "z"}
    project.accept(far, {**far, "t": "2026-01-03T12:00:00Z"})
    project.stop()
    rows = project.rows("SELECT coalesce(k, ''), window_start, window_end, n FROM s.w ORDER BY ALL")
    rows = [row for row in rows if row[0] != "z" and row[1].day == 1]
    ((late,),) = project.rows("SELECT count(*) FROM s.late WHERE \"window\" = 'w'")
    assert sum(row[3] for row in rows) + late == 13
    assert len({row[:2] for row in rows}) == len(rows)
    for one, other in itertools.pairwise(rows):
        assert one[0] != other[0] or one[2] <= other[1], (one, other)


def test_a_window_that_is_removed_finishes_what_it_began_and_keeps_its_rows(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"k": TEXT}, windows={"w": W}, **BASE)
    project.up()
    project.accept(at(0, k="a"), at(1, k="a"), at(10, k="a"))
    project.kill()
    project.configure({"k": TEXT}, **BASE)
    project.up()
    assert any("windows.w: removed" in line for line in project.said), project.said
    project.accept(at(30, k="a"), {"t": "2026-01-02T12:00:00Z", "k": "z"})
    project.stop()
    assert project.rows("SELECT sum(n) FROM s.w") == [(3,)]


def test_a_changed_filter_counts_from_the_next_window_on(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"k": TEXT}, windows={"w": W}, **BASE)
    project.up()
    project.accept(at(0, k="a"), at(0, k="b"), at(1, k="a"))
    project.kill()
    project.configure({"k": TEXT}, windows={"w": W}, filter="k = 'a'", **BASE)
    project.up()
    project.accept(at(10, k="a"), at(10, k="b"), {"t": "2026-01-02T12:00:00Z", "k": "b"})
    project.accept({"t": "2026-01-03T12:00:00Z", "k": "a"})
    project.stop()
    found = project.rows("SELECT k, minute(window_start) FROM s.w WHERE window_start < '2026-01-02' ORDER BY 2, 1")
    assert found == [("a", 0), ("b", 0), ("a", 1), ("a", 10)]


def test_a_window_whose_name_a_jobs_table_has_is_refused_and_the_table_can_be_renamed(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"k": TEXT})
    project.up()
    project.stop()
    lake = Lake.open(project.config)
    lake.ensure_output("s.w", pa.schema([("v", pa.int64())]))
    project.configure({"k": TEXT}, windows={"w": W})
    with pytest.raises(ConfigError, match=r"no column window_start .*: run `eagleray table rename s\.w"):
        project.up()
    project.configure({"k": TEXT})
    assert command("table", "rename", "s.w", "reports.w", "-c", str(project.file)) == 0
    project.configure({"k": TEXT}, windows={"w": W})
    project.up()
    project.stop()
    assert Lake.open(project.config).pin("reports.w").schema.names == ["v"]
