"""Pruning: only files that can matter are read, and no answer ever depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eagleray.sql.session as opened_module
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.lake.predicate import EVERYTHING, Predicate
from eagleray.cluster.lake.scan import Pinned, ScanPlan
from eagleray.sql.query import Sql
from tests.examples import examples
from tests.lake_tables import NOON_US, SCHEMA, TIME, event_rows, make_lake, make_stream
from tests.sql_lake import land, rows

HOUR_US = 3_600_000_000


@pytest.fixture(scope="module", params=["direct", "through Iceberg's reader"])
def sql(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sql]:
    """Eight commits: n rises, d has infinities and nulls, the table is partitioned by hour and channel."""
    directory = tmp_path_factory.mktemp("lake" if request.param == "direct" else "lake[0]")
    more = [
        pa.field("channel", pa.string()),
        pa.field("d", pa.float64()),
        pa.field("id.orig", pa.string()),
        pa.field("ok", pa.bool_()),
        pa.field("day", pa.date32()),
        pa.field("actor", pa.struct([("login", pa.string())])),
    ]
    stream = make_stream(pa.schema([*SCHEMA, *more]), lake={"partition_by": ["hour(time)", "channel"]})
    lake = make_lake(directory, stream)
    for i in range(8):
        numbers = range(i * 5, i * 5 + 5)
        columns: dict[str, Any] = {
            "time": pa.array([NOON_US + n * HOUR_US // 6 for n in numbers], TIME),
            "channel": [("#en", "#de", None)[i % 3]] * 5,
            "d": [float("inf") if n % 7 == 0 else None if n % 11 == 0 else n / 4 - 3 for n in numbers],
            "id.orig": [f"{'ü' if n > 30 else 'k'}{n:02}" if n % 9 else None for n in numbers],
            "ok": [n > 20 for n in numbers],
            "day": pa.array([n - 10 for n in numbers], pa.int32()).cast(pa.date32()),
            "actor": pa.array([{"login": f"u{n % 4}"} if n % 5 else None for n in numbers], more[-1].type),
        }
        land(lake, event_rows(5, i * 5, **columns))
    with Sql(lake.config) as opened:
        yield opened


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each table of each query is read from."""
    counts: list[int] = []
    plan = Pinned.plan

    def counted(table: Pinned, predicate: Predicate = EVERYTHING) -> ScanPlan:
        found = plan(table, predicate)
        counts.append(len(found.files))
        return found

    monkeypatch.setattr(Pinned, "plan", counted)
    return counts


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("SELECT * FROM s.events", 16),
        ("SELECT n FROM s.events WHERE n = 12", 1),
        ("SELECT n FROM s.events WHERE n IN (1, 39)", 2),
        ("SELECT n FROM s.events WHERE n BETWEEN 5 AND 9 AND user IS NOT NULL", 2),
        ("SELECT n FROM s.events WHERE n < 5 OR n >= 35", 4),
        ("SELECT n FROM s.events WHERE time < '2015-09-12T13:00:00Z'", 2),
        ("SELECT n FROM s.events WHERE time >= '2015-09-12T18:00:00Z'", 1),
        ("SELECT n FROM s.events WHERE date_trunc('hour', time) = '2015-09-12T13:00:00Z'", 3),
        ("SELECT n FROM s.events WHERE channel = '#de'", 6),
        ("SELECT n FROM s.events WHERE channel IS NULL", 5),
        ("SELECT n FROM s.events WHERE channel > '#de'", 6),
        ("SELECT n FROM s.events WHERE \"id.orig\" LIKE 'ü%'", 4),
        ("SELECT n FROM s.events WHERE d < -2", 2),
        ("SELECT n FROM s.events WHERE ok AND n < 25", 2),
        ("SELECT n FROM s.events WHERE day = DATE '1970-01-01'", 1),
        ("WITH e AS (SELECT n, user FROM s.events) SELECT * FROM e WHERE n = 3", 1),
        ("SELECT n, (SELECT count(*) FROM s.late l WHERE l._row = e.n) FROM s.events e WHERE n = 3 ORDER BY n", 1),
        ("SELECT max(n) FROM s.events WHERE n < (SELECT 7) AND n < 5", 2),
    ],
)
def test_files_that_cannot_match_are_not_read(sql: Sql, read: list[int], text: str, most: int) -> None:
    rows(sql, text)
    assert 1 <= read[-1] <= most


def test_each_table_of_a_join_is_pruned_by_what_the_join_implies(sql: Sql, read: list[int]) -> None:
    found = rows(sql, "SELECT a.n FROM s.events a JOIN s.events b ON a.n = b.n AND b.user = a.user WHERE a.n = 7")
    assert found == [{"n": 7}]
    assert read == [1]


CONDITIONS = [
    "n = 12", "n <> 12", "n > 17", "n <= 4", "n IN (3, 20, 99)", "n NOT IN (3, 20)", "n IS NULL", "n % 5 = 0",
    "d > 2", "d >= 2", "d < 0", "d = 'inf'", "d <> 1", "d IS NULL", "d < 'inf'", "NOT (d <= 3)", "isinf(d)", "d = 0.0",
    "channel = '#en'", "channel IS NULL", "channel <> '#en'", "channel IN ('#en', '#fr')", "channel > '#de'",
    "coalesce(channel, 'x') = 'x'", "channel IS DISTINCT FROM '#en'", "channel IS NOT DISTINCT FROM NULL",
    "\"id.orig\" LIKE 'k1%'", "\"id.orig\" >= 'ü'", "upper(\"id.orig\") = 'K12'", "\"id.orig\" BETWEEN 'k1' AND 'k2'",
    "time < '2015-09-12T13:00:00Z'", "time >= '2015-09-12T16:20:00Z'", "time::date = '2015-09-12'",
    "date_trunc('hour', time) = '2015-09-12T14:00:00Z'", "hour(time) = 13", "time > NULL",
    "ok", "NOT ok", "ok IS NULL", "day < '1970-01-03'", "day = DATE '1969-12-30'", "day + 1 = DATE '1970-01-05'",
    "actor IS NULL", "actor.login = 'u3'", "actor.login IS NULL", "user = 'user-2'", "true", "false", "NULL",
]  # fmt: skip

SHAPES = [
    "SELECT n, d, actor FROM s.events WHERE {0}",
    "SELECT count(*) AS c, sum(n) AS s, min(time) AS t FROM s.events WHERE {0}",
    "SELECT channel, count(*) AS c FROM s.events WHERE {0} GROUP BY channel HAVING max(n) > 3",
    "SELECT n FROM (SELECT * FROM s.events WHERE {0}) WHERE {1}",
    "WITH e AS (FROM s.events) SELECT n FROM e WHERE {0} UNION ALL SELECT -n FROM e WHERE {1}",
    "WITH e AS MATERIALIZED (FROM s.events) SELECT n FROM e WHERE {0} EXCEPT SELECT n FROM e WHERE {1}",
    "SELECT a.n, b.x FROM s.events a LEFT JOIN (SELECT n AS x FROM s.events WHERE {1}) b ON a.n = b.x WHERE {0}",
    "SELECT a.n, x FROM (FROM s.events WHERE {1}) a RIGHT JOIN (SELECT n AS x FROM s.events WHERE {0}) b ON a.n = b.x",
    "SELECT n, x FROM (FROM s.events WHERE {1}) a FULL JOIN (SELECT n AS x FROM s.events) b ON n = x WHERE {0}",
    "SELECT a.n FROM s.events a SEMI JOIN (FROM s.events WHERE {1}) b ON a.n = b.n WHERE {0}",
    "SELECT a.n FROM s.events a ANTI JOIN (FROM s.events WHERE {1}) b ON a.n = b.n WHERE {0}",
    "SELECT n FROM s.events WHERE {0} AND n IN (SELECT n + 1 FROM s.events WHERE {1})",
    "SELECT n FROM s.events WHERE {0} OR NOT EXISTS (FROM s.events b WHERE b.n = s.events.n + 1 AND {1})",
    "SELECT n, (SELECT count(*) FROM (FROM s.events WHERE {1}) b WHERE b.n < a.n) AS c FROM s.events a WHERE {0}",
    "SELECT n, x FROM (FROM s.events WHERE {0}) a ASOF JOIN (SELECT n AS x FROM s.events WHERE {1}) b ON n >= x",
    "SELECT n, lag(n) OVER (ORDER BY n) AS before FROM s.events WHERE {0} QUALIFY {1}",
    "SELECT * FROM (SELECT n, row_number() OVER (PARTITION BY channel ORDER BY n) AS n2, d, ok, actor, channel, time,"
    " day, user, \"id.orig\" FROM s.events WHERE {0}) WHERE {1} AND n2 < 3",
    "SELECT n FROM s.events WHERE ({0}) AND ({1}) ORDER BY n DESC LIMIT 3",
    "SELECT n FROM s.events WHERE ({0}) OR ({1})",
    "SELECT n FROM s.events WHERE NOT (({0}) OR NOT ({1}))",
    "SELECT n FROM s.events WHERE CASE WHEN {0} THEN {1} ELSE n = 3 END",
]  # fmt: skip


def outcome(sql: Sql, text: str) -> object:
    """The rows in a comparable order (NaN equals NaN), or the error."""
    try:
        return sorted(map(str, rows(sql, text)))
    except EaglerayError as error:
        return str(error)


@examples(20)
@given(shape=st.sampled_from(SHAPES), first=st.sampled_from(CONDITIONS), second=st.sampled_from(CONDITIONS))
def test_pruning_never_changes_an_answer(sql: Sql, shape: str, first: str, second: str) -> None:
    text = shape.format(first, second)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened_module, "predicates", lambda *_: ({}, None))
        whole = outcome(sql, text)
    assert outcome(sql, text) == whole


def test_a_plan_that_cannot_be_written_down_prunes_nothing_and_answers(sql: Sql, read: list[int]) -> None:
    """DuckDB writes NaN as a bare word into its plan."""
    assert rows(sql, "SELECT n FROM s.events WHERE d < 'nan' AND n = 8") == [{"n": 8}]
    assert rows(sql, "SELECT count(*) AS c FROM s.events") == [{"c": 40}]
    assert read[0] == read[1]
