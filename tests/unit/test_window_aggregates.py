"""Windows and aggregates against plain Python: any cut into chunks, partitions and merges gives the same bits."""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.sections import WindowConfig
from eagleray.cluster.windowing.assign import lateness_us, panes
from eagleray.cluster.windowing.definition import parse_window
from eagleray.cluster.windowing.event_columns import Batch
from eagleray.cluster.windowing.keyed_items import Items
from eagleray.cluster.windowing.merge import close, select
from eagleray.cluster.windowing.partial import Layout
from eagleray.cluster.windowing.sketches import distinct
from eagleray.cluster.windowing.stable_hash import hash64
from eagleray.cluster.windowing.watermark import NEVER
from tests.examples import examples

EVENTS = pa.schema(
    [
        ("name", pa.string()),
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("flag", pa.bool_()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", "UTC")),
        ("actor", pa.struct([("login", pa.string())])),
    ]
)
AGGREGATES = {
    "events": "count()",
    "names": "count(name)",
    "n_sum": "sum(n)",
    "x_sum": "sum(x)",
    "n_avg": "avg(n)",
    "x_avg": "avg(x)",
    "name_min": "min(name)",
    "name_max": "max(name)",
    "n_min": "min(n)",
    "x_max": "max(x)",
    "flag_min": "min(flag)",
    "day_max": "max(day)",
    "at_min": "min(at)",
    "name_first": "first(name)",
    "x_last": "last(x)",
    "login_last": "last(actor.login)",
    "logins": "approx_distinct(actor.login)",
    "ns": "approx_distinct(n)",
    "median": "quantile(x, 0.5)",
    "n_p95": "quantile(n, 0.95)",
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

int64s = st.integers(-(2**63), 2**63 - 1)
doubles = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
moments = st.integers(-(10**12), 10**12).map(lambda us: EPOCH + timedelta(microseconds=us))
event = st.fixed_dictionaries(
    {
        "_time": st.integers(-60, 120),
        "name": st.none() | st.sampled_from("abcäz") | texts,
        "n": st.none() | st.integers(-5, 5) | int64s,
        "x": st.none() | st.floats(-1, 1) | doubles,
        "flag": st.none() | st.booleans(),
        "day": st.none() | st.dates(date(1900, 1, 1), date(2100, 1, 1)),
        "at": st.none() | moments,
        "actor": st.none() | st.fixed_dictionaries({"login": st.none() | st.sampled_from("uvw")}),
        "_partition": st.integers(0, 2),
    }
)
KINDS = {
    "tumble": WindowConfig(tumble=10, group_by=("name", "flag"), aggregate=AGGREGATES),
    "tumble_all": WindowConfig(tumble=30, aggregate=AGGREGATES),
    "hop": WindowConfig(hop=20, every=5, group_by=("flag",), aggregate=AGGREGATES),
    "hop_odd": WindowConfig(hop=17, every=5, group_by=("actor.login", "day"), aggregate=AGGREGATES),
    "session": WindowConfig(session_gap=7, group_by=("flag",), aggregate=AGGREGATES),
}


def layout_of(config: WindowConfig) -> Layout:
    return Layout.of(parse_window("test", "w", config, EVENTS), EVENTS)


def lift(layout: Layout, events: list[dict], partition: int) -> pa.Table:
    schema = pa.schema([*EVENTS, ("_time", pa.int64()), ("_offset", pa.int64()), ("_row", pa.int32())])
    batch = Batch(pa.Table.from_pylist(events, schema), partition)
    if layout.spec.kind == "session":
        return layout.lift(batch, batch.times, batch.times)
    found = panes(layout.spec, batch.times, np.full(batch.length, NEVER), 0)
    return layout.lift(batch, found.since, found.pane)


# ── the oracle ──


def field(event: dict, path: str | None):
    for name in path.split("."):
        event = None if event is None else event[name]
    return event


def bucket_middle(value: float) -> float:
    if value == 0:
        return 0.0
    bits = struct.unpack("<q", struct.pack("<d", abs(value)))[0] >> 46
    low, high = (struct.unpack("<d", struct.pack("<q", min(b << 46, 0x7FEFFFFFFFFFFFFF)))[0] for b in (bits, bits + 1))
    return math.copysign(low + (high - low) / 2, value)


def estimate(values: list) -> int:
    """Registers and ranks one value at a time; the estimator itself is measured below."""
    registers: dict[int, int] = {}
    for value in values:
        hashed = int(hash64(pa.array([value]))[0])
        rest = format(hashed & (2**51 - 1), "051b")
        rank = len(rest) - len(rest.lstrip("0")) + 1
        registers[hashed >> 51] = max(registers.get(hashed >> 51, 0), rank)
    items = [np.array(part, np.int64) for part in ([0, len(registers)], [*registers], [*registers.values()])]
    return int(distinct(Items(*items))[0])


def expected_total(function: str, values: list):
    try:
        total = math.fsum(values) if isinstance(values[0], float) else sum(values)
    except OverflowError:
        return None
    if function == "avg":
        return float(total) / len(values)
    return total if isinstance(total, float) or -(2**63) <= total < 2**63 else None


def expected_value(text: str, events: list[dict]):
    function, _, rest = text.rstrip(")").partition("(")
    path, _, q = rest.partition(", ")
    if not path:
        return len(events)
    ordered = sorted(events, key=lambda e: (e["_time"], e["_partition"], e["_offset"], e["_row"]))
    values = [v for e in ordered if (v := field(e, path)) is not None]
    if function == "count":
        return len(values)
    if function == "approx_distinct":
        return estimate(values)
    if not values:
        return None
    if function in ("sum", "avg"):
        return expected_total(function, values)
    if function == "quantile":
        numbers = sorted(float(v) for v in values)
        rank = math.floor(float(q) * (len(numbers) - 1))
        if rank in (0, len(numbers) - 1):
            return numbers[rank]
        return min(max(bucket_middle(numbers[rank]), numbers[0]), numbers[-1])
    if function in ("min", "max"):
        return (min if function == "min" else max)(values, key=lambda v: v.encode() if isinstance(v, str) else v)
    return values[0 if function == "first" else -1]


def windows_of(spec, events: list[dict]) -> dict[tuple, list[dict]]:
    found: dict[tuple, list[dict]] = {}
    groups: dict[tuple, list[dict]] = {}
    for e in events:
        groups.setdefault(tuple(field(e, p.column) for p in spec.group_by), []).append(e)
    for group, members in groups.items():
        if spec.kind == "session":
            members = sorted(members, key=lambda e: e["_time"])
            runs = [[members[0]]]
            for e in members[1:]:
                if e["_time"] - runs[-1][-1]["_time"] > spec.gap_us:
                    runs.append([])
                runs[-1].append(e)
            for run in runs:
                found[run[0]["_time"], run[-1]["_time"] + spec.gap_us, *group] = run
            continue
        for e in members:
            start = e["_time"] // spec.every_us * spec.every_us
            while start + spec.size_us > e["_time"]:
                found.setdefault((start, start + spec.size_us, *group), []).append(e)
                start -= spec.every_us
    return found


def oracle(spec, config: WindowConfig, events: list[dict]) -> dict[tuple, list]:
    return {
        key: [expected_value(text, members) for text in config.aggregate.values()]
        for key, members in windows_of(spec, events).items()
    }


def as_dict(rows: pa.Table, groups: int) -> dict[tuple, list]:
    found = {}
    for row in rows.to_pylist():
        values = list(row.values())
        ends = [(value - EPOCH) // timedelta(microseconds=1) for value in values[:2]]
        found[(*ends, *values[2 : 2 + groups])] = values[2 + groups :]
    return found


# ── the laws ──


def chunks_by_partition(events: list[dict], cuts: list[int]) -> list[tuple[int, list[dict]]]:
    """Cut each partition's events at `cuts`; offsets stay the same whatever the cuts."""
    result = []
    for partition in range(3):
        mine = [e for e in events if e["_partition"] == partition]
        edges = sorted({0, len(mine), *(cut % (len(mine) + 1) for cut in cuts)})
        result += [(partition, mine[a:b]) for a, b in pairwise(edges)]
    return result


def number(events: list[dict]) -> list[dict]:
    return [{**e, "_offset": i // 3, "_row": i % 3} for i, e in enumerate(events)]


def normal(value):
    return 0.0 if value == 0.0 and isinstance(value, float) else value


@pytest.mark.parametrize("kind", KINDS)
@examples(20)
@given(events=st.lists(event, max_size=40).map(number), cuts=st.lists(st.integers(0, 40), max_size=6), data=st.data())
def test_any_batching_and_merge_order_equals_plain_python(kind, events, cuts, data):
    config = KINDS[kind]
    layout = layout_of(config)
    tables = [lift(layout, chunk, partition) for partition, chunk in chunks_by_partition(events, cuts)]
    tables = data.draw(st.permutations(tables))
    half = data.draw(st.integers(0, len(tables)))
    merged = [layout.merge(tables[:half]), *tables[half:]]
    sent = [select(layout, merged[i::2], 0, NEVER, -NEVER) for i in range(2)]
    rows = close(layout, sent, 0, NEVER, -NEVER).rows
    expected = oracle(layout.spec, config, events)
    found = as_dict(rows, len(layout.spec.group_by))
    assert {k: [normal(v) for v in row] for k, row in found.items()} == {
        k: [normal(v) for v in row] for k, row in expected.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@examples(10)
@given(events=st.lists(event, max_size=40).map(number), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_rows_are_identical_tables_in_the_same_order(kind, events, cuts):
    layout = layout_of(KINDS[kind])
    one = [lift(layout, chunk, p) for p, chunk in chunks_by_partition(events, [])]
    many = [lift(layout, chunk, p) for p, chunk in chunks_by_partition(events, cuts)]
    first = close(layout, [select(layout, one, 0, NEVER, -NEVER)], 0, NEVER, -NEVER).rows
    second = close(layout, [select(layout, [t], 0, NEVER, -NEVER) for t in reversed(many)], 0, NEVER, -NEVER).rows
    assert first.equals(second)


@pytest.mark.parametrize("kind", KINDS)
@examples(10)
@given(events=st.lists(event, min_size=1, max_size=40).map(number), steps=st.lists(st.integers(-80, 200), max_size=5))
def test_closing_step_by_step_writes_each_window_once(kind, events, steps):
    config = KINDS[kind]
    layout = layout_of(config)
    tables = [lift(layout, chunk, p) for p, chunk in chunks_by_partition(events, [7, 19])]
    found: dict[tuple, list] = {}
    after = NEVER
    for upto in [*sorted(steps), 10**6]:
        rows = close(layout, [select(layout, [t], 3, after, upto) for t in tables], 3, after, upto).rows
        new = as_dict(rows, len(layout.spec.group_by))
        assert not found.keys() & new.keys()
        late = lateness_us(layout.spec, 3)
        assert all(after < key[1] + late <= upto for key in new)
        found |= new
        after = upto
    assert found.keys() == oracle(layout.spec, config, events).keys()


def test_sum_beyond_int64_is_null_and_counted():
    layout = layout_of(WindowConfig(tumble=10, aggregate={"s": "sum(n)"}))
    blank = dict.fromkeys(EVENTS.names) | {"_time": 0, "_offset": 0, "_row": 0}
    table = lift(layout, [{**blank, "n": 2**63 - 1}, {**blank, "n": 1}], 0)
    closed = close(layout, [table], 0, NEVER, -NEVER)
    assert closed.rows.column("s").to_pylist() == [None] and closed.overflows == 1
    table = lift(layout, [{**blank, "n": 2**63 - 1}, {**blank, "n": 1}, {**blank, "n": -1}], 0)
    assert close(layout, [table], 0, NEVER, -NEVER).rows.column("s").to_pylist() == [2**63 - 1]


@pytest.mark.parametrize("count", [1, 10, 100, 1_000, 30_000, 300_000])
def test_approx_distinct_stays_within_four_standard_errors(count):
    layout = layout_of(WindowConfig(tumble=10, aggregate={"d": "approx_distinct(name)", "i": "approx_distinct(n)"}))
    columns = {
        "name": pa.array([f"user-{i}" for i in range(count)] * 2),
        "n": pa.array(np.tile(np.arange(count), 2)),
        "_time": pa.array(np.zeros(2 * count, np.int64)),
        "_offset": pa.array(np.arange(2 * count)),
        "_row": pa.array(np.zeros(2 * count, np.int32)),
    }
    batch = Batch(pa.table(columns), 0)
    zero = np.zeros(2 * count, np.int64)
    row = close(layout, [layout.lift(batch, zero, zero)], 0, NEVER, -NEVER).rows.to_pylist()[0]
    for found in (row["d"], row["i"]):
        assert abs(found - count) <= max(1 if count < 1_000 else 0, 4 * 0.0115 * count)


@pytest.mark.parametrize("q", [0.0, 0.01, 0.5, 0.95, 0.999, 1.0])
def test_quantile_is_within_one_percent(q):
    generator = np.random.default_rng(5)
    values = np.concatenate([generator.lognormal(3, 2, 20_000), -generator.lognormal(1, 1, 5_000), np.zeros(500)])
    layout = layout_of(WindowConfig(tumble=10, aggregate={"v": f"quantile(x, {q})"}))
    zero = np.zeros(len(values), np.int64)
    batch = Batch(pa.table({"x": values, "_time": zero}), 0)
    found = close(layout, [layout.lift(batch, zero, zero)], 0, NEVER, -NEVER).rows.to_pylist()[0]["v"]
    exact = np.quantile(values, q, method="lower")
    assert found == pytest.approx(exact, rel=0.01, abs=0)


def test_a_view_of_a_view_has_the_right_rows():
    table = pa.table({"_time": np.arange(10), "name": [f"n{i}" for i in range(10)]})
    view = Batch(table, 0).take(np.array([1, 3, 5, 7])).take(np.array([0, 3]))
    name = parse_window("t", "w", WindowConfig(tumble=1, group_by=("name",), aggregate={"n": "count()"}), EVENTS)
    coded = view.coded(name.group_by[0])
    assert view.times.tolist() == [1, 7] and coded.take(np.arange(2)).to_pylist() == ["n1", "n7"]


@pytest.mark.parametrize("function", ["approx_distinct", "min", "last"])
def test_a_value_with_parts_cannot_be_aggregated(function):
    config = WindowConfig(tumble=1, aggregate={"v": f"{function}(actor)"})
    with pytest.raises(ConfigError, match="cannot take the struct"):
        parse_window("test", "w", config, EVENTS)


def test_values_with_parts_can_be_counted():
    layout = layout_of(WindowConfig(tumble=10, aggregate={"v": "count(actor)"}))
    blank = dict.fromkeys(EVENTS.names) | {"_time": 0, "_offset": 0, "_row": 0}
    table = lift(layout, [blank, {**blank, "actor": {"login": None}}], 0)
    assert close(layout, [table], 0, NEVER, -NEVER).rows.column("v").to_pylist() == [1]
