"""`eagleray table` and `check`: what `up` refuses can be done, whole or not at all, and nothing is lost by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.lake import lake as lake_module
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.type_names import parse_type
from eagleray.cluster.project_lock import project_lock
from tests.published import DAY, NEXT_DAY, OUTPUT, check, make_job, open_lake, run
from tests.stream_project import INTEGER, NUMBER, TEXT, StreamProject, command

NOON = "2026-01-01T12:00:00Z"
DATE = {"type": "string", "format": "date"}
UNION = {"type": ["integer", "string"]}
FREE: dict[str, Any] = {"type": "object"}
TYPED = {"type": "object", "properties": {"a": INTEGER, "b": TEXT}}


def at(minute: int, **fields: Any) -> dict[str, Any]:
    return {"t": f"2026-01-01T12:{minute:02}:00Z", **fields}


@pytest.mark.parametrize(
    ("before", "after", "values", "held", "extra"),
    [
        (NUMBER, INTEGER, [1.0, 1.5], [1, None], [None, '{"v":1.5}']),
        (TEXT, DATE, ["2026-01-01", "soon"], ["2026-01-01", None], [None, '{"v":"soon"}']),
        (TEXT, UNION, ["b", "1"], ['"b"', '"1"'], [None, None]),
        (UNION, TEXT, ["b", 1], ["b", "1"], [None, None]),
        ({"enum": ["a", "b"]}, {"enum": ["a", "b", 1]}, ["a", "b"], ['"a"', '"b"'], [None, None]),
        (FREE, TYPED, [{"a": 1, "c": 2}, {"b": 7}], ["1/None", "None/7"], ['{"v":{"c":2}}', None]),
    ],
    ids=["number-integer", "string-date", "string-union", "union-string", "enum", "free-typed"],
)
def test_a_type_that_must_change_is_refused_with_the_command_that_changes_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: Any,
    after: Any,
    values: list[Any],
    held: list[Any],
    extra: list[str | None],
) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": before})
    project.up()
    project.accept(at(0, v=values[0]))
    project.stop()
    project.up()
    project.accept(at(1, v=values[1]))
    project.kill()  # acked, and in the log alone
    project.configure({"v": after})
    with pytest.raises(ConfigError, match=r"table s\.events: column v is .*: run `eagleray table migrate s`"):
        project.up()
    assert command("check", "-c", str(project.file)) == 2
    assert command("table", "migrate", "s.events", "-c", str(project.file)) == 0
    assert command("check", "-c", str(project.file)) == 0
    project.up()
    project.stop()
    column = "v.a || '/' || v.b" if after is TYPED else "v" if after is not DATE else "v::VARCHAR"
    if after is TYPED:
        column = "coalesce(v.a::VARCHAR, 'None') || '/' || coalesce(v.b, 'None')"
    assert project.rows(f"SELECT {column}, _extra FROM s.events ORDER BY t") == list(zip(held, extra, strict=True))


def test_dead_letters_of_the_old_type_are_taken_after_the_change(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": INTEGER})
    project.up()
    project.accept(at(0, v=1))
    assert project.send(at(1, v=1.5)).rejected[0][1] == "schema"
    project.stop()
    project.configure({"v": NUMBER})
    project.up()
    ((original,),) = project.rows("SELECT original FROM s.dead_letters")
    project.accept(json.loads(original))
    project.stop()
    assert project.rows("SELECT v FROM s.events ORDER BY t") == [(1.0,), (1.5,)]


def test_an_aggregate_of_another_type_is_migrated_with_the_windows_rows(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    window = {"tumble": "1m", "aggregate": {"n": "avg(v)"}}
    project.configure({"v": INTEGER}, windows={"w": window}, lake={"partition_by": ["v"], "sort_by": ["v"]})
    project.up()
    project.accept(at(0, v=2), at(0, v=4), at(9, v=4))
    project.stop()
    project.configure({"v": INTEGER}, windows={"w": {**window, "aggregate": {"n": "sum(v)"}}})
    with pytest.raises(ConfigError, match=r"windows\.w: table s\.w: column n is double in the table and long now"):
        project.up()
    assert command("table", "migrate", "s.w", "-c", str(project.file)) == 0
    project.up()
    project.stop()
    assert project.rows("SELECT n FROM s.w ORDER BY window_start")[0] == (3,)


def test_a_table_that_a_platform_writes_is_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": INTEGER})
    project.up()
    project.stop()
    project.configure({"v": NUMBER})
    with project_lock(project.config):
        assert command("table", "migrate", "s", "-c", str(project.file)) == 1
    assert "in use by another `eagleray up`" in capsys.readouterr().err


@pytest.mark.parametrize("by", ["up", "migrate"])
def test_a_migration_that_is_killed_leaves_the_table_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": INTEGER})
    project.up()
    project.accept(at(0, v=1))
    project.stop()
    project.configure({"v": NUMBER})

    def killed(*_: Any) -> int:
        raise KeyboardInterrupt

    def change() -> None:
        if by == "up":
            project.up()
        elif command("table", "migrate", "s", "-c", str(project.file)) == 130:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lake_module, "replace", killed)
        change()
    assert project.rows("SELECT v, typeof(v) FROM s.events") == [(1, "BIGINT")]
    change()
    assert project.rows("SELECT v, typeof(v) FROM s.events") == [(1.0, "DOUBLE")]
    if by == "up":
        project.stop()


def test_a_column_by_which_the_table_is_laid_out_may_change_its_type(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    layout = {"partition_by": ["bucket(4, v)"], "sort_by": ["v"]}
    project.configure({"v": INTEGER}, lake=layout)
    project.up()
    project.accept(*(at(0, v=n) for n in range(9)))
    project.stop()
    project.configure({"v": TEXT}, lake=layout)
    assert command("table", "migrate", "s", "-c", str(project.file)) == 0
    project.up()
    project.accept(at(1, v="9"))
    project.stop()
    assert project.rows("SELECT v FROM s.events WHERE v >= '3' ORDER BY v") == [(str(n),) for n in range(3, 10)]
    assert project.rows("SELECT count(*) FROM s.events") == [(10,)]


def test_a_field_renamed_by_case_is_renamed_in_the_table_and_pending_events_are_stored(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"userId": TEXT})
    project.up()
    project.accept(at(0, userId="a"))
    project.stop()
    project.up()
    project.accept(at(1, userId="b"))
    project.kill()
    project.configure({"userid": TEXT})
    with pytest.raises(ConfigError, match=r"eagleray table alter s\.events --rename 'userId=userid'"):
        project.up()
    assert command("table", "alter", "s.events", "--rename", "userId=userid", "-c", str(project.file)) == 0
    project.up()
    project.accept(at(2, userid="c"))
    project.stop()
    assert project.rows("SELECT userid, _extra FROM s.events ORDER BY t") == [("a", None), ("b", None), ("c", None)]


# ── check ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_check_says_what_a_changed_file_would_do_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": INTEGER, "w": TEXT}, windows={"old": {"tumble": "1m", "aggregate": {"n": "count()"}}})
    assert command("check", "--changes", "-c", str(project.file)) == 0
    assert "s.events: is made" in capsys.readouterr().out
    assert not (tmp_path / "data").exists()
    project.up()
    project.stop()
    assert command("check", "--changes", "-c", str(project.file)) == 0
    assert capsys.readouterr().out == "nothing changes\n"
    project.configure({"v": TEXT, "w": TEXT, "new": TEXT}, lake={"partition_by": ["day(t)"]})
    before = {name: Lake.open(project.config).load(name).metadata_location for name in ("s.events", "s.old")}
    assert command("check", "--changes", "-c", str(project.file)) == 2
    said = capsys.readouterr()
    assert "s.events: refused: column v is long in the table and string now" in said.out
    assert "s.events: column new (string) is added; null in rows of before" in said.out
    assert "s.events: new files are partitioned by day of t; files of before stay as they are" in said.out
    assert "streams.s.windows.old: removed" in said.out
    assert "eagleray table migrate s`" in said.err
    assert before == {name: Lake.open(project.config).load(name).metadata_location for name in before}


# ── jobs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("checks", [(), (check("not_null", "k", columns=("k",)),)], ids=["plain", "checked"])
def test_a_full_result_may_have_other_types_than_the_last(tmp_path: Path, checks: Any) -> None:
    lake, job = open_lake(tmp_path), make_job("full", checks=checks)
    run(lake, job, pa.table({"k": ["a"], "v": [1]}))
    first = lake.history(OUTPUT)[0][0]
    run(lake, job, pa.table({"k": ["b"], "v": ["x"], "w": [True]}), "r2")
    assert lake.read(OUTPUT).to_pylist() == [{"k": "b", "v": "x", "w": True}]
    then = lake.pin(OUTPUT, first)
    assert next(then.plan().batches(["k", "v"])).to_pylist() == [{"k": "a", "v": 1}]
    run(lake, job, pa.table({"k": ["c"], "v": [1.5]}), "r3")
    assert lake.read(OUTPUT).to_pylist() == [{"k": "c", "v": 1.5, "w": None}]


def test_a_full_result_of_other_types_that_breaks_a_check_changes_nothing(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    job = make_job("full", checks=(check("not_null", "k", columns=("k",)),))
    run(lake, job, pa.table({"k": ["a"], "v": [1]}))
    with pytest.raises(EaglerayError, match="k: 1 rows"):
        run(lake, job, pa.table({"k": pa.nulls(1, pa.string()), "v": ["x"]}), "r2")
    assert lake.read(OUTPUT).to_pylist() == [{"k": "a", "v": 1}]
    assert next(lake.pin(OUTPUT, "rejected").plan().batches(["v"])).to_pylist() == [{"v": "x"}]


def test_a_jobs_column_is_retyped_widened_renamed_and_dropped_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, job = StreamProject(tmp_path), make_job("append")
    project.configure({"v": INTEGER})
    lake = Lake.open(project.config)
    run(lake, job, pa.table({"k": pa.array([1], pa.int32()), "v": ["1"], "w": ["x"]}))
    alter = ["table", "alter", OUTPUT, "-c", str(project.file)]
    assert command(*alter, "--type", "w=long") == 1
    assert "1 values of w, such as 'x' do not fit" in capsys.readouterr().err
    assert command(*alter, "--type", "v=nothing") == 2
    assert "'nothing' is no type of a column; expected int, long" in capsys.readouterr().err
    assert command(*alter, "--type", "V=long") == 2
    assert command(*alter, "--type", "v=bigint", "--type", "w=long", "--keep", "w=w_text", "--type", "k=long") == 0
    assert command(*alter, "--rename", "v=value", "--drop-column", "_run_number") == 0
    table = Lake.open(project.config).read(OUTPUT)
    assert table.select(["k", "value", "w", "w_text"]).to_pylist() == [{"k": 1, "value": 1, "w": None, "w_text": "x"}]
    assert [str(table.schema.field(name).type) for name in ("k", "value", "w")] == ["int64"] * 3
    assert "_run_number" not in table.column_names


def test_a_run_that_wrote_for_the_columns_of_before_is_refused(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("append")
    run(lake, job, pa.table({"v": ["1"]}))
    with lake.stream(OUTPUT) as out:
        out.write(pa.table({"v": ["2"], "_run": ["r"], "_run_number": [2]}))
        files = out.finish()
    assert lake.retype(OUTPUT, pa.schema([("v", pa.int64())]))
    with pytest.raises(EaglerayError, match="no longer has the columns"):
        lake.replace(OUTPUT, lake_module.Change((), files))
    run(lake, job, pa.table({"v": [3]}), "r3", period=NEXT_DAY)
    assert sorted(lake.read(OUTPUT, ["v"]).column(0).to_pylist()) == [1, 3]


def test_a_table_is_renamed_and_a_new_one_of_its_name_has_files_of_its_own(tmp_path: Path) -> None:
    project, job = StreamProject(tmp_path), make_job("full")
    project.configure({"v": INTEGER})
    lake = Lake.open(project.config)
    run(lake, job, pa.table({"v": [1]}), period=DAY)
    assert command("table", "rename", OUTPUT, "reports.old", "-c", str(project.file)) == 0
    lake = Lake.open(project.config)
    run(lake, job, pa.table({"v": [2]}), "r2")
    assert lake.read("reports.old").to_pylist() == [{"v": 1}]
    assert lake.read(OUTPUT).to_pylist() == [{"v": 2}]
    assert lake.load(OUTPUT).location() != lake.load("reports.old").location()
    assert command("table", "drop", "reports.old", "-c", str(project.file)) == 2
    assert command("table", "drop", "reports.old", "--yes", "-c", str(project.file)) == 0
    assert Lake.open(project.config).read(OUTPUT).to_pylist() == [{"v": 2}]


def test_what_depends_on_a_table_is_named_and_a_streams_own_tables_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": INTEGER})
    (tmp_path / "jobs").mkdir()
    header = "/* eagleray\noutput: reports.{}\n*/\nSELECT v FROM {}\n"
    (tmp_path / "jobs" / "first.sql").write_text(header.format("daily", "s.events"))
    (tmp_path / "jobs" / "second.sql").write_text(header.format("weekly", "reports.daily"))
    project.up()
    project.stop()
    run(Lake.open(project.config), make_job("full"), pa.table({"v": [1]}))
    assert command("table", "drop", OUTPUT, "-c", str(project.file)) == 2
    said = capsys.readouterr().err
    assert "1 rows would be deleted (the job first makes it; second read it)" in said
    for words in (("drop", "s.events", "--yes"), ("rename", "s.events", "s.old"), ("rename", OUTPUT, "s.late")):
        assert command("table", *words, "-c", str(project.file)) == 2
    assert command("table", "rename", OUTPUT, "temp.x", "-c", str(project.file)) == 2
    assert command("table", "drop", "reports.none", "-c", str(project.file)) == 2


def test_types_are_read_by_icebergs_and_by_sqls_names() -> None:
    assert parse_type("Decimal(10, 3)") == (pa.decimal128(10, 3), False)
    assert parse_type("varchar") == (pa.string(), False)
    assert parse_type("json") == (pa.string(), True)
    assert parse_type("timestamptz") == (pa.timestamp("us", "UTC"), False)
