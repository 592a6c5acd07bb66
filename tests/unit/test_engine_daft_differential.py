"""Whatever the statement: Daft has the rows of DuckDB, or it is refused; and it is hardly ever refused.

75 drawn statements here, NIGHTLY_STATEMENTS in the profile `nightly`. What differed once is in KNOWN.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import settings

from eagleray.cluster.errors import JobFailed
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.replace import Change
from eagleray.jobs.model import EngineName
from tests.jobs_project import produce, sql_job
from tests.published import open_lake
from tests.sql_statements import Statements, edge_rows

pytest.importorskip("daft")
TABLE = "edge.rows"
STATEMENTS = 75
NIGHTLY_STATEMENTS = 10_000
LEAST_SHARE = 0.9  # of statements that DuckDB can answer

KNOWN = [
    "SELECT k, CASE WHEN b THEN 'y' ELSE 'n' END AS c FROM edge.rows",
    "SELECT sum(CASE WHEN s = 'hello' THEN 0 ELSE 1 END) AS c FROM edge.rows",
    "SELECT k, substr('hello', 1, 2) AS c FROM edge.rows",
    "SELECT k FROM edge.rows WHERE b IS NOT TRUE",
    "SELECT k FROM edge.rows WHERE b IS NOT FALSE",
    "SELECT k, concat(s, '!') AS c FROM edge.rows",
    "SELECT k, CAST(DATE '2026-01-05' AS VARCHAR) AS c, CAST(d AS VARCHAR) AS e FROM edge.rows",
    "SELECT k, CAST(2.50 AS INTEGER) AS c, CAST(p / 2 AS INTEGER) AS e FROM edge.rows WHERE p < 10",
    "SELECT k, CAST(s AS INTEGER) AS c FROM edge.rows",
    "SELECT n * 9223372036854775807 AS c FROM edge.rows",
    "SELECT sum(n) AS c FROM edge.rows WHERE n > 0",
    "SELECT sum(n) + sum(n) AS c FROM edge.rows WHERE n > 1",
    "SELECT f, count(*) AS c FROM edge.rows GROUP BY f",
    "SELECT DISTINCT f FROM edge.rows",
    "SELECT min(f) AS a, max(f) AS b FROM edge.rows",
    "SELECT k FROM edge.rows WHERE NOT isnan(f)",
    "SELECT k FROM edge.rows WHERE f > 2",
    "SELECT k, f FROM edge.rows ORDER BY f DESC, k LIMIT 7",
    "SELECT count(*) AS c FROM edge.rows",
    "SELECT a.k, b.k AS m FROM edge.rows a JOIN edge.rows b ON a.f = b.f",
    "SELECT k, f FROM edge.rows WHERE f < k / 0 ORDER BY f DESC NULLS LAST, k LIMIT 1",
    "SELECT a.n, a.k, b.k AS m FROM edge.rows b JOIN edge.rows a ON b.k = a.k + 1 WHERE a.n > b.k ORDER BY m LIMIT 3",
    "SELECT s, max(n) AS n FROM (SELECT s, k AS n, n AS k FROM edge.rows WHERE k > n % 7) GROUP BY s HAVING sum(k) > 3",
    "SELECT a.k, b.k AS m FROM edge.rows a JOIN edge.rows b ON a.s IS NOT DISTINCT FROM b.s",
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    made = open_lake(tmp_path_factory.mktemp("edge"))
    rows = edge_rows(40)
    made.ensure_output(TABLE, rows.schema)
    for part in (rows.slice(0, 25), rows.slice(25)):
        made.replace(TABLE, Change(added=made.write(TABLE, part)))
    yield made


def answer(lake: Lake, statement: str, engine: EngineName, temp: Path) -> pa.Table | str:
    """The rows; the message where it is refused or fails."""
    try:
        return produce(lake.config, sql_job(statement, TABLE, engine=engine), temp)
    except JobFailed as error:
        return error.message


def plain(table: pa.Table) -> Counter[tuple[Any, ...]]:
    """Rows that can be counted: of numbers with a fraction, twelve digits, and NaN equal to itself."""

    def value(one: Any) -> Any:
        if not isinstance(one, float):
            return one
        return "nan" if math.isnan(one) else one + 0.0 if math.isinf(one) else float(f"{one:.12g}") + 0.0

    return Counter(tuple(map(value, row.values())) for row in table.to_pylist())


def differs(expected: pa.Table | str, found: pa.Table | str) -> str | None:
    """How Daft's answer differs from DuckDB's; None: it does not, or is a refusal."""
    if isinstance(found, str):
        return None
    if isinstance(expected, str):
        return f"DuckDB: {expected[:200]}; Daft has {found.num_rows} rows"
    if found.schema != expected.schema:
        return f"{expected.schema} is not {found.schema}"
    more, less = plain(found) - plain(expected), plain(expected) - plain(found)
    return f"Daft has {list(more)[:3]} and not {list(less)[:3]}" if more or less else None


@pytest.mark.parametrize("statement", KNOWN)
def test_what_differed_once_is_the_same(lake: Lake, tmp_path: Path, statement: str) -> None:
    expected, found = (answer(lake, statement, engine, tmp_path) for engine in ("duckdb", "daft"))
    assert differs(expected, found) is None
    assert isinstance(expected, str) == isinstance(found, str) or "beyond 64 bits" in str(found)


@pytest.mark.timeout(36_000)
def test_drawn_statements_are_the_same_or_refused(lake: Lake, tmp_path: Path) -> None:
    nightly = settings.get_current_profile_name() == "nightly"
    drawn = Statements(2026, TABLE)
    wrong: list[str] = []
    refused: Counter[str] = Counter()
    answered = 0
    for _ in range(NIGHTLY_STATEMENTS if nightly else STATEMENTS):
        statement = drawn.statement()
        expected, found = (answer(lake, statement, engine, tmp_path) for engine in ("duckdb", "daft"))
        if how := differs(expected, found):
            wrong.append(f"{statement}: {how}")
        if not isinstance(expected, str):
            answered += 1
            refused[found[:160] if isinstance(found, str) else ""] += isinstance(found, str)
    assert not wrong, "\n".join(wrong[:20])
    assert refused.total() <= (1 - LEAST_SHARE) * answered, refused.most_common(20)
    assert answered > STATEMENTS / 2
