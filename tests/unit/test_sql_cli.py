"""`eagleray sql`: formats, exit codes, and no platform needed."""

from __future__ import annotations

import csv
import io
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from eagleray.cli.query_result import write
from eagleray.sql.limits import limited_memory, private_bytes
from eagleray.sql.query import Sql
from tests.lake_tables import event_rows, make_config, make_lake
from tests.sql_lake import land

PROGRAM = "import sys; from eagleray.cli.app import main; main(sys.argv[1:])"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("project")
    (directory / "eagleray.yaml").write_text("data_dir: data\n")
    land(make_lake(directory), event_rows(3))
    return directory


def eagleray(project: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, "sql", "-c", str(project / "eagleray.yaml"), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def printed(query: str, form: str, directory: Path) -> str:
    out = io.StringIO()
    with Sql(make_config(directory)) as sql:
        write(sql.query(query, 60), form, out)
    return out.getvalue()


def test_json_is_a_list_of_objects(project: Path) -> None:
    done = eagleray(project, "SELECT n, time FROM s.events ORDER BY n LIMIT 2", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [
        {"n": 0, "time": "2015-09-12T12:00:00Z"},
        {"n": 1, "time": "2015-09-12T12:00:01Z"},
    ]


def test_the_query_may_come_from_standard_input(project: Path) -> None:
    done = eagleray(project, "-", "--format", "csv", stdin="SELECT count(*) AS c\nFROM s.events -- all\n")
    assert (done.returncode, done.stdout) == (0, "c\n3\n")  # text mode reads CRLF as LF


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["DROP TABLE s.events"], 2, "DROP is not allowed"),
        (["SELECT * FROM s.event"], 2, "did you mean s.events"),
        (["SELECT 1", "--format", "xml"], 2, "xml"),
        (["SELECT count(*) FROM range(1000000000000)", "--timeout", "0.3"], 1, "time limit of 0.3 s"),
        (["SELECT md5(repeat('x', 900000000))", "--timeout", "0.1"], 1, "time limit of 0.1 s"),
        (["SELECT user::int FROM s.events"], 1, "Could not convert"),
    ],
)
def test_the_exit_code_says_whose_fault_it_is(project: Path, arguments: list[str], code: int, message: str) -> None:
    done = eagleray(project, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr and "leaked" not in done.stderr


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    done = eagleray(tmp_path, "SELECT 1")
    assert done.returncode == 2
    assert "eagleray.yaml" in done.stderr


def test_csv_follows_rfc_4180(tmp_path: Path) -> None:
    query = (
        """SELECT 1 AS n, 'a,"b"' AS "q,1", NULL AS none, '' AS empty, e'x\\ny' AS line, [1, 2] AS list, true AS b"""
    )
    text = printed(query, "csv", tmp_path)
    assert text == 'n,"q,1",none,empty,line,list,b\r\n1,"a,""b""",,"","x\ny","[1, 2]",true\r\n'
    assert list(csv.reader(io.StringIO(text, newline="")))[1] == ["1", 'a,"b"', "", "", "x\ny", "[1, 2]", "true"]


def test_a_table_is_for_people(tmp_path: Path) -> None:
    query = "SELECT range AS n, 'x' AS \"[bold]t\", '{\"a\":1}'::blob AS original, NULL AS none FROM range(2)"
    lines = printed(query, "table", tmp_path).splitlines()
    assert lines[0].split() == ["n", "[bold]t", "original", "none"]
    assert lines[2].split() == ["0", "x", '{"a":1}', "null"]
    assert lines[-1] == "2 rows"


def test_a_long_table_says_what_it_leaves_out(tmp_path: Path) -> None:
    lines = printed("SELECT range AS n FROM range(1500)", "table", tmp_path).splitlines()
    assert lines[-1] == "1500 rows; 500 not shown: --format csv prints all"


def test_no_rows_still_show_their_columns(tmp_path: Path) -> None:
    query = "SELECT 1 AS a, 2 AS b WHERE false"
    assert printed(query, "json", tmp_path) == "[]\n"
    assert printed(query, "csv", tmp_path) == "a,b\r\n"
    assert printed(query, "table", tmp_path).splitlines()[0].split() == ["a", "b"]


def test_explain_prints_the_plan_alone(project: Path) -> None:
    done = eagleray(project, "EXPLAIN SELECT user FROM s.events WHERE n = 1")
    assert "Filters: n = 1" in done.stdout
    assert "explain_key" not in done.stdout


def test_the_limit_on_memory_ends_with_the_query() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_memory(64 << 20):
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] < private_bytes() + (1 << 30)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
