# ruff: noqa: E501
"""A project is its files: what they say becomes jobs, what is wrong is refused with file, line and expectation."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from eagleray.cluster.config import load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.stream_tables import table_specs
from eagleray.jobs.model import Check, Limits, Schedule
from eagleray.jobs.project.header import Header
from eagleray.jobs.project.load import load_project, stream_tables
from tests.jobs_project import make_project, produce, sql_file, sql_job
from tests.lake_tables import event_rows, make_lake, make_stream
from tests.sql_lake import land


def refusal(directory: Path, files: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as refused:
        load_project(make_project(directory, files))
    return str(refused.value).replace(f"{directory}/", "")


def test_a_sql_file_says_everything(tmp_path: Path) -> None:
    text = """\
        /* eagleray
        output: reports.edits
        mode: merge
        engine: daft
        key: [day, page]
        partition_by: day(day)
        sort_by: [page, edits desc]
        schedule: "*/5 2 * * *"
        timezone: Europe/Berlin
        catch_up: true
        overlap: true
        checks:
          - not_null: day
          - unique: [day, page]
          - accepted_values: {column: kind, values: [a, 1, true]}
          - relationships: {column: page, to: s.events, field: page}
          - row_count: {min: 1}
          - freshness: {column: day, within: 2d}
          - sql: "SELECT * FROM {table} t JOIN s.late l ON t.page = l.event"
        retries: 0
        backoff: 500ms
        timeout: 1h30m
        memory: 2GiB
        cpus: 2
        description: Edits per day and page.
        */

        WITH q AS (SELECT * FROM s.events WHERE time >= $start)
        SELECT * FROM q JOIN S.Per_User u ON u.window_start = q.time WHERE q.page <> '$end'
        """
    job = load_project(make_project(tmp_path, {"daily/edits.sql": text})).jobs["edits"]
    assert (job.name, job.output, job.mode, job.engine) == ("edits", "reports.edits", "merge", "daft")
    assert set(job.inputs) == {"s.events", "s.per_user"}
    assert (job.key, job.partition_by, job.sort_by) == (("day", "page"), ("day(day)",), ("page", "edits desc"))
    assert job.schedule == Schedule("*/5 2 * * *", "Europe/Berlin", catch_up=True, overlap=True)
    assert job.limits == Limits(2 << 30, 5_400_000_000, 0, 500_000, 2.0)
    assert job.source.line == 28 and (job.source.sql or "").startswith("WITH q")
    assert [check.kind for check in job.checks] == [
        "not_null", "unique", "accepted_values", "relationships", "row_count", "freshness", "sql",
    ]  # fmt: skip
    assert job.checks[1] == Check("unique", {"columns": ("day", "page")}, "unique(day, page)")
    assert job.checks[2].options == {"column": "kind", "values": ("a", 1, True), "texts": ("a", "1", "true")}
    assert job.checks[3].tables == ("s.events",) and job.checks[6].tables == ("s.late",)
    assert job.checks[5].options == {"column": "day", "within_us": 172_800_000_000}


def test_defaults_come_from_the_configuration(tmp_path: Path) -> None:
    files = {"a.sql": sql_file("SELECT 1 AS x", schedule='"0 2 * * *"')}
    config = make_project(tmp_path, files, jobs={"memory_max": 5 << 20, "timezone": "Asia/Tokyo"})
    job = load_project(config).jobs["a"]
    assert (job.mode, job.engine, job.inputs, job.checks) == ("full", "duckdb", (), ())
    assert job.limits == Limits(memory_bytes=5 << 20) and job.schedule == Schedule("0 2 * * *", "Asia/Tokyo")


WRONG_HEADERS = {
    "outputs: x.y": "jobs/a.sql:3: outputs: unknown key; did you mean output",
    "output: reports": "jobs/a.sql:3: output is there twice, first on line 2",
    "mode: replace": "jobs/a.sql:3: mode: Input should be 'full', 'overwrite_partitions', 'append', 'merge', 'incremental' or",
    "engine: spark": "jobs/a.sql:3: engine: Input should be 'duckdb', 'daft' or 'ray', found 'spark'",
    "engine: ray": "jobs/a.sql:3: engine: ray runs Python functions; expected duckdb or daft for SQL",
    "mode: merge": "mode merge needs key",
    "mode: overwrite_partitions": "mode overwrite_partitions needs partition_by",
    "key: [x]": "key goes with mode merge, history or incremental, found mode full",
    "key: {}": "jobs/a.sql:3: key: ",
    "key: []": "jobs/a.sql:3: key: Value should have at least 1 item",
    'schedule: "0 25 * * *"': "jobs/a.sql:3: schedule: '0 25 * * *' is no cron expression",
    "schedule: daily": "jobs/a.sql:3: schedule: expected five fields",
    'schedule: "0 0 2 * * *"': "jobs/a.sql:3: schedule: expected five fields",
    "schedule: 5": "jobs/a.sql:3: schedule: Input should be a valid string, found 5",
    'schedule: "0 2 * * *"\ntimezone: Berlin': "jobs/a.sql:4: timezone: unknown time zone 'Berlin'; expected a name",
    "timezone: UTC": "timezone goes with schedule",
    "catch_up: yes please": "jobs/a.sql:3: catch_up: Input should be a valid boolean",
    "catch_up: 1": "jobs/a.sql:3: catch_up: Input should be a valid boolean",
    "timeout: 30": "jobs/a.sql:3: timeout: expected a duration such as 2d or 1h30m, found 30",
    "timeout: 30 parsecs": "jobs/a.sql:3: timeout: '30 parsecs' is not a duration",
    "timeout: 0s": "jobs/a.sql:3: timeout: Input should be greater than 0",
    "retries: 1.5": "jobs/a.sql:3: retries: Input should be a valid integer",
    "retries: -1": "jobs/a.sql:3: retries: Input should be greater than or equal to 0",
    "memory: lots": "jobs/a.sql:3: memory: 'lots' is not a size; expected a number and a unit",
    "cpus: 0": "jobs/a.sql:3: cpus: Input should be greater than 0",
    "description: [a]": "jobs/a.sql:3: description: Input should be a valid string",
    "checks: not_null": "jobs/a.sql:3: checks: Input should be a valid tuple",
    "checks:\n- nonnull: x": "jobs/a.sql:4: checks.0: unknown check 'nonnull'; expected not_null, unique",
    "checks:\n- not_null: x\n- not_null: [x]": "jobs/a.sql:5: checks.1: not_null(x) is there twice",
    "checks:\n- not_null: []": "jobs/a.sql:4: checks.0.not_null: Value should have at least 1 item",
    "checks:\n- unique: x\n  not_null: x": "jobs/a.sql:4: checks.0: expected one of not_null",
    "checks:\n- accepted_values: {column: x}": "jobs/a.sql:4: checks.0.accepted_values.values: Field required",
    "checks:\n- relationships: {column: x, to: t, field: y}": "jobs/a.sql:4: checks.0.relationships.to: String should",
    "checks:\n- row_count: {}": "jobs/a.sql:4: checks.0.row_count: expected min, max or both",
    "checks:\n- row_count:\n    min: 3\n    max: 2": "jobs/a.sql:4: checks.0.row_count: min (3) is above max (2)",
    "checks:\n- row_count:\n    min: 3\n    most: 2": "jobs/a.sql:6: checks.0.row_count.most: unknown key",
    "checks:\n- freshness: {column: x, within: 2}": "jobs/a.sql:4: checks.0.freshness.within: expected a duration",
    "checks:\n- sql: SELECT 1": "jobs/a.sql:4: checks.0: expected a query of bad rows that names the table as {table}",
    "checks:\n- sql: DROP TABLE {table}": "jobs/a.sql:4: checks.0: DROP is not allowed",
    "checks:\n- sql: SELECT * FROM {table} JOIN no.thing USING (x)": "table no.thing does not exist",
    "? [a]": "jobs/a.sql:",
    "a: [": "jobs/a.sql:3: not YAML",
    "a: 2015-13-45": "jobs/a.sql:",
}


@pytest.mark.parametrize("line", WRONG_HEADERS)
def test_a_wrong_header_is_refused_with_line_and_key(tmp_path: Path, line: str) -> None:
    text = f"/* eagleray\noutput: reports.a\n{line}\n*/\nSELECT 1 AS x\n"
    assert WRONG_HEADERS[line] in refusal(tmp_path, {"a.sql": text})


WRONG_FILES = {
    "": "jobs/a.sql:1: expected `/* eagleray`",
    "SELECT 1": "jobs/a.sql:1: expected `/* eagleray`",
    "\n/* eagleray\noutput: a.b\nSELECT 1": "jobs/a.sql:2: the header does not end; expected a line that is `*/`",
    "/* eagleray\noutput: a.b\n*/\n\n": "jobs/a.sql:3: nothing follows the header; expected a SELECT",
    "/* eagleray\n*/\nSELECT 1": "jobs/a.sql:2: output: Field required",
    "/* eagleray\n- a\n*/\nSELECT 1": "jobs/a.sql:2: expected `key: value` lines",
    "/* eagleray\noutput: s.events\n*/\nSELECT 1": "jobs/a.sql:2: output: s.events is a stream's table",
    "/* eagleray\noutput: s.per_user\n*/\nSELECT 1": "jobs/a.sql:2: output: s.per_user is a stream's table",
    "/* eagleray\noutput: a.b\n*/\nSELECT * FROM a.b": "jobs/a.sql:2: output: the job reads its own output: a → a",
    "/* eagleray\noutput: a.b\n*/\nSELEC 1": "(line 4, column 1)",
    "/* eagleray\noutput: a.b\n*/\n\nSELECT $start,\n  nofunc(1)": "the function nofunc is unknown or not allowed (line 6, column 3)",
    "/* eagleray\noutput: a.b\n*/\nSELECT 1; SELECT 2": "found 2 statements",
    "/* eagleray\noutput: a.b\n*/\nSELECT $begin": "unknown parameter $begin; expected $start, $end, $date (line 4, column 8)",
    "/* eagleray\noutput: a.b\n*/\nSELECT * FROM events": "events is not a table of the lake; expected namespace.table (line 4, column 15)",
    "/* eagleray\noutput: a.b\n*/\nDELETE FROM s.events": "DELETE is not allowed",
    "/* eagleray\noutput: a.b\n*/\nEXPLAIN SELECT 1": "expected a SELECT",
    "/* eagleray\noutput: a.b\n*/\nSELECT * FROM read_parquet('x')": "read_parquet is not allowed",
    "/* eagleray\noutput: a.b\n*/\nSELECT * FROM s.event": "jobs/a.sql:4: a: table s.event does not exist; did you mean s.events?",
    "/* eagleray\noutput: a.b\nmode: incremental\n*/\nSELECT 1": "jobs/a.sql:3: mode: incremental reads what arrived in its inputs",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG_FILES)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    assert WRONG_FILES[text] in refusal(tmp_path, {"a.sql": text})


@pytest.mark.parametrize("name", ["compact", "Daily", "1st", "daily-edits"])
def test_names_that_are_taken_or_odd_are_refused(tmp_path: Path, name: str) -> None:
    assert f"jobs/{name}.sql:4: job" in refusal(tmp_path, {f"{name}.sql": sql_file("SELECT 1 AS x")})


def test_duplicates_are_refused_with_both_places(tmp_path: Path) -> None:
    one, other = sql_file("SELECT 1 AS x"), sql_file("SELECT 1 AS x", output="reports.b")
    names = refusal(tmp_path / "names", {"a.sql": one, "x/a.sql": other})
    assert names == "jobs/x/a.sql:4: job a is made twice, first by jobs/a.sql:4"
    outputs = refusal(tmp_path / "outputs", {"a.sql": one, "b.sql": one})
    assert outputs == "jobs/b.sql:4: reports.a is made twice, first by jobs/a.sql:4"


def test_a_folder_that_does_not_exist_has_no_jobs(tmp_path: Path) -> None:
    project = load_project(make_project(tmp_path, {}))
    assert not project.jobs and project.graph.order() == []


def test_files_that_begin_with_an_underscore_are_not_jobs(tmp_path: Path) -> None:
    files = {
        "_a.sql": "no",
        "_x/b.sql": "no",
        ".hidden/c.sql": "no",
        "README.md": "no",
        "d.sql": sql_file("SELECT 1 AS x"),
    }
    assert list(load_project(make_project(tmp_path, files)).jobs) == ["d"]


def test_a_table_in_the_lake_is_known(tmp_path: Path) -> None:
    make_lake(tmp_path, make_stream(name="older"))
    files = {"a.sql": sql_file("SELECT * FROM older.events")}
    assert load_project(make_project(tmp_path, files)).jobs["a"].inputs == ("older.events",)


def test_tables_of_streams_are_known_without_reading_schemas(tmp_path: Path) -> None:
    config = make_project(tmp_path, {})
    windows = {"per_user": {"tumble": "1m", "aggregate": {"n": "count()"}}}
    assert stream_tables(config) == {spec.name for spec in table_specs(make_stream(windows=windows))}


FUNCTIONS = """\
    from __future__ import annotations

    import duckdb
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import pyarrow as alias

    from eagleray import Period, job, table
    from ._shared import DOUBLE

    @job(output="reports.b", mode="merge", key="x", memory="1GiB", checks=[{"not_null": "x"}])
    def b(
        period: Period,
        events: alias.Table = table("s.events", columns=["time", "n"], where="n > 1 AND time < $end"),
        late: pl.LazyFrame = table("s.late", where="event IN (SELECT reason FROM s.dead_letters)"),
        again=table("reports.a"),
    ) -> pa.Table:
        return events, DOUBLE

    def helper(): ...
    """


def test_functions_are_jobs_and_their_signatures_the_inputs(tmp_path: Path) -> None:
    files = {"deep/f.py": FUNCTIONS, "deep/_shared.py": "DOUBLE = 2\n", "a.sql": sql_file("SELECT 1 AS x")}
    project = load_project(make_project(tmp_path, files))
    job = project.jobs["b"]
    assert set(job.inputs) == {"s.events", "s.late", "s.dead_letters", "reports.a"}
    assert (job.key, job.limits.memory_bytes, job.source.line) == (("x",), 1 << 30, 12)
    assert project.graph.order() == ["a", "b"]
    again = pickle.loads(pickle.dumps(job))
    assert again == job and again.source.function(None, events=1) == (1, 2)


def test_a_folder_called_jobs_shadows_nothing(tmp_path: Path) -> None:
    files = {
        "model.py": "X = 1\n",
        "f.py": "from eagleray.jobs.model import Job\nfrom . import model\nassert model.X == 1\n",
    }
    load_project(make_project(tmp_path, files))
    ours = sys.modules["eagleray.jobs.model"].__file__
    assert ours and Path(ours).resolve() == Path(__file__).parents[2] / "jobs" / "model.py"


def test_a_changed_file_is_loaded_anew(tmp_path: Path) -> None:
    text = "from eagleray import job\n@job(output='a.b')\ndef f(): return {0}\n"
    for value in (1, 22):
        function = load_project(make_project(tmp_path, {"f.py": text.format(value)})).jobs["f"].source.function
        assert function is not None and function() == value


WRONG_FUNCTIONS = {
    "@job(output='a.b', outputt=1)\ndef f(): ...": "jobs/f.py:3: the file cannot be loaded: TypeError: job() got an unexpected",
    "@job()\ndef f(): ...": "jobs/f.py:3: the file cannot be loaded: TypeError: job() missing 1 required keyword-only",
    "1/0": "jobs/f.py:3: the file cannot be loaded: ZeroDivisionError: division by zero",
    "def f(:": "jobs/f.py:3: the file cannot be loaded: SyntaxError",
    "import nowhere": "jobs/f.py:3: the file cannot be loaded: ModuleNotFoundError",
    "@job(output='a.b', mode='merge')\ndef f(): ...": "jobs/f.py:3: mode merge needs key",
    "@job(output='a.b', schedule='x')\ndef f(): ...": "jobs/f.py:3: schedule: expected five fields",
    "@job(output='a.b')\ndef f(x): ...": "jobs/f.py:3: f: x: expected a default, table(\"namespace.table\"), or",
    "@job(output='a.b')\ndef f(x: int = table('s.events')): ...": "jobs/f.py:3: f: x: expected one of the annotations pa.Table",
    "@job(output='a.b')\ndef f(x: 'pl.DataFrame' = table('s.events')): ...": "jobs/f.py:3: f: an annotation cannot be read",
    "@job(output='a.b')\ndef f(x=table('events')): ...": "jobs/f.py:3: f: x: 'events' is no table; expected namespace.table",
    "@job(output='a.b')\ndef f(x=table('s.events', where='n >')): ...": "jobs/f.py:3: f: x: in 'SELECT * FROM s.events WHERE (n >",
    "@job(output='a.b')\ndef f(x=table('s.event')): ...": "jobs/f.py:3: f: table s.event does not exist; did you mean s.events?",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG_FUNCTIONS)
def test_a_wrong_function_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    assert WRONG_FUNCTIONS[text] in refusal(tmp_path, {"f.py": f"from eagleray import job, table\n\n{text}\n"})


def test_the_decorator_has_the_keys_of_the_header() -> None:
    import inspect

    from eagleray.jobs.project.declare import job

    assert list(inspect.signature(job).parameters) == list(Header.model_fields)


def test_the_project_of_a_configuration_file_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "eagleray.yaml").write_text("jobs: {folder: etl}\n")
    (tmp_path / "etl").mkdir()
    (tmp_path / "etl" / "a.sql").write_text(sql_file("SELECT 1 AS x"))
    assert list(load_project(load_config(tmp_path / "eagleray.yaml", environ={})).jobs) == ["a"]


def test_numbers_and_days_among_values_are_as_they_are_written(tmp_path: Path) -> None:
    checks = "[{accepted_values: {column: a, values: [012, 1_000, 12:30, 7, -1.5, 2026-01-01]}}]"
    files = {"a.sql": sql_file("SELECT $code AS a", checks=checks, vars="{code: 012}")}
    job = load_project(make_project(tmp_path, files)).jobs["a"]
    assert job.checks[0].options["values"] == ("012", "1_000", "12:30", 7, -1.5, "2026-01-01")
    assert "012" in str(job.variables)


def test_yes_and_no_are_words_among_values_and_answers_to_a_switch(tmp_path: Path) -> None:
    checks = "[{accepted_values: {column: a, values: [yes, no, off, true]}}]"
    config = make_project(
        tmp_path, {"a.sql": sql_file("SELECT 1 AS a", checks=checks, schedule="0 2 * * *", catch_up="yes")}
    )
    job = load_project(config).jobs["a"]
    assert job.checks[0].options["values"] == ("yes", "no", "off", True)
    assert job.schedule and job.schedule.catch_up is True


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\f", "\v", "\x1c", "\x1d", "\x1e", "\r"])
def test_only_newlines_end_a_line(tmp_path: Path, sign: str) -> None:
    statement = f"SELECT 'a{sign}b' AS a,\n  1 AS b"
    job = load_project(make_project(tmp_path, {"a.sql": sql_file(statement)})).jobs["a"]
    assert job.source.sql == statement and job.source.line == 4
    ran = sql_job(f"SELECT 'a{sign}b' AS a FROM s.events", "s.events")
    lake = make_lake(tmp_path / "lake")
    land(lake, event_rows(1))
    assert produce(lake.config, ran, tmp_path)["a"].to_pylist() == [f"a{sign}b"]


def test_a_file_of_windows_is_read_as_it_is(tmp_path: Path) -> None:
    config = make_project(tmp_path, {})
    (tmp_path / "jobs").mkdir()
    text = "/* eagleray\r\noutput: reports.a\r\nschedule: @daily\r\n*/\r\nSELECT 'a\r\nb' AS a\r\n"
    (tmp_path / "jobs" / "a.sql").write_bytes(text.encode())
    job = load_project(config).jobs["a"]
    assert job.schedule and job.source.sql == "SELECT 'a\r\nb' AS a\r"
