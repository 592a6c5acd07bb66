"""Tables that are dropped, catalogs that are others, streams that leave: said where it happens, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eagleray.cli.doctor import examine
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.errors import LakeDamaged, LogMismatch
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.log.backends import open_log
from tests.stream_project import INTEGER, StreamProject, command


def at(minute: int, **fields: int) -> dict[str, object]:
    return {"t": f"2026-01-01T12:{minute:02}:00Z", **fields}


def belong(project: StreamProject) -> tuple[str, str]:
    found = {finding.what: finding for finding in examine(project.file, SystemClock())}["log and tables"]
    return found.verdict, found.found


def trim(project: StreamProject) -> None:
    log = open_log(project.config)
    log.trim("s", 0, log.bounds("s", 0).end, 1 << 60)
    log.close()


@pytest.fixture
def project(tmp_path: Path) -> StreamProject:
    found = StreamProject(tmp_path)
    found.configure({"v": INTEGER})
    found.up()
    found.accept(at(0, v=1))
    found.stop()
    return found


def test_a_dropped_table_is_made_anew_from_a_log_that_has_everything(project: StreamProject) -> None:
    assert belong(project)[0] == "ok"
    Lake.open(project.config).drop_table("s.events")
    assert belong(project) == ("bad", "s.events is gone: nothing can be stored there")
    project.up()
    project.accept(at(1, v=2))
    project.stop()
    assert project.rows("SELECT v FROM s.events ORDER BY t") == [(1,), (2,)]
    assert belong(project)[0] == "ok"


def test_a_dropped_table_or_another_catalog_is_refused_where_the_log_is_trimmed(project: StreamProject) -> None:
    trim(project)
    Lake.open(project.config).drop_table("s.events")
    other = {"warehouse": "data/other", "catalog": {"uri": "sqlite:///data/other.db"}}
    for lake in ({}, other):
        project.configure({"v": INTEGER}, whole={"lake": lake})
        with pytest.raises(LogMismatch, match=r"begins at offset 1 .*the table was dropped, or is of another"):
            project.up()
        assert belong(project)[0] == "bad"


def test_a_table_that_is_dropped_meanwhile_holds_up_its_own_stream_and_is_not_drained(project: StreamProject) -> None:
    both = {name: {"schema": "s.json", "time": "t"} for name in ("s", "r")}
    project.configure({"v": INTEGER}, whole={"streams": both})
    project.up()
    project.drain()
    Lake.open(project.config).drop_table("s.events")
    project.accept(at(1, v=2))
    project.accept(at(1, v=3), stream="r")
    project.drain()
    assert asyncio.run(project.committer.status())["gone"] == ["s.events"]
    assert "s.events is gone" in project.committer.problems()["tables"]
    assert project.rows("SELECT v FROM r.events") == [(3,)]
    assert asyncio.run(project.committer.drain(5)) is False
    project.kill()
    project.up()
    project.stop()
    assert project.rows("SELECT v FROM s.events ORDER BY t") == [(1,), (2,)]


def newest_metadata(project: StreamProject, table: str) -> Path:
    found = Lake.open(project.config).load(table).metadata_location
    return Path(found.removeprefix("file://"))


@pytest.mark.parametrize("table", ["s.events", "s.late", "s.w"])
@pytest.mark.parametrize("damage", ["lost", "torn", "another's"])
def test_a_table_that_cannot_be_read_holds_up_its_own_stream_until_it_can(
    tmp_path: Path, table: str, damage: str
) -> None:
    project = StreamProject(tmp_path)
    window = {"w": {"tumble": "1m", "aggregate": {"n": "count()"}}}
    both = {name: {"schema": "s.json", "time": "t", "windows": window} for name in ("s", "r")}
    project.configure({"v": INTEGER}, whole={"streams": both})
    project.up()
    for stream in both:
        project.accept(at(0, v=1), stream=stream)
    project.drain()
    file = newest_metadata(project, table)
    whole = file.read_bytes()
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(whole[: len(whole) // 2] if damage == "torn" else b"[]")
    project.replace_committer()
    for stream in both:
        project.accept(at(1, v=2), at(59, v=3), stream=stream)
    project.drain()
    assert table in project.committer.problems()["tables"]
    assert project.rows("SELECT v FROM r.events ORDER BY t") == [(1,), (2,), (3,)]
    assert project.rows("SELECT n FROM r.w") == [(1,), (1,)]
    assert asyncio.run(project.committer.drain(5)) is False
    file.write_bytes(whole)
    project.drain()
    assert "tables" not in project.committer.problems()
    assert project.rows("SELECT v FROM s.events ORDER BY t") == [(1,), (2,), (3,)]
    assert project.rows("SELECT n FROM s.w") == [(1,), (1,)]
    project.kill()


def test_windows_of_a_stream_are_asked_of_its_own_tables_alone(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    window = {"w": {"tumble": "1m", "aggregate": {"n": "count()"}}}
    both = {name: {"schema": "s.json", "time": "t", "windows": window} for name in ("s", "r")}
    project.configure({"v": INTEGER}, whole={"streams": both})
    project.up()
    project.accept(at(0, v=1), stream="r")
    project.drain()
    newest_metadata(project, "s.w").write_bytes(b"{")
    project.replace_committer()

    async def rows(stream: str) -> list[int]:
        found, _ = await project.committer.windows(stream, "w", None, None, None, 10)
        return [row["n"] for row in found]

    assert asyncio.run(rows("r")) == [1]
    with pytest.raises(LakeDamaged, match="metadata"):
        asyncio.run(rows("s"))
    project.kill()


def test_a_stream_that_leaves_with_events_waiting_is_said_and_can_come_back(
    project: StreamProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.up()
    project.accept(at(1, v=2), at(2, v=3))
    project.kill()
    project.configure({"v": INTEGER}, stream="other")
    project.up()
    said = capsys.readouterr().err
    assert "stream s is not in the configuration any more, and 2 acked events in its log" in said
    assert "put the stream back and start once" in said
    project.drain()
    project.kill()
    assert belong(project)[0] == "warn"
    project.configure({"v": INTEGER})
    project.up()
    project.stop()
    assert project.rows("SELECT v FROM s.events ORDER BY t") == [(1,), (2,), (3,)]


def test_a_stream_that_left_is_dropped_whole_by_command(
    project: StreamProject, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("table", "drop", "s", "--yes", "-c", str(project.file)) == 2
    assert "it is in the configuration" in capsys.readouterr().err
    project.configure({"v": INTEGER}, stream="other")
    assert command("table", "drop", "s", "-c", str(project.file)) == 2
    assert "s.dead_letters, s.events, s.late with 1 rows" in capsys.readouterr().err
    assert command("table", "drop", "s", "--yes", "-c", str(project.file)) == 0
    assert Lake.open(project.config).tables() == []
    assert not (project.directory / "data" / "log" / "s").exists()
    assert command("table", "drop", "s", "--yes", "-c", str(project.file)) == 2
    project.configure({"v": INTEGER})
    project.up()
    project.accept(at(5, v=9))
    project.stop()
    assert project.rows("SELECT v FROM s.events") == [(9,)]
