# ruff: noqa: E501
"""One keyword changes the engine: Daft's rows are DuckDB's, in the same types, or the statement is refused."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from io import StringIO
from math import isclose
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray.cluster.errors import JobFailed
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.jobs.model import EngineName
from eagleray.sql.tables import Declared
from tests.jobs_project import produce, sql_job
from tests.lake_tables import SCHEMA, event_rows, make_lake, make_stream
from tests.sql_lake import land

pytest.importorskip("daft")

STATEMENTS = [
    "SELECT n, user FROM s.events WHERE n > 3 AND user <> 'user-1'",
    "SELECT n FROM s.events WHERE q IS NULL OR price IS NULL",
    "SELECT n FROM s.events WHERE time >= $start + INTERVAL '12' HOUR AND time < $end AND n < 9",
    "SELECT n FROM s.events WHERE time >= $start AND time < $end AND day > DATE '2013-10-30'",
    "SELECT n FROM s.events WHERE time < $start UNION ALL SELECT n FROM s.events WHERE day < DATE '2013-11-30' OR q = 1",
    "SELECT n FROM s.events WHERE day IN (DATE '2013-10-30', DATE '2013-11-05') OR day IS NULL",
    "SELECT n FROM s.events WHERE day < DATE '9999-12-30' + INTERVAL '3' DAY AND time >= $start",
    "SELECT $start AS a, $end AS b, $date AS c, n FROM s.events WHERE n < 2",
    "SELECT user, count(*) AS c, count(q) AS q, sum(n) AS s, min(time) AS t, avg(n) AS a FROM s.events GROUP BY user",
    "SELECT q, sum(price) AS s, avg(price) AS a, min(price) AS l, max(price * (1 - price)) AS m FROM s.events GROUP BY q",
    "SELECT sum(q) AS q, count(DISTINCT user) AS u FROM s.events",
    "SELECT n, price + 1 AS a, price * 2 AS b, price - price AS c FROM s.events",
    "SELECT sum(CASE WHEN q = 1 THEN price * 2 ELSE 0 END) AS s, sum(CASE WHEN q = 1 THEN q ELSE 0 END) AS i FROM s.events",
    "SELECT events.user, o.n FROM s.events JOIN s.events o ON events.n = o.n + 1 WHERE events.n < 9",
    "SELECT a.n, b.q FROM s.events a LEFT JOIN (SELECT n, q FROM s.events WHERE n > 50) b ON a.n = b.n",
    "SELECT a.user, b.u FROM s.events a FULL JOIN s.users b ON a.user = b.u",
    "SELECT user, n FROM s.events WHERE user IN (SELECT u FROM s.users)",
    "SELECT user, n FROM s.events WHERE user NOT IN (SELECT u FROM s.users)",
    "SELECT n FROM s.events WHERE n = (SELECT max(n) FROM s.events)",
    "WITH t AS (SELECT q, sum(n) AS s FROM s.events GROUP BY q) SELECT t.q, t.s FROM t WHERE t.s > 10",
    "SELECT n, sum(n) OVER (PARTITION BY user ORDER BY n) AS w FROM s.events",
    "SELECT n, sum(n) OVER (PARTITION BY user ORDER BY n DESC) AS w, sum(n) OVER (PARTITION BY user) AS a FROM s.events",
    "SELECT n, row_number() OVER (PARTITION BY user ORDER BY q DESC, n) AS w FROM s.events",
    "SELECT n, rank() OVER (PARTITION BY user ORDER BY q) AS w, lag(n) OVER (PARTITION BY user ORDER BY n) AS l FROM s.events",
    "SELECT n FROM s.events ORDER BY q DESC, n DESC LIMIT 40",
    "SELECT n FROM s.events ORDER BY q, n DESC LIMIT 7",
    "SELECT DISTINCT q, user FROM s.events",
    "SELECT n FROM s.events WHERE n < 3 UNION ALL SELECT n FROM s.events WHERE n > 97",
    "SELECT date_trunc('day', time) AS d, count(*) AS c FROM s.events GROUP BY 1",
    "SELECT CAST(time AS DATE) AS d, hour(time) AS h, n FROM s.events WHERE n < 3",
    "SELECT coalesce(q, 0) AS q, n % 3 AS m, abs(n) AS a, n / 2 AS h, upper(user) AS u FROM s.events",
    "SELECT q, count(*) AS c FROM s.events GROUP BY q HAVING count(*) > 3",
    "SELECT n FROM s.events WHERE 0.1 + 0.2 = 0.3 AND 0.1 * 3 = 0.3 AND n - 0.25 > 0.3 - 0.1 - q",
    "SELECT n FROM s.events WHERE price BETWEEN 0.7 + 0.05 AND 0.05 - 0.1 + price",
    "SELECT n, price + 0.1 AS a, 0.125 - price AS b, (price - 0.7) * 1.05 AS c FROM s.events",
    "SELECT n FROM s.events WHERE price + 0.1 = 0.3 OR price * 1.1 = 0.77 OR 1.0 - price = 0.3",
    "SELECT q, sum(price) * 1.5 AS s, max(price + 0.2) - 0.1 AS m FROM s.events GROUP BY q",
    "SELECT n FROM s.events WHERE false",
    "SELECT n, row_number() OVER (ORDER BY n) AS w FROM s.events ORDER BY n LIMIT 3",
    "SELECT DISTINCT sum(n) OVER (PARTITION BY q) AS w FROM s.events",
    "SELECT n FROM s.events UNION ALL SELECT n FROM s.events ORDER BY n LIMIT 3",
    "SELECT n FROM s.events WHERE q NOT IN (SELECT q FROM s.events)",
    "SELECT n FROM s.events QUALIFY row_number() OVER (PARTITION BY user ORDER BY n) = 1",
    "SELECT n FROM s.events WHERE n > (0.1 + 0.2) * 3",
    "SELECT n FROM s.events e WHERE EXISTS (SELECT 1 FROM s.users u WHERE u.u = e.user)",
    "SELECT n FROM s.events e WHERE NOT EXISTS (SELECT 1 FROM s.users u WHERE u.u = e.user)",
    "SELECT n FROM s.events e WHERE n > (SELECT avg(n) FROM s.events f WHERE f.user = e.user)",
    "SELECT user, count(*) FILTER (WHERE q = 1) AS c, sum(n) FILTER (WHERE q = 2) AS d FROM s.events GROUP BY ALL",
    "SELECT q FROM s.events EXCEPT SELECT 1",
    "SELECT count(*) AS c FROM s.events",
    "SELECT user, n FROM s.events ORDER BY price DESC NULLS FIRST, n LIMIT 5 OFFSET 2",
]  # fmt: skip
REFUSED = {
    "SELECT avg(DISTINCT price) AS a FROM s.events": "Daft cannot be trusted with the aggregate avg distinct",
    "SELECT n, user FROM s.events ORDER BY n LIMIT (SELECT 3)": "Daft cannot be trusted with",
    "SELECT DISTINCT ON (user) user, n FROM s.events ORDER BY user, n": "Daft cannot be trusted with",
    "SELECT stddev(n) AS d FROM s.events": "Daft cannot be trusted with the aggregate stddev",
    "SELECT nope FROM s.events": '"nope" not found',
    "DELETE FROM s.events": "DELETE is not allowed",
}  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    more = [pa.field("price", pa.decimal128(12, 2)), pa.field("q", pa.int32()), pa.field("day", pa.date32())]
    made = make_lake(tmp_path_factory.mktemp("lake"), make_stream(pa.schema([*SCHEMA, *more])))
    for first in (0, 60):
        numbers = range(first, first + 60)
        prices = [None if number % 7 == 0 else Decimal(number) / 4 for number in numbers]
        columns = {
            "price": pa.array(prices, pa.decimal128(12, 2)),
            "q": pa.array([number % 4 or None for number in numbers], pa.int32()),
            "day": pa.array([16_000 + number for number in numbers], pa.int32()).cast(pa.date32()),
        }
        land(made, event_rows(60, first, **columns))
    users = made._catalog.create_table("s.users", pa.schema([("u", pa.string())]))
    users.append(pa.table({"u": ["user-1", "user-3", "nobody"]}))
    yield made


def rows(lake: Lake, statement: str, engine: EngineName, temp: Path) -> tuple[pa.Schema, list[tuple[Any, ...]]]:
    job = sql_job(statement, "s.events", "s.users", engine=engine)
    table = produce(lake.config, job, temp)
    listed = [tuple(row.values()) for row in table.to_pylist()]
    return table.schema, sorted(listed, key=lambda row: [(v is None, str(v)) for v in row if not isinstance(v, float)])


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(
        isclose(a, b) if isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("statement", STATEMENTS)
def test_daft_has_the_rows_and_types_of_duckdb(lake: Lake, tmp_path: Path, statement: str) -> None:
    schema, expected = rows(lake, statement, "duckdb", tmp_path)
    found_schema, found = rows(lake, statement, "daft", tmp_path)
    assert found_schema == schema
    assert len(found) == len(expected)
    assert [pair for pair in zip(expected, found, strict=True) if not same(*pair)] == []


@pytest.mark.parametrize("statement", REFUSED)
def test_what_daft_would_answer_differently_is_refused(lake: Lake, tmp_path: Path, statement: str) -> None:
    with pytest.raises(JobFailed) as failed:
        produce(lake.config, sql_job(statement, "s.events", engine="daft", line=5), tmp_path)
    assert REFUSED[statement] in failed.value.message
    assert failed.value.line == 5 and failed.value.engine == "daft" and not failed.value.retryable


@pytest.mark.parametrize(
    ("condition", "files"),
    [
        ("n >= 60", 1),
        ("day >= DATE '2013-10-22' + INTERVAL '60' DAY", 1),
        ("time < TIMESTAMPTZ '2015-09-12 00:00:00.000000+00'", 0),
        ("day < DATE '2013-11-01' OR q = 1", 2),
    ],
)
def test_daft_reads_no_files_of_other_times(lake: Lake, condition: str, files: int) -> None:
    from eagleray.jobs.engines.daft import select

    tables = {name: Declared(table) for name, table in open_snapshots(lake.config).pin(["s.events"]).items()}
    plan = StringIO()
    select(f"SELECT n FROM s.events WHERE {condition}", tables).explain(True, file=plan)
    assert plan.getvalue().count(".parquet") == files


def test_a_task_reads_what_the_least_node_has_memory_for() -> None:
    from eagleray.jobs.engines.daft import _task_bytes

    large, small, idle = {"CPU": 2.0, "memory": 64e9}, {"CPU": 16.0, "memory": 64e9}, {"CPU": 0.0, "memory": 1e9}
    assert _task_bytes([large]) == 8e9
    assert _task_bytes([large, small, idle, {}]) == 1e9


def test_an_incremental_job_reads_what_arrived(lake: Lake, tmp_path: Path) -> None:
    job = sql_job("SELECT n FROM s.events", mode="incremental", engine="daft")
    found = produce(lake.config, job, tmp_path, since={"s.events": {"p0": 118}})
    assert sorted(found["n"].to_pylist()) == [118, 119]


def test_an_empty_table_has_its_columns(tmp_path: Path) -> None:
    config = make_lake(tmp_path).config
    table = produce(config, sql_job("SELECT user, sum(n) AS s FROM s.events GROUP BY user", engine="daft"), tmp_path)
    assert table.schema == pa.schema([("user", pa.string()), ("s", pa.int64())]) and table.num_rows == 0
