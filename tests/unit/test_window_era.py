"""Eras: no start of a window is in two of them, none is left out, and what did not change makes none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.config import load_config
from eagleray.cluster.events.stream import Stream, load_streams
from eagleray.cluster.windowing.assign import missed_windows, panes
from eagleray.cluster.windowing.changes import compare, settings_of
from eagleray.cluster.windowing.era import Definition, History, amended, decode_history, encode_history, live, present
from eagleray.cluster.windowing.watermark import FOREVER, NEVER

SECOND = 1_000_000
MINUTE = 60 * SECOND
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "t": {"type": "integer"},
        "k": {"type": "string"},
        "n": {"type": "integer"},
        "in": {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False},
    },
    "required": ["t"],
}
TUMBLE: dict[str, Any] = {"tumble": "1m", "group_by": ["k"], "aggregate": {"n": "count()"}}


@pytest.fixture
def streams(tmp_path: Path):
    def load(windows: dict[str, Any], schema: dict[str, Any] = SCHEMA, **settings: Any) -> Stream:
        (tmp_path / "s.json").write_text(json.dumps(schema))
        stream = {"schema": "s.json", "time": "t", "time_unit": "us", "windows": windows} | settings
        (tmp_path / "eagleray.yaml").write_text(yaml.safe_dump({"streams": {"s": stream}}))
        return load_streams(load_config(tmp_path / "eagleray.yaml", environ={}))["s"]

    return load


def definition(streams, window: dict[str, Any], **settings: Any) -> Definition:
    return Definition.of(streams({"w": window}, **settings), "w")


def test_before_any_event_a_definition_rules_all_time(streams) -> None:
    first, second = definition(streams, TUMBLE), definition(streams, TUMBLE | {"tumble": "5m"})
    (only,) = amended((), first, None, {})
    assert (only.from_us, only.until_us) == (NEVER, FOREVER)
    (only,) = amended((only,), second, None, {})
    assert (only.definition, only.from_us) == (second, NEVER)


@pytest.mark.parametrize(
    ("old", "new", "edge"),
    [
        (TUMBLE | {"tumble": "5m"}, TUMBLE, 15),  # an edge of both
        (TUMBLE, TUMBLE | {"tumble": "5m"}, 15),
        (TUMBLE | {"tumble": "2m"}, TUMBLE | {"tumble": "7m"}, 14),
        (TUMBLE | {"tumble": "1h"}, {"hop": "10m", "every": "1m", "aggregate": {"n": "count()"}}, 60),
        ({"hop": "10m", "every": "5m", "aggregate": {"n": "count()"}}, TUMBLE, 13),  # what began goes on
    ],
)
def test_the_boundary_is_the_first_edge_after_the_newest_event(streams, old, new, edge) -> None:
    history = amended((), definition(streams, old), None, {})
    history = amended(history, definition(streams, new), 12 * MINUTE, {"p0": 7})
    assert [(era.from_us, era.until_us) for era in history] == [(NEVER, edge * MINUTE), (edge * MINUTE, FOREVER)]
    assert history[1].at == {"p0": 7}
    assert history[1].floor_us == history[0].final_us > edge * MINUTE
    assert live(history, history[0].final_us) == history[1:] and live(history, history[0].final_us - 1) == history


def test_edges_that_meet_seldom_cut_the_last_window_short(streams) -> None:
    history = amended((), definition(streams, TUMBLE | {"tumble": "3599s"}), None, {})
    history = amended(history, definition(streams, TUMBLE | {"tumble": "3607s"}), 0, {})
    assert history[0].until_us == 3607 * SECOND


def test_a_change_undone_before_any_event_is_none(streams) -> None:
    first, second = definition(streams, TUMBLE), definition(streams, TUMBLE, allowed_lateness="1h")
    history = amended((), first, None, {})
    changed = amended(history, second, 100, {})
    assert amended(changed, second, 100, {}) == changed  # a second start with the same configuration
    assert [(e.definition.identity, e.from_us, e.until_us) for e in amended(changed, first, 100, {})] == [
        (first.identity, NEVER, FOREVER)
    ]
    removed = amended(history, None, 100, {})
    assert present(removed) is None and removed[0].until_us == MINUTE
    assert amended(removed, first, 100, {}) == history
    again = amended(removed, first, 10 * MINUTE, {})
    assert [(era.from_us, era.until_us) for era in again] == [(NEVER, MINUTE), (11 * MINUTE, FOREVER)]


def test_what_counts_alike_is_no_change(streams) -> None:
    first = amended((), definition(streams, TUMBLE | {"aggregate": {"n": "count()", "s": "sum( in.x )"}}), None, {})
    wider = json.loads(json.dumps(SCHEMA))
    wider["properties"]["in"]["properties"]["y"] = {"type": "string"}
    wider["properties"]["more"] = {"type": "number"}
    window = {"tumble": "60s", "group_by": ["k"], "aggregate": {"s": "sum(in.x)", "n": "count( )"}}
    same = definition(streams, window, schema=wider, idle_timeout="1h", key="k", dedup_horizon="5m")
    assert amended(first, same, 100, {}) == first
    assert decode_history("w", encode_history(first))[0].definition.identity == same.identity


def test_a_history_comes_back_from_its_text(streams) -> None:
    history = amended((), definition(streams, TUMBLE, filter="n > 1"), None, {})
    history = amended(
        history, definition(streams, {"session_gap": "5m", "aggregate": {"n": "count(in.x)"}}), 9, {"p1": 3}
    )
    found = decode_history("w", encode_history(history))
    assert [e.key for e in found] == [e.key for e in history]
    assert [(e.from_us, e.until_us, e.floor_us, dict(e.at), dict(e.ended_at)) for e in found] == [
        (e.from_us, e.until_us, e.floor_us, dict(e.at), dict(e.ended_at)) for e in history
    ]
    assert [e.spec for e in found] == [e.spec for e in history]


def test_a_comparison_says_what_would_be_applied(streams) -> None:
    before = settings_of(streams({"w": TUMBLE, "gone": TUMBLE, "same": TUMBLE}))
    after = settings_of(
        streams(
            {"w": TUMBLE | {"tumble": "5m", "group_by": []}, "new": TUMBLE, "same": TUMBLE},
            max_out_of_orderness="10m",
        )
    )
    assert [str(change) for change in compare("s", before, after)] == [
        "streams.s.windows.gone: removed; counts until the first edge after the newest event, and its rows stay",
        "streams.s.windows.new: added; counts from the first edge after the newest event on",
        "streams.s.windows.w: tumble 1m → tumble 5m, group_by [k] → []; "
        "counts from the first edge after the newest event on; windows that start before stay as they are",
        "streams.s.max_out_of_orderness: 10s → 10m; counts from the next event on",
    ]
    assert compare("s", before, before) == []
    filtered = settings_of(streams({"same": TUMBLE}, filter="n > 1", allowed_lateness="1h"))
    (change,) = compare("s", settings_of(streams({"same": TUMBLE})), filtered)
    assert change.what == "allowed_lateness 30s → 1h, filter none → 'n > 1'"


sizes = st.sampled_from([1, 2, 3, 5, 7, 10, 12]).flatmap(
    lambda every: st.tuples(st.just(every), st.sampled_from([every, every * 3, every + 1]))
)


@given(
    changes=st.lists(st.tuples(sizes, st.integers(0, 120)), min_size=1, max_size=5),
    times=st.lists(st.integers(0, 400), min_size=1, max_size=60),
)
def test_every_start_is_of_one_era_and_every_event_counts(streams_at, changes, times) -> None:
    history: History = ()
    newest = None
    for (every, size), later in changes:
        kind = {"tumble": size} if size == every else {"hop": size, "every": every}
        wanted = definition(streams_at, kind | {"aggregate": {"n": "count()"}})
        history = amended(history, wanted, newest, {})
        newest = (newest or 0) + later
    at = np.array(times, np.int64)
    starts: dict[int, str] = {}
    tumbled = np.zeros(len(at), np.int64)
    for era in history:
        found = panes(era.spec, at, np.full(len(at), NEVER), 0)
        counted = (found.since <= found.last) & (found.first <= found.last)
        for row in np.flatnonzero(counted):
            for start in range(found.since[row], found.last[row] + 1, era.spec.every_us):
                assert starts.setdefault(start, era.key) == era.key
                assert era.from_us <= start < era.until_us and start <= at[row] < start + era.spec.size_us
        tumbled += counted & (not era.spec.overlapping)
        late = panes(era.spec, at, np.full(len(at), FOREVER // 2), 0)
        rows, missed = missed_windows(era.spec, late)
        expected = sorted(
            (row, start)
            for row in np.flatnonzero(counted)
            for start in range(found.first[row], found.last[row] + 1, era.spec.every_us)
        )
        assert sorted(zip(rows.tolist(), missed.tolist(), strict=True)) == expected
    assert (tumbled <= 1).all()
    if not any(era.spec.overlapping for era in history):
        assert (tumbled == 1).all()


@pytest.fixture(scope="module")
def streams_at(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("eras")
    (directory / "s.json").write_text(json.dumps(SCHEMA))

    def load(windows: dict[str, Any]) -> Stream:
        stream = {"schema": "s.json", "time": "t", "time_unit": "us", "windows": windows}
        (directory / "eagleray.yaml").write_text(json.dumps({"streams": {"s": stream}}))
        return load_streams(load_config(directory / "eagleray.yaml", environ={}))["s"]

    return load
