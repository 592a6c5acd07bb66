"""Rebuilt windows equal the stream's for events that were on time, bit by bit, and count those that were late."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.actors.window.state import WindowState
from eagleray.cluster.clock import iso
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.stream import Stream, load_streams
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.progress import CLOSED, NEVER
from eagleray.cluster.windowing.event_columns import Batch
from eagleray.cluster.windowing.merge import close, select
from eagleray.jobs.builtin import rebuild
from tests.examples import examples
from tests.lake_tables import NOON_US, TIME

S = 1_000_000
PROJECT = """
data_dir: ./data
streams:
  plays:
    schema: plays.schema.json
    time: at
    allowed_lateness: 5s
    filter: "coalesce(points, 0) <> 13"
    windows:
      flat: {tumble: 10s, group_by: [user], aggregate: &all {n: count(), total: sum(points), mean: avg(share),
        users: approx_distinct(user), p90: "quantile(share, 0.9)", first: first(points), last: last(points),
        low: min(user)}}
      sliding: {hop: 20s, every: 7s, aggregate: *all}
      sessions: {session_gap: 4s, group_by: [user], aggregate: *all}
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "at": {"type": "string", "format": "date-time"},
        "user": {"type": "string"},
        "points": {"type": "integer"},
        "share": {"type": "number"},
    },
    "required": ["at"],
}
KINDS = ("flat", "sliding", "sessions")
Event = tuple[int, str | None, int | None, float | None]
"""Second after noon, user, points, share."""


def project(directory: Path) -> tuple[Config, Stream, Lake]:
    directory.mkdir(exist_ok=True)
    (directory / "eagleray.yaml").write_text(PROJECT)
    (directory / "plays.schema.json").write_text(json.dumps(SCHEMA))
    config = load_config(directory / "eagleray.yaml")
    streams = load_streams(config)
    lake = Lake.open(config)
    lake.ensure(streams)
    return config, streams["plays"], lake


def columns(events: list[Event], partition: int, first: int) -> pa.Table:
    """As the log has them; `_offset` counts from `first`."""
    at, users, points, shares = zip(*events, strict=True) if events else ((), (), (), ())
    count = len(events)
    return pa.table(
        {
            "at": pa.array([NOON_US + second * S for second in at], TIME),
            "user": pa.array(users, pa.string()),
            "points": pa.array(points, pa.int64()),
            "share": pa.array(shares, pa.float64()),
            "_time": pa.array([NOON_US + second * S for second in at], pa.int64()),
            "_partition": pa.array([partition] * count, pa.int32()),
            "_offset": pa.array(range(first, first + count), pa.int64()),
            "_row": pa.array([0] * count, pa.int32()),
        }
    )


def land(lake: Lake, table: pa.Table) -> None:
    """Commit to `events`."""
    if not table.num_rows:
        return
    at = lake.progress("plays.events").get("p0", 0)
    system = {"_ingested_at": table["at"], "_source": pa.array(["x"] * table.num_rows)}
    rows = table.drop_columns(["_time"])
    for name, column in system.items():
        rows = rows.append_column(name, column)
    lake.commit("plays.events", lake.write("plays.events", rows), {"p0": at}, {"p0": at + 1})


def streamed(stream: Stream, name: str, logs: list[pa.Table], closed_us: int) -> pa.Table:
    """The rows that the window workers and the committer make of the logs, every event on time."""
    partials = []
    for number, log in enumerate(logs):
        state = WindowState(stream.windows[name], stream.log_schema, stream.config.allowed_lateness)
        kept = log.filter(pa.array([points != 13 for points in log["points"].to_pylist()], pa.bool_()))
        for start in range(0, kept.num_rows, 7):  # cut anyhow
            batch = Batch(kept.slice(start, 7), number)
            state.add(batch, np.full(batch.length, NEVER))
        tables = state.tables(state.runs, NEVER, closed_us)
        partials.append(select(state.layout, tables, stream.config.allowed_lateness, NEVER, closed_us))
    layout = WindowState(stream.windows[name], stream.log_schema, 0).layout
    return close(layout, partials, stream.config.allowed_lateness, NEVER, closed_us).rows


def write_windows(lake: Lake, stream: Stream, logs: list[pa.Table], closed_us: int) -> None:
    for name in KINDS:
        rows = streamed(stream, name, logs, closed_us)
        table = f"plays.{name}"
        lake.commit(table, lake.write(table, rows), {CLOSED: NEVER}, {CLOSED: closed_us})


def content(lake: Lake, name: str) -> list[Any]:
    return sorted((tuple(row.items()) for row in lake.read(f"plays.{name}").to_pylist()), key=repr)


def as_rows(rows: pa.Table) -> list[Any]:
    return sorted((tuple(row.items()) for row in rows.to_pylist()), key=repr)


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 90),
        st.sampled_from(["ann", "bob", "carl", None]),
        st.one_of(st.none(), st.integers(-20, 20)),
        st.one_of(st.none(), st.floats(-1e6, 1e6, allow_nan=False)),
    ),
    max_size=40,
)
CLOSED_US = NOON_US + 80 * S
OPTIONS = rebuild.RebuildOptions("plays", iso(NOON_US - 3600 * S), iso(NOON_US + 3600 * S))


@examples(8)
@given(logs=st.lists(EVENTS, min_size=2, max_size=2), late=EVENTS)
def test_rebuilt_rows_are_those_of_a_stream_in_which_nothing_was_late(
    tmp_path_factory: pytest.TempPathFactory, logs: list[list[Event]], late: list[Event]
) -> None:
    config, stream, lake = project(tmp_path_factory.mktemp("project"))
    tables = [columns(log, number, 0) for number, log in enumerate(logs)]
    for table in tables:
        land(lake, table)
    write_windows(lake, stream, tables, CLOSED_US)
    before = {name: content(lake, name) for name in KINDS}
    if tables[0].num_rows + tables[1].num_rows:
        rebuild.run(config, OPTIONS)
    assert {name: content(lake, name) for name in KINDS} == before
    more = columns(late, 0, len(logs[0]))
    land(lake, more)
    for _ in range(2):  # again changes nothing
        rebuild.run(config, OPTIONS)
        whole = [pa.concat_tables([tables[0], more]), tables[1]]
        for name in ("flat", "sliding"):
            assert content(lake, name) == as_rows(streamed(stream, name, whole, CLOSED_US))
        _assert_sessions(content(lake, "sessions"), as_rows(streamed(stream, "sessions", whole, CLOSED_US)), before)
    for name in KINDS:
        assert lake.progress(f"plays.{name}") == {CLOSED: CLOSED_US}


def _assert_sessions(found: list[Any], wanted: list[Any], before: dict[str, list[Any]]) -> None:
    """A session that a late event prolongs beyond what is closed is left to the stream, and its parts as they were."""
    assert set(wanted) <= set(found)
    assert all(row in before["sessions"] for row in set(found) - set(wanted))


def test_only_windows_of_the_range_are_touched(tmp_path: Path) -> None:
    config, stream, lake = project(tmp_path / "p")
    table = columns([(second, "ann", 1, 0.5) for second in (0, 11, 25, 39)], 0, 0)
    land(lake, table)
    write_windows(lake, stream, [table], CLOSED_US)
    land(lake, columns([(2, "ann", 10, None), (12, "ann", 10, None), (38, "ann", 10, None)], 0, 4))
    report = rebuild.run(
        config, rebuild.RebuildOptions("plays", iso(NOON_US + 10 * S), iso(NOON_US + 20 * S), ("flat",))
    )
    assert (report.rows_before, report.rows_after) == (1, 1)
    totals = [row["total"] for row in sorted(lake.read("plays.flat").to_pylist(), key=lambda row: row["window_start"])]
    assert totals == [1, 11, 1, 1]


def test_late_event_joins_two_sessions_beyond_the_range(tmp_path: Path) -> None:
    config, stream, lake = project(tmp_path / "p")
    table = columns([(second, "ann", 1, 0.5) for second in (0, 3, 6, 13, 16, 40)], 0, 0)
    land(lake, table)
    write_windows(lake, stream, [table], CLOSED_US)
    assert sorted(dict(row)["n"] for row in content(lake, "sessions")) == [1, 2, 3]
    land(lake, columns([(9, "ann", 1, 0.5)], 0, 6))
    at = NOON_US + 14 * S
    rebuild.run(config, rebuild.RebuildOptions("plays", iso(at), iso(at + S), ("sessions",)))
    assert sorted(dict(row)["n"] for row in content(lake, "sessions")) == [1, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (rebuild.RebuildOptions("nope", "2015-09-12", "2015-09-13"), "no stream is called 'nope'"),
        (rebuild.RebuildOptions("plays", "yesterday", "2015-09-13"), "expected ISO 8601"),
        (rebuild.RebuildOptions("plays", "2015-09-12", "2015-09-13", ("x",)), "it has flat, sliding, sessions"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: rebuild.RebuildOptions, message: str) -> None:
    config, _, _ = project(tmp_path / "p")
    with pytest.raises(ConfigError, match=message):
        rebuild.run(config, options)
