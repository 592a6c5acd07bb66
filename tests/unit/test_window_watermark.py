"""Watermarks, panes and lateness, against the definitions one event at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.windowing.assign import missed_windows, panes
from eagleray.cluster.windowing.definition import WindowSpec
from eagleray.cluster.windowing.watermark import NEVER, bounded_times, watermarks

times = st.lists(st.integers(-(10**6), 10**6), max_size=30)


def int64(values) -> np.ndarray:
    return np.array(values, np.int64)


def one_by_one(records: list[tuple], start: int, slack: int) -> tuple[list[int], int]:
    """The watermark before each event; records are ("event", t) or ("advance", target), in log order."""
    at, before = start, []
    for kind, value in records:
        if kind == "event":
            before.append(at)
            at = max(at, value - slack)
        else:
            at = max(at, value)
    return before, at


records = st.lists(st.tuples(st.sampled_from(["event", "event", "advance"]), st.integers(-1000, 1000)), max_size=30)


def run(part: list[tuple[int, tuple]], start: int, slack: int) -> tuple[list[int], int]:
    events = [(offset, value) for offset, (kind, value) in part if kind == "event"]
    advances = [(offset, value) for offset, (kind, value) in part if kind == "advance"]
    offsets, at = int64([o for o, _ in events]), int64([t for _, t in events])
    before, after = watermarks(at, offsets, advances, start, slack)
    return before.tolist(), after


@given(records=records, slack=st.integers(0, 100), cuts=st.lists(st.integers(0, 30), max_size=4))
def test_watermark_is_the_same_however_the_log_is_cut(records, slack, cuts):
    expected, expected_after = one_by_one(records, NEVER, slack)
    numbered = list(enumerate(records))
    edges = sorted({0, len(records), *(min(cut, len(records)) for cut in cuts)})
    found, at = [], NEVER
    for begin, end in pairwise(edges):
        before, at = run(numbered[begin:end], at, slack)
        found += before
    assert (found, at) == (expected, expected_after)


@given(times=times, lead=st.integers(0, 100))
def test_no_event_moves_the_watermark_beyond_its_ingestion_and_the_slack(times, lead):
    ingested = np.arange(len(times)) * 10
    _, after = watermarks(bounded_times(int64(times), ingested, lead), int64(range(len(times))), [], NEVER, 0)
    expected = max((min(t, i + lead) for t, i in zip(times, ingested.tolist(), strict=True)), default=NEVER)
    assert after == expected


@given(times=times, slack=st.integers(0, 100))
def test_watermark_never_goes_back(times, slack):
    before, after = watermarks(int64(times), int64(range(len(times))), [], NEVER, slack)
    assert (np.diff(np.append(before, after)) >= 0).all()


specs = st.tuples(st.integers(1, 60), st.integers(1, 60)).map(lambda pair: (max(pair), min(pair)))


@given(times=times, specs=specs, lateness=st.integers(0, 20), slack=st.integers(0, 20))
def test_each_event_counts_in_its_windows_and_misses_the_rest(times, specs, lateness, slack):
    size, every = specs
    spec = WindowSpec("w", "tumble" if size == every else "hop", size, every, 0, (), (), None)
    before, _ = watermarks(int64(times), int64(range(len(times))), [], NEVER, slack)
    found = panes(spec, int64(times), before, lateness)
    missed: dict[int, list[int]] = {}
    for row, start in zip(*(a.tolist() for a in missed_windows(spec, found)), strict=True):
        missed.setdefault(row, []).append(start)
    for row, (time, at) in enumerate(zip(times, before.tolist(), strict=True)):
        starts = [start for start in range(time // every * every, time - size, -every)][::-1]
        late = [start for start in starts if at >= start + size + lateness]
        assert missed.get(row, []) == late
        counted = list(range(int(found.since[row]), int(found.last[row]) + 1, every))
        assert counted == [start for start in starts if start not in late]


@given(times=times, specs=specs)
def test_events_of_a_pane_have_the_same_windows(times, specs):
    size, every = specs
    spec = WindowSpec("w", "hop", size, every, 0, (), (), None)
    found = panes(spec, int64(times), np.full(len(times), NEVER), 0)
    windows: dict[int, set] = {}
    for pane, first, last in zip(found.pane.tolist(), found.first.tolist(), found.last.tolist(), strict=True):
        windows.setdefault(pane, set()).add((first, last))
    assert all(len(seen) == 1 for seen in windows.values())
    assert len({time // every for time in times}) * 2 >= len(windows)
