"""Values of checks mean what is written in the header, whatever YAML and SQL would make of them, or are refused."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray.cluster.errors import QueryRejected
from eagleray.jobs.project.load import load_project
from eagleray.jobs.publish.checks import broken
from tests.jobs_project import make_project, sql_file
from tests.published import OUTPUT, make_job, open_lake, run

NAN = float("nan")
TEXTS = ["1.10", "1.1", "+1", "1", ".5", "0.5", "1e3", "010", "True", "true", "2026-01-05 00:00:00", "null", ""]


def bad(directory: Path, column: pa.Array, check: str) -> list[Any]:
    """The values of the column `c` that break the check, which is written in a header."""
    lake = open_lake(directory / "lake")
    run(lake, make_job("full"), pa.table({"c": column}))
    config = make_project(directory, {"a.sql": sql_file("SELECT 1 AS c", checks=f"\n  - {check}", output=OUTPUT)})
    found = broken(lake, load_project(config).jobs["a"], "main", 0)
    return [row["c"] for _, _, rows in found for row in rows]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_compared_as_it_is_written(tmp_path: Path, text: str) -> None:
    values = "''" if text == "" else "'null'" if text == "null" else text
    others = [other for other in TEXTS if other != text]
    assert bad(tmp_path, pa.array(TEXTS), f"accepted_values: {{column: c, values: [{values}]}}") == others


@pytest.mark.parametrize(
    ("column", "values", "others"),
    [
        (pa.array([True, False, None]), "[true]", [False]),
        (pa.array([True, False, None]), "['true']", [False]),
        (pa.array([1, 2, None]), "[1.0, '7']", [2]),
        (pa.array([9007199254740992, 9007199254740993]), "[9007199254740993]", [9007199254740992]),
        (pa.array([Decimal("1234567890123456.78")], pa.decimal128(20, 2)), "[1234567890123456.78]", []),
        (
            pa.array([Decimal("1234567890123456.79")], pa.decimal128(20, 2)),
            "[1234567890123456.78]",
            [Decimal("1234567890123456.79")],
        ),
        (pa.array([1.0, NAN, 0.1, -0.0, float("inf"), None, 2.0]), "[1, .nan, 0.1, 0, .inf]", [2.0]),
        (pa.array([0.1, 0.2], pa.float32()), "[0.1]", [pytest.approx(0.2)]),
        (pa.array([date(2026, 1, 5), date(2026, 1, 6)]), "[2026-01-05]", [date(2026, 1, 6)]),
        (
            pa.array([datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC)], pa.timestamp("us", "UTC")),
            "[2026-01-05 01:00:00+01:00]",
            [datetime(2026, 1, 6, tzinfo=UTC)],
        ),
    ],
)
def test_other_types_are_compared_as_what_they_are(
    tmp_path: Path, column: pa.Array, values: str, others: list[Any]
) -> None:
    assert bad(tmp_path, column, f"accepted_values: {{column: c, values: {values}}}") == others


@pytest.mark.parametrize(
    ("column", "check", "message"),
    [
        (pa.array([True]), "accepted_values: {column: c, values: [1]}", "c is BOOLEAN, which cannot be 1"),
        (pa.array([1]), "accepted_values: {column: c, values: [true]}", "c is BIGINT, which cannot be true"),
        (pa.array([1]), "accepted_values: {column: c, values: [1, soon]}", "c is BIGINT, which cannot be soon"),
        (
            pa.array([date(2026, 1, 5)]),
            "accepted_values: {column: c, values: [soon]}",
            "c is DATE, which cannot be soon",
        ),
        (pa.array([[1]]), "accepted_values: {column: c, values: [1]}", r"c is BIGINT\[\], which cannot be 1"),
        (pa.array([1]), "freshness: {column: c, within: 1d}", "c is BIGINT; expected a date or a time"),
    ],
)
def test_what_a_column_cannot_have_is_refused_by_the_checks_name(
    tmp_path: Path, column: pa.Array, check: str, message: str
) -> None:
    kind = check.partition(":")[0]
    with pytest.raises(QueryRejected, match=rf"check {kind}\(c\) of job a: the column {message}"):
        bad(tmp_path, column, check)


@pytest.mark.parametrize(
    "check",
    [
        "not_null: x",
        "unique: [c, x]",
        "accepted_values: {column: x, values: [1]}",
        "freshness: {column: x, within: 1d}",
    ],
)
def test_a_column_that_is_not_there_is_told_by_the_checks_name(tmp_path: Path, check: str) -> None:
    kind = check.partition(":")[0]
    with pytest.raises(QueryRejected, match=rf'check {kind}\(.*x\) of job a: Referenced column "x" not found'):
        bad(tmp_path, pa.array([1]), check)


def test_nulls_and_nan_in_unique_and_not_null(tmp_path: Path) -> None:
    column = pa.array([NAN, NAN, None, None, 0.0, -0.0, 1.0])
    found = bad(tmp_path, column, "unique: c")
    assert sorted(map(str, found)) == ["0.0", "nan"]
    assert bad(tmp_path / "other", column, "not_null: c") == [None, None]


@pytest.mark.parametrize("end", ["", ";", " ; -- of all", "-- of all\n", ";\n/* of; all */"])
def test_a_query_of_bad_rows_may_end_in_a_semicolon_and_comments(tmp_path: Path, end: str) -> None:
    query = f"SELECT * FROM {{table}} WHERE c > 1 {end}".replace("\n", "\n      ")
    assert bad(tmp_path, pa.array([1, 2]), f"sql: |\n      {query}") == [2]
