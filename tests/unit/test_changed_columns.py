"""Windows that are open while the columns that they read or write are renamed, dropped, or leave the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eagleray.cluster.events.field_path import FieldPath
from tests.stream_project import TEXT, StreamProject, command
from tests.window_rig import COUNT, SCHEMA, WindowRig

HOUR = COUNT | {"tumble": "1h"}
SETTINGS = {"allowed_lateness": "30s", "max_out_of_orderness": "10s", "idle_timeout": "1h"}


def at(minute: int, **fields: Any) -> dict[str, Any]:
    return {"t": f"2026-01-01T12:{minute:02}:00Z", **fields}


def by(group: str) -> dict[str, Any]:
    return {"w": HOUR | {"group_by": [group]}}


def schema_without(name: str, **added: Any) -> dict[str, Any]:
    kept = {field: kind for field, kind in SCHEMA["properties"].items() if field != name}
    return {**SCHEMA, "properties": {**kept, **added}}


def opened(tmp_path: Path) -> WindowRig:
    """Two events in an open window, stored; the platform is stopped."""
    rig = WindowRig(tmp_path, windows={"w": HOUR})
    rig.post("12:00:05", "12:01:00")
    rig.store()
    rig.decide()
    rig.kill()
    return rig


def finished(project: StreamProject, **later: Any) -> list[tuple[Any, ...]]:
    """The rows of `w` when an hour and a day are over."""
    project.up()
    project.accept({"t": "2026-01-01T13:00:00Z", **later}, {"t": "2026-01-02T13:00:00Z", **later})
    project.stop()
    return project.rows("SELECT * EXCLUDE (window_start, window_end) FROM s.w ORDER BY window_start")


def test_a_renamed_column_is_found_when_open_windows_are_counted_again(tmp_path: Path) -> None:
    rig = opened(tmp_path)
    rig.lake.rename_columns("s.events", {FieldPath.parse("k"): "kk"})
    after = {"schema": schema_without("k", kk=TEXT), "key": "kk", "windows": by("kk")}
    rig.up(**after)
    rig.lose_state()
    rig.up(**after)
    rig.settle()
    assert [(row["k"], row["n"]) for row in rig.open()] == [("a", 2)]


def test_open_windows_are_counted_again_without_a_column_that_was_dropped(tmp_path: Path) -> None:
    rig = opened(tmp_path)
    after = {"schema": schema_without("k"), "key": "g", "windows": by("g")}
    rig.up(**after)
    rig.kill()
    rig.lake.drop_columns("s.events", [FieldPath.parse("k")])
    rig.lose_state()
    rig.up(**after)
    rig.settle()
    assert [(row["k"], row["n"]) for row in rig.open()] == [(None, 2)]


@pytest.mark.parametrize(("how", "what", "expected"), [("--rename", "k=old", ("a", 1)), ("--drop-column", "k", (1,))])
def test_windows_close_after_a_column_of_their_table_is_called_otherwise(
    tmp_path: Path, how: str, what: str, expected: tuple[Any, ...]
) -> None:
    project = StreamProject(tmp_path)
    project.configure({"k": TEXT, "g": TEXT}, windows=by("k"), **SETTINGS)
    project.up()
    project.accept(at(0, k="a", g="b"))
    project.stop()
    project.configure({"k": TEXT, "g": TEXT}, windows=by("g"), **SETTINGS)
    assert command("table", "alter", "s.w", how, what, "-c", str(project.file)) == 0
    assert finished(project, g="b") == [(*expected, None), (*(None,) * (len(expected) - 1), 1, "b")]


def test_a_group_is_renamed_in_events_and_windows(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"k": TEXT}, windows=by("k"), **SETTINGS)
    project.up()
    project.accept(at(0, k="a"))
    project.stop()
    project.configure({"kk": TEXT}, windows=by("kk"), **SETTINGS)
    for table in ("s.events", "s.w"):
        assert command("table", "alter", table, "--rename", "k=kk", "-c", str(project.file)) == 0
    assert finished(project, kk="a") == [("a", 1), ("a", 1)]


def test_a_group_renamed_by_case_keeps_pending_events_in_their_window(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"userId": TEXT}, windows=by("userId"), **SETTINGS)
    project.up()
    project.accept(at(0, userId="a"))
    project.stop()
    project.up()
    project.accept(at(1, userId="a"))
    project.kill()
    project.configure({"userid": TEXT}, windows=by("userid"), **SETTINGS)
    for table in ("s.events", "s.w"):
        assert command("table", "alter", table, "--rename", "userId=userid", "-c", str(project.file)) == 0
    assert finished(project, userid="a") == [("a", 2), ("a", 1)]


def test_a_group_within_an_object_that_leaves_the_schema_is_read_from_pending_events(tmp_path: Path) -> None:
    def object_of(*names: str) -> dict[str, Any]:
        return {"o": {"type": "object", "properties": dict.fromkeys(names, TEXT)}}

    project = StreamProject(tmp_path)
    project.configure(object_of("a", "b"), windows=by("o.a"), **SETTINGS)
    project.up()
    project.accept(at(0, o={"a": "x"}))
    project.stop()
    project.up()
    project.accept(at(1, o={"a": "x"}))
    project.kill()
    project.configure(object_of("b"), windows=by("o.b"), **SETTINGS)
    assert finished(project, o={"b": "y"}) == [("x", 2, None), (None, 1, "y")]


def test_a_rename_is_refused_while_events_with_the_old_name_wait(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT})
    project.up()
    project.accept(at(0, v="a"))
    project.kill()
    project.configure({"w": TEXT})
    rename = ("table", "alter", "s.events", "--rename", "v=w", "-c", str(project.file))
    assert command(*rename) == 2
    assert "1 acked events in the log are not stored yet, and have the old name" in capsys.readouterr().err
    project.configure({"v": TEXT})
    project.up()
    project.stop()
    project.configure({"w": TEXT})
    assert command(*rename) == 0
    project.up()
    project.accept(at(1, w="b"))
    project.stop()
    assert project.rows("SELECT w, _extra FROM s.events ORDER BY t") == [("a", None), ("b", None)]
