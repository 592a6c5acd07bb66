"""Several partitions, closing as they go: late once, final once, whatever the timing, cuts and restarts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.actors.window.state import WindowState
from eagleray.cluster.sections import WindowConfig
from eagleray.cluster.windowing.definition import parse_window
from eagleray.cluster.windowing.event_columns import Batch
from eagleray.cluster.windowing.merge import close, open_rows, select
from eagleray.cluster.windowing.watermark import NEVER, watermarks
from tests.examples import examples

EVENTS = pa.schema([("user", pa.string()), ("_time", pa.int64())])
SLACK, LATENESS = 4, 6
COUNT = {"n": "count()", "first": "min(_time)", "median": "quantile(_time, 0)"}
KINDS = {
    "tumble": WindowConfig(tumble=10, group_by=("user",), aggregate=COUNT),
    "hop": WindowConfig(hop=20, every=7, group_by=("user",), aggregate=COUNT),
    "session": WindowConfig(session_gap=5, group_by=("user",), aggregate=COUNT),
}


@dataclass
class Partition:
    """A partition's log and its state, read up to `position`."""

    log: list[tuple[int, str]]
    state: WindowState
    position: int = 0
    watermark: int = NEVER
    missed: list[tuple] = field(default_factory=list)

    def read(self, number: int, count: int) -> None:
        part = self.log[self.position : self.position + count]
        columns = {
            "user": pa.array([user for _, user in part], pa.string()),
            "_time": pa.array([time for time, _ in part], pa.int64()),
            "_offset": pa.array(range(self.position, self.position + len(part)), pa.int64()),
            "_row": pa.array([0] * len(part), pa.int32()),
        }
        batch = Batch(pa.table(columns), number)
        before, self.watermark = watermarks(batch.times, batch.integers("_offset"), [], self.watermark, SLACK)
        late = self.state.add(batch, before)
        self.missed += [(self.position + row, start) for row, start in zip(late.rows, late.starts, strict=True)]
        self.position += len(part)


def windows_at(kind: str, time: int) -> list[tuple[int, int]]:
    """Starts and ends of the windows of an event; for a session, of the one that it alone would be."""
    config = KINDS[kind]
    if kind == "session":
        return [(time, time + 5)]
    size, every = config.tumble or config.hop, config.tumble or config.every
    return [(start, start + size) for start in range(time // every * every, time - size, -every)][::-1]


def judged(kind: str, logs: list[list[tuple[int, str]]]) -> tuple[list[tuple], list[tuple]]:
    """What counts, as (start, end, user, time), and what is missed, as (partition, offset, start)."""
    counted, missed = [], []
    for number, log in enumerate(logs):
        watermark = NEVER
        for offset, (time, user) in enumerate(log):
            for start, end in windows_at(kind, time):
                if watermark >= end + LATENESS:
                    missed.append((number, offset, start))
                else:
                    counted.append((start, end, user, time))
            watermark = max(watermark, time - SLACK)
    return counted, missed


def windows(kind: str, counted: list[tuple]) -> dict[tuple, list[int]]:
    """Times by (start, end, user)."""
    found: dict[tuple, list[int]] = {}
    if kind != "session":
        for start, end, user, time in counted:
            found.setdefault((start, end, user), []).append(time)
        return found
    for user in {user for *_, user, _ in counted}:
        run: list[int] = []
        for time in [*sorted(t for *_, u, t in counted if u == user), 10**9]:
            if run and time - run[-1] > 5:
                found[run[0], run[-1] + 5, user] = run
                run = []
            run.append(time)
    return found


def as_dict(rows: pa.Table) -> dict:
    at = [rows.column(name).cast(pa.int64()).to_pylist() for name in ("window_start", "window_end")]
    return {
        (start, end, row["user"]): (row["n"], row["first"], row["median"])
        for start, end, row in zip(*at, rows.to_pylist(), strict=True)
    }


logs = st.lists(
    st.lists(st.tuples(st.integers(0, 12), st.integers(-15, 15), st.sampled_from("abc")), max_size=30).map(
        lambda steps: [(int(t), u) for t, u in _walk(steps)]
    ),
    min_size=2,
    max_size=3,
)


def _walk(steps):
    at = 0
    for forward, jitter, user in steps:
        at += forward
        yield at + jitter, user


@pytest.mark.parametrize("kind", KINDS)
@examples(150)
@given(logs=logs, seed=st.integers(0, 10**6), settle=st.booleans())
def test_final_rows_and_late_events_do_not_depend_on_timing(kind, logs, seed, settle):
    chance = random.Random(seed)
    spec = parse_window("t", "w", KINDS[kind], EVENTS)
    partitions = [Partition([*log, (1000, "end")], WindowState(spec, EVENTS, LATENESS)) for log in logs]
    counted, missed = judged(kind, [p.log for p in partitions])
    expected = windows(kind, counted)
    found: dict = {}
    closed = NEVER
    layout = partitions[0].state.layout
    while any(p.position < len(p.log) for p in partitions):
        for number, p in enumerate(partitions):
            p.read(number, chance.randrange(4))
        upto = min(p.watermark for p in partitions)
        if upto <= closed or chance.random() < 0.5:
            continue
        sent = [select(layout, p.state.tables(p.state.runs, closed, upto), LATENESS, closed, upto) for p in partitions]
        done = close(layout, sent, LATENESS, closed, upto)
        new = as_dict(done.rows)
        assert not new.keys() & found.keys()
        found |= new
        closed = upto
        for p in partitions:
            p.state.drop(closed, done.still_open if settle and chance.random() < 0.7 else None)
    at_end = 1000 - SLACK
    gap = spec.gap_us
    final = {k: v for k, v in expected.items() if k[1] + LATENESS + gap <= at_end}
    sent = [select(layout, p.state.tables(p.state.runs, closed, at_end), LATENESS, closed, at_end) for p in partitions]
    found |= as_dict(close(layout, sent, LATENESS, closed, at_end).rows)
    assert found == {k: (len(v), min(v), min(v)) for k, v in final.items()}
    assert sorted((n, o, s) for n, p in enumerate(partitions) for o, s in p.missed) == sorted(missed)
    # What is open afterwards is what the last events belong to.
    left = [select(layout, p.state.tables(p.state.runs, at_end, None), LATENESS, at_end, None) for p in partitions]
    assert open_rows(layout, left, LATENESS, None, None).num_rows == len(expected) - len(final)


def test_settled_state_is_let_go():
    spec = parse_window("t", "w", KINDS["session"], EVENTS)
    p = Partition([(time, f"u{time % 50}") for time in range(2000)], WindowState(spec, EVENTS, LATENESS))
    closed = NEVER
    sizes = []
    for _ in range(20):
        p.read(0, 100)
        sent = select(p.state.layout, p.state.tables(p.state.runs, closed, p.watermark), LATENESS, closed, p.watermark)
        done = close(p.state.layout, [sent], LATENESS, closed, p.watermark)
        closed = p.watermark
        p.state.drop(closed, done.still_open)
        sizes.append(sum(run.table.num_rows for run in p.state.runs))
    assert max(sizes) <= 60


def test_runs_stay_few():
    spec = parse_window("t", "w", KINDS["tumble"], EVENTS)
    p = Partition([(time, "u") for time in range(3000)], WindowState(spec, EVENTS, LATENESS))
    for _ in range(300):
        p.read(0, 10)
    assert len(p.state.runs) <= 16
    assert np.sum([run.table.num_rows for run in p.state.runs]) >= 300
