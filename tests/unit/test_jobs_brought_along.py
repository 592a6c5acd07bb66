"""What people bring from elsewhere: macros, variables, named schedules, histories, jobs on their own output."""

from __future__ import annotations

import pickle
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ChecksFailed, ConfigError
from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.model import Job
from eagleray.jobs.period import daily
from eagleray.jobs.project.load import load_project, read_project
from eagleray.jobs.project.parameters import substitute
from eagleray.jobs.project.variables import constants, given
from eagleray.jobs.run.attempt import perform
from eagleray.jobs.run.plan import plan
from tests.jobs_project import DAY, make_project, produce, sql_file
from tests.lake_tables import event_rows, make_lake
from tests.published import OUTPUT, make_job, open_lake, run
from tests.sql_lake import land

MACROS = """
-- money
CREATE MACRO net(amount, rate) AS amount / (1 + rate);  /* ; */
CREATE OR REPLACE MACRO twice(x) AS net(x, 0) * 2 + length('x') - 1;
CREATE MACRO since(first) AS TABLE
  SELECT n, user FROM s.events WHERE n >= first;
"""


def job_of(directory: Path, files: dict[str, str], name: str = "a", **settings: Any) -> Job:
    return load_project(make_project(directory, files, **settings)).jobs[name]


@pytest.mark.parametrize(
    "above", ["-- a note\n", "/* licence\n   of many lines */\n\n-- and more\n", "\n/* one */\n", "\ufeff-- bom\n"]
)
def test_comments_may_stand_above_the_header(tmp_path: Path, above: str) -> None:
    job = job_of(tmp_path, {"a.sql": above + sql_file("SELECT 1 AS a")})
    assert job.source.line == above.count("\n") + 4 and job.source.sql == "SELECT 1 AS a"


@pytest.mark.parametrize("text", ["-- nothing but this", "SELECT 1", "/* never ends\n", "\n"])
def test_a_file_without_a_header_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="expected `/\\* eagleray`"):
        job_of(tmp_path, {"a.sql": text})


@pytest.mark.parametrize(
    ("written", "cron"),
    [("@daily", "0 0 * * *"), ("'@hourly'", "0 * * * *"), ("*/5 * * * *", "*/5 * * * *"), ("@monthly", "0 0 1 * *")],
)
def test_schedules_have_names_and_need_no_quotes(tmp_path: Path, written: str, cron: str) -> None:
    schedule = job_of(tmp_path, {"a.sql": sql_file("SELECT 1 AS a", schedule=written)}).schedule
    assert schedule and schedule.cron == cron


def test_an_unknown_name_of_a_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown schedule '@fortnightly'; expected @hourly"):
        job_of(tmp_path, {"a.sql": sql_file("SELECT 1 AS a", schedule="@fortnightly")})


def test_macros_are_expanded_on_their_line(tmp_path: Path) -> None:
    statement = "SELECT twice(n) AS a, net(\n  n, 0.5) AS b, 'net(1, 2)' AS c\nFROM since(twice(1)) e WHERE e.n < $m"
    files = {"_money.sql": MACROS, "a.sql": sql_file(statement, include="_money.sql", vars="{m: 4}")}
    job = job_of(tmp_path, files)
    assert job.inputs == ("s.events",) and (job.source.sql or "").count("\n") == statement.count("\n")
    lake = make_lake(tmp_path / "lake")
    land(lake, event_rows(6))
    found = produce(lake.config, job, tmp_path).to_pylist()
    assert found == [{"a": 2.0 * n, "b": pytest.approx(n / 1.5), "c": "net(1, 2)"} for n in (2, 3)]


def test_macros_say_what_they_say_to_duckdb(tmp_path: Path) -> None:
    macros = """/* of /* nested */ comments; DROP TABLE x */
CREATE MACRO quoted(x) AS x || $$; it's x, (a) $$ /* x /* ; */ x */ || $t$ $$ $t$;
CREATE MACRO lines(x) AS x || 'a
b''c\\n' || $$d
'e'$$ || E'f\\t
g';
"""
    call = "quoted('1' /* ) /* , */ , */) || quoted($$)$$), lines(e'\\'),')"
    jobs = {
        "_m.sql": macros,
        "a.sql": sql_file(f"SELECT {call.replace('), lines', ') AS a, lines')} AS b", include="_m.sql"),
    }
    found = produce(make_lake(tmp_path / "lake").config, job_of(tmp_path, jobs), tmp_path).to_pylist()
    with duckdb.connect() as plain:
        for statement in macros.split("\nCREATE ")[1:]:
            plain.execute("CREATE " + statement)
        (expected,) = plain.execute(f"SELECT {call}").fetchall()
    assert [tuple(row.values()) for row in found] == [expected]


DEFAULTS = """CREATE MACRO tax(amount, rate := 0.19) AS amount * rate;
CREATE FUNCTION joined(a := 'x, (y', b := upper('z)')) AS a || b;
CREATE MACRO above(low := 2) AS TABLE SELECT n FROM range(5) t(n) WHERE n >= low;
"""


def test_arguments_by_default_and_by_name_are_duckdbs(tmp_path: Path) -> None:
    calls = ["tax(100)", "tax(100, 0.07)", "tax(100, rate := 0.07)", "tax(rate => 2, amount := tax(10, rate := 3))"]
    calls += [
        "joined()",
        "joined('p')",
        "joined(b := 'q')",
        "(SELECT sum(n) FROM above())",
        "(SELECT sum(n) FROM above(low := 4))",
    ]
    select = "SELECT " + ", ".join(f"{call} AS c{at}" for at, call in enumerate(calls))
    job = job_of(tmp_path, {"_m.sql": DEFAULTS, "a.sql": sql_file(select, include="_m.sql")})
    (found,) = produce(make_lake(tmp_path / "lake").config, job, tmp_path).to_pylist()
    with duckdb.connect() as plain:
        plain.execute(DEFAULTS)
        assert plain.execute(select).fetchall() == [tuple(found.values())]


def test_a_comment_ends_where_duckdb_ends_it(tmp_path: Path) -> None:
    macros = "CREATE MACRO pair(x) AS [x, -- the first\r x + 1\n];\r-- of all\rCREATE MACRO one() AS 1;"
    select = "SELECT pair(1) AS a, -- here\r one()\xa0AS\u3000b,\u200b$date\ufeffAS d, $date AS \u2028e"
    job = job_of(tmp_path, {"_m.sql": macros, "a.sql": sql_file(select, include="_m.sql")})
    (found,) = produce(make_lake(tmp_path / "lake").config, job, tmp_path).to_pylist()
    assert found == {"a": [1, 2], "b": 1, "d": DAY.day, "\u2028e": DAY.day}


@pytest.mark.parametrize(
    ("macros", "call", "problem"),
    [
        (MACROS, "net(1)", r"the macro net\(amount, rate\) is called without rate"),
        (MACROS, "net(1, 2, 3)", r"the macro net\(amount, rate\) takes at most 2 arguments, found 3"),
        (DEFAULTS, "tax()", r"the macro tax\(amount, rate := 0.19\) is called without amount"),
        (DEFAULTS, "tax(1, other := 2)", r"the macro tax\(amount, rate := 0.19\) has no parameter other"),
        (DEFAULTS, "tax(1, amount := 2)", r"the macro tax\(amount, rate := 0.19\) is given amount twice"),
        ("CREATE MACRO r(x DECIMAL(5, 2)) AS x", "r(1)", r"r has a parameter 'x DECIMAL\(5, 2\)'; expected a name, or"),
        ("CREATE MACRO r(x) AS r(x)", "r(1)", "call one another without end"),
        ("DROP TABLE x", "1", "expected CREATE MACRO name"),
        (MACROS, "nope(1)", "the function nope is unknown"),
    ],
)
def test_wrong_macros_are_refused(tmp_path: Path, macros: str, call: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        job_of(tmp_path, {"_m.sql": macros, "a.sql": sql_file(f"SELECT {call} AS a", include="[_m.sql]")})


def test_a_number_keeps_every_digit(tmp_path: Path) -> None:
    text = sql_file("SELECT $big AS big, $small IN $list AS own", vars="{big: 1234567890123456.78, list: [1.10]}")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.sql").write_text(text)
    (tmp_path / "eagleray.yaml").write_text("jobs: {vars: {small: 1.10}}\n")
    config = load_config(tmp_path / "eagleray.yaml", environ={})
    job = load_project(config).jobs["a"]
    assert dict(job.variables) == {"big": "1234567890123456.78", "list": "(1.10)", "small": "1.10"}
    assert dict(constants(pickle.loads(pickle.dumps(dict(config.jobs.vars))), {})) == {"small": "1.10"}
    assert dict(constants({"f": 1.5}, {"f": "1234567890123456.78"})) == {"f": "1234567890123456.78"}
    (found,) = produce(make_lake(tmp_path / "lake").config, job, tmp_path).to_pylist()
    assert found == {"big": Decimal("1234567890123456.78"), "own": True}


def test_an_include_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.sql:3: include: no file _m\.sql beside a\.sql"):
        job_of(tmp_path, {"a.sql": sql_file("SELECT 1 AS a", include="_m.sql")})


def test_variables_become_constants(tmp_path: Path) -> None:
    own = "{region: eu, limits: [1, 2], day: 2026-01-05, on: true, none: null}"
    text = sql_file("SELECT $region AS r, $n IN $limits AS i, $day AS d, $on AS o, $none AS z, $date AS p", vars=own)
    job = job_of(tmp_path, {"a.sql": text}, jobs={"vars": {"n": 1, "region": "us"}})
    assert job.source.sql
    written = substitute(job.source.sql, DAY, job.variables).text
    assert written.startswith("SELECT 'eu' AS r, 1 IN (1, 2) AS i, DATE '2026-01-05' AS d, true AS o, NULL AS z, DATE")


def test_functions_have_variables_where_rows_are_chosen(tmp_path: Path) -> None:
    text = """
        import pyarrow as pa
        from eagleray import job, table

        @job(output="reports.a", vars={"least": 3})
        def a(events: pa.Table = table("s.events", columns="n", where="n >= $least")) -> pa.Table:
            return events
        """
    job = job_of(tmp_path, {"a.py": text})
    lake = make_lake(tmp_path / "lake")
    land(lake, event_rows(5))
    assert produce(lake.config, job, tmp_path)["n"].to_pylist() == [3, 4]


def test_the_command_line_gives_values_of_the_declared_kind(tmp_path: Path) -> None:
    config = make_project(tmp_path, {"a.sql": sql_file("SELECT $n AS n, $s AS s", vars="{n: 1, s: x}")})
    job = read_project(config, given(["n=7", "s=007=x"])).jobs["a"]
    assert dict(job.variables) == {"n": "7", "s": "'007=x'"}
    assert dict(constants({"f": 1.5, "l": [1]}, {"f": "2", "l": "[3, 4]"})) == {"f": "2", "l": "(3, 4)"}
    with pytest.raises(ConfigError, match=r"no job has a variable 'm'.*there are n, s"):
        read_project(config, given(["m=1"]))
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        given(["m"])
    assert "n: expected a whole number, found 'many'" in str(read_project(config, {"n": "many"}).broken[0].error)


@pytest.mark.parametrize("name", ["date", "Up", "1a"])
def test_names_of_variables_are_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a variable"):
        job_of(tmp_path, {"a.sql": sql_file("SELECT 1 AS a", vars=f"{{{name}: 1}}")})


def state(lake: Lake) -> list[tuple[Any, ...]]:
    rows = lake.read(OUTPUT, ["k", "v", "valid_from", "valid_to"]).to_pylist()
    days = [(r["k"], r["v"], r["valid_from"].day, r["valid_to"].day if r["valid_to"] else None) for r in rows]
    return sorted(days, key=repr)


def see(lake: Lake, day: int, *rows: tuple[Any, Any], attempt: str = "") -> list[tuple[Any, ...]]:
    """The table after a run for a day that found these keys and values."""
    schema = pa.schema([("k", pa.string()), ("v", pa.float64())])
    table = pa.Table.from_pylist([{"k": k, "v": v} for k, v in rows], schema=schema)
    run(lake, make_job("history", key=("k",)), table, f"r{day}{attempt}", daily(date(2026, 1, day)))
    return state(lake)


def test_a_history_keeps_every_version_once(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    assert see(lake, 1, ("a", 1), ("b", 1), (None, 0)) == [("a", 1, 1, None), ("b", 1, 1, None), (None, 0, 1, None)]
    second = [("a", 1, 1, 2), ("a", 2, 2, None), ("b", 1, 1, None), ("c", 9, 2, None), (None, 0, 1, None)]
    assert see(lake, 2, ("a", 2), ("b", 1), ("c", 9)) == second
    assert see(lake, 2, ("a", 2), ("b", 1), ("c", 9), attempt="again") == second
    mended = [("a", 1, 1, None), ("b", 1, 1, 2), ("b", 5, 2, None), (None, 0, 1, None)]
    assert see(lake, 2, ("a", 1), ("b", 5), attempt="mended") == mended
    third = [*mended[:2], ("b", 5, 2, 3), ("b", None, 3, None), mended[3]]
    assert see(lake, 3, ("b", None)) == sorted(third, key=repr)
    assert see(lake, 4, ("b", None)) == sorted(third, key=repr)
    assert see(lake, 5) == sorted(third, key=repr)


def test_a_history_goes_forward_and_has_each_key_once(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    see(lake, 3, ("a", 1))
    with pytest.raises(ConfigError, match=r"has changes of 2026-01-03.* run a history's periods in order"):
        see(lake, 2, ("a", 2))
    with pytest.raises(ChecksFailed, match="once in the result"):
        see(lake, 4, ("a", 2), ("a", 3))
    with pytest.raises(ConfigError, match="cannot have a column 'valid_to' of its own"):
        taken = pa.table({"k": ["a"], "valid_to": [datetime(2026, 1, 1, tzinfo=UTC)]})
        run(lake, make_job("history", key=("k",)), taken, "own")


def test_a_history_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mode history needs key"):
        job_of(tmp_path, {"a.sql": sql_file("SELECT 1 AS a", mode="history")})


BALANCE = """
SELECT $date AS day, coalesce((SELECT max(total) FROM reports.a WHERE day < $date), 0) + count(*) AS total
FROM s.events WHERE time >= $start AND time < $end
"""


def own_output(directory: Path, **header: Any) -> tuple[Config, Job]:
    columns = {"columns": "{day: DATE, total: BIGINT}", "mode": "overwrite_partitions", "partition_by": "day", **header}
    text = sql_file(BALANCE.strip(), **{name: value for name, value in columns.items() if value is not None})
    config = make_project(directory, {"a.sql": text})
    return config, load_project(config).jobs["a"]


def test_a_job_may_read_its_own_output(tmp_path: Path) -> None:
    config, job = own_output(tmp_path)
    lake = make_lake(tmp_path)
    land(lake, event_rows(5))
    for number, day in enumerate((12, 13, 12)):
        perform(config, job, daily(date(2015, 9, day)), f"r{number}", 1, lambda line: None)
    rows = lake.read("reports.a").sort_by("day")
    assert rows["total"].to_pylist() == [5, 5]
    days = [daily(date(2015, 9, day)) for day in (14, 13)]
    nodes = plan(read_project(config).graph, {"a": job}, {"a": days}, "", "").nodes
    assert nodes[1].needs == {nodes[0].key}


def test_a_job_on_its_own_output_says_what_it_has_at_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the job reads its own output: a → a; expected `columns`"):
        own_output(tmp_path, columns=None)
