"""docs/OPERATIONS.md about a table that somebody dropped: what it says to type brings back what it says."""

from __future__ import annotations

from pathlib import Path

from eagleray.cluster.lake.lake import Lake
from tests.stream_project import TEXT, StreamProject, command

OPERATIONS = (Path(__file__).parents[2] / "docs" / "OPERATIONS.md").read_text()
REBUILD = "eagleray job run rebuild --stream STREAM --start TIME --end TIME"


def test_tables_that_were_dropped_are_made_again_from_the_log_and_by_rebuild(tmp_path: Path) -> None:
    section = " ".join(OPERATIONS.partition("### A table is gone\n")[2].partition("\n###")[0].split())
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT}, id="v", windows={"w": {"tumble": "1m", "aggregate": {"n": "count()"}}})
    project.up()
    project.accept({"t": "2026-01-01T12:00:00Z", "v": "a"}, {"t": "2026-01-01T12:05:00Z", "v": "b"})
    project.stop()
    counted = "SELECT n FROM s.w WHERE window_start = TIMESTAMPTZ '2026-01-01T12:00:00Z'"
    assert project.rows(counted) == [(1,)]
    for table in ("s.events", "s.w"):
        Lake.open(project.config).drop_table(table)
    project.up()
    for minute in (20, 40):  # a window of the new table closes
        project.accept({"t": f"2026-01-01T12:{minute}:00Z", "v": f"later {minute}"})
        project.drain()
    project.stop()
    assert project.rows("SELECT v FROM s.events ORDER BY v") == [("a",), ("b",), ("later 20",), ("later 40",)]
    assert project.rows(counted) == []
    assert f"`{REBUILD}`" in section
    words = (
        REBUILD.replace("STREAM", "s")
        .replace("TIME", "2026-01-01T12:00:00Z", 1)
        .replace("TIME", "2026-01-01T12:01:00Z")
    )
    assert command(*words.split()[1:], "-c", str(project.file)) == 0
    assert project.rows(counted) == [(1,)]
