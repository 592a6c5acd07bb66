"""Windows over real events: another engine's golden outputs, and Wikipedia edits against DuckDB."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from eagleray.actors.window.state import WindowState
from eagleray.cluster.sections import WindowConfig
from eagleray.cluster.windowing.definition import parse_window
from eagleray.cluster.windowing.event_columns import Batch
from eagleray.cluster.windowing.merge import close, select
from eagleray.cluster.windowing.watermark import NEVER
from tests.oracle import parse_us

DATA = Path(os.environ.get("EAGLERAY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
HOUR, MINUTE, SECOND = 3_600_000_000, 60_000_000, 1_000_000


def lines(name: str) -> list[dict[str, Any]]:
    if not (DATA / name).exists():
        pytest.skip(f"no {name} in {DATA}; set EAGLERAY_TEST_DATA to a directory that has it")
    data = (DATA / name).read_bytes()
    return [json.loads(line) for line in (gzip.decompress(data) if name.endswith(".gz") else data).splitlines()]


def windowed(events: pa.Table, config: WindowConfig, partitions: int = 3, size: int = 5_000) -> pa.Table:
    """All windows of `events` (with `_time`), spread over partitions and chunks, nothing late."""
    spec = parse_window("t", "w", config, events.schema)
    states = [WindowState(spec, events.schema, 0) for _ in range(partitions)]
    for number, begin in enumerate(range(0, events.num_rows, size)):
        part = events.slice(begin, size)
        part = part.append_column("_offset", pa.array(np.full(part.num_rows, number)))
        part = part.append_column("_row", pa.array(np.arange(part.num_rows, dtype=np.int32)))
        states[number % partitions].add(Batch(part, number % partitions), np.full(part.num_rows, NEVER))
    layout = states[0].layout
    sent = [select(layout, state.tables(state.runs, NEVER, None), 0, NEVER, None) for state in states]
    return close(layout, sent, 0, NEVER, -NEVER).rows


def us(table: pa.Table, name: str) -> list[int]:
    return table.column(name).cast(pa.int64()).to_pylist()


def test_rides_by_hour_equal_the_golden_output() -> None:
    rows = lines("golden/arroyo/inputs/cars.json")
    columns = {"_time": [parse_us(r["timestamp"]) for r in rows], "event_type": [r["event_type"] for r in rows]}
    config = WindowConfig(tumble=HOUR, group_by=("event_type",), aggregate={"count": "count()"})
    found = windowed(pa.table(columns), config, size=700)
    golden = lines("golden/arroyo/golden_outputs/hourly_by_event_type.json")
    assert sorted(
        zip(us(found, "window_start"), found["event_type"].to_pylist(), found["count"].to_pylist(), strict=True)
    ) == sorted((parse_us(row["hour"]), row["event_type"], row["count"]) for row in golden)


def test_sessions_of_a_counter_equal_the_golden_output() -> None:
    rows = lines("golden/arroyo/inputs/impulse.json")
    users = [0 if row["counter"] % 10 == 0 else row["counter"] for row in rows]
    events = pa.table({"_time": [parse_us(row["timestamp"]) for row in rows], "user_id": users})
    config = WindowConfig(session_gap=20 * SECOND, group_by=("user_id",), aggregate={"rows": "count()"})
    found = windowed(events, config, size=9)
    golden = lines("golden/arroyo/golden_outputs/session_window.json")
    columns = (us(found, "window_start"), us(found, "window_end"), found["user_id"], found["rows"])
    assert sorted(zip(*(c if isinstance(c, list) else c.to_pylist() for c in columns), strict=True)) == sorted(
        (parse_us(row["start"]), parse_us(row["end"]), row["user_id"], row["rows"]) for row in golden
    )


@pytest.fixture(scope="module")
def edits() -> pa.Table:
    rows = lines("events/wikipedia/wikiticker-2015-09-12-sampled.json.gz")
    names = ("channel", "page", "user", "delta", "added", "regionName")
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names}
    return pa.table({"_time": [parse_us(row["time"]) for row in rows], **columns})


@pytest.fixture
def sql(edits: pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.register("edits", edits)
        yield connection


def as_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    times = [us(table, "window_start"), us(table, "window_end")]
    rest = [table.column(name).to_pylist() for name in table.column_names[2:]]
    return sorted(zip(*times, *rest, strict=True), key=repr)


def test_edits_by_channel_equal_duckdb(edits: pa.Table, sql: duckdb.DuckDBPyConnection) -> None:
    aggregate = {"edits": "count()", "places": "count(regionName)", "added": "sum(added)", "low": "min(delta)"}
    aggregate |= {"high": "max(page)", "users": "approx_distinct(user)", "median": "quantile(delta, 0.5)"}
    config = WindowConfig(tumble=MINUTE, group_by=("channel",), aggregate=aggregate)
    found = windowed(edits, config)
    expected = sql.execute(f"""
        SELECT _time // {MINUTE} * {MINUTE} AS s, s + {MINUTE}, channel, count(*), count(regionName),
               sum(added)::BIGINT, min(delta), max(page), count(DISTINCT user),
               list_sort(list(delta))[1 + (count(delta) - 1) // 2] FROM edits GROUP BY ALL""").fetchall()
    exact = found.drop_columns(["users", "median"])
    assert as_rows(exact) == sorted((row[:8] for row in expected), key=repr)
    approximate = {row[:3]: row[-2:] for row in as_rows(found)}
    for *key, users, median in ((*row[:3], *row[8:]) for row in expected):
        found_users, found_median = approximate[tuple(key)]
        assert abs(found_users - users) <= max(1, 0.03 * users)
        assert found_median == pytest.approx(median, rel=0.01)


def test_edits_by_page_in_hopping_windows_equal_duckdb(edits: pa.Table, sql: duckdb.DuckDBPyConnection) -> None:
    config = WindowConfig(hop=5 * MINUTE, every=MINUTE, group_by=("page",), aggregate={"edits": "count()"})
    expected = sql.execute(f"""
        SELECT (_time // {MINUTE} - k) * {MINUTE} AS s, s + 5 * {MINUTE}, page, count(*)
        FROM edits, range(5) AS r(k) GROUP BY ALL""").fetchall()
    assert as_rows(windowed(edits, config)) == sorted(expected, key=repr)


def test_user_sessions_equal_duckdb(edits: pa.Table, sql: duckdb.DuckDBPyConnection) -> None:
    gap = 30 * MINUTE
    aggregate = {"edits": "count()", "added": "sum(added)", "first": "first(page)"}
    config = WindowConfig(session_gap=gap, group_by=("user",), aggregate=aggregate)
    expected = sql.execute(f"""
        WITH numbered AS (
            SELECT *, row_number() OVER () AS n FROM edits),
        marked AS (
            SELECT *, coalesce(_time - lag(_time) OVER (PARTITION BY user ORDER BY _time) > {gap}, true) AS begins
            FROM numbered),
        counted AS (
            SELECT *, count(*) FILTER (begins) OVER (PARTITION BY user ORDER BY _time) AS session FROM marked)
        SELECT min(_time), max(_time) + {gap}, user, count(*), sum(added)::BIGINT
        FROM counted GROUP BY user, session""").fetchall()
    assert as_rows(windowed(edits, config).drop_columns(["first"])) == sorted(expected, key=repr)
