"""How many events per second one core takes through three windows: assign, aggregate and compact, without log and Ray.

Run: `.venv/bin/python benchmarks/window.py [--events 2000000] [--chunk 65536]`. Prints µs per event, by window.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pyarrow as pa

from eagleray.actors.window.state import WindowState
from eagleray.cluster.sections import WindowConfig
from eagleray.cluster.windowing.definition import WindowSpec, parse_window
from eagleray.cluster.windowing.event_columns import Batch

EVENTS = pa.schema([("channel", pa.string()), ("page", pa.string()), ("user", pa.string()), ("amount", pa.float64())])
WINDOWS = {
    "tumble": WindowConfig(
        tumble=10_000_000,
        group_by=("channel",),
        aggregate={
            "n": "count()",
            "total": "sum(amount)",
            "users": "approx_distinct(user)",
            "p95": "quantile(amount, 0.95)",
        },
    ),
    "hop": WindowConfig(hop=60_000_000, every=10_000_000, group_by=("page",), aggregate={"n": "count()"}),
    "session": WindowConfig(session_gap=30_000_000, group_by=("user",), aggregate={"n": "count()", "t": "min(_time)"}),
}
LATENESS_US = 30_000_000


def chunks(events: int, size: int, rate: int) -> list[pa.Table]:
    """Events at `rate` per second of event time, slightly out of order; 40 channels, 5 000 pages, Zipf users."""
    generator = np.random.default_rng(7)
    found = []
    for begin in range(0, events, size):
        n = min(size, events - begin)
        time_us = (begin + np.arange(n)) * 1_000_000 // rate - generator.integers(0, 2_000_000, n)
        users = np.minimum(generator.zipf(1.2, n), 100_000)
        columns = {
            "channel": _names("channel", generator.integers(0, 40, n)),
            "page": _names("page", np.minimum(generator.zipf(1.3, n), 5_000)),
            "user": _names("user", users),
            "amount": pa.array(np.round(generator.lognormal(3, 1, n), 2)),
            "_time": pa.array(time_us.astype(np.int64)),
            "_offset": pa.array(np.full(n, begin)),
            "_row": pa.array(np.arange(n, dtype=np.int32)),
        }
        found.append(pa.table(columns))
    return found


def _names(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pa.array([f"{prefix}-{number:07d}" for number in numbers.tolist()])


def measure(tables: list[pa.Table], specs: dict[str, WindowSpec], events: pa.Schema) -> dict[str, float]:
    """Seconds per window over all chunks, state dropped as windows close."""
    states = {name: WindowState(spec, events, LATENESS_US) for name, spec in specs.items()}
    spent = dict.fromkeys(specs, 0.0)
    for table in tables:
        batch = Batch(table, 0)
        before = np.maximum.accumulate(batch.times) - 10_000_000
        for name, state in states.items():
            began = time.perf_counter()
            state.add(batch, before)
            state.drop(int(before[-1]))
            spent[name] += time.perf_counter() - began
    return spent


def main() -> None:
    """Print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--chunk", type=int, default=65_536)
    parser.add_argument("--rate", type=int, default=150_000)
    options = parser.parse_args()
    schema = pa.schema([*EVENTS, ("_time", pa.int64())])
    specs = {name: parse_window("bench", name, config, schema) for name, config in WINDOWS.items()}
    tables = chunks(options.events, options.chunk, options.rate)
    measure(tables[:2], specs, schema)
    spent = measure(tables, specs, schema)
    for name, seconds in spent.items():
        print(f"{name:10} {seconds / options.events * 1e6:6.2f} µs/event")
    total = sum(spent.values())
    print(f"{'all':10} {total / options.events * 1e6:6.2f} µs/event   {options.events / total:,.0f} events/s/core")
    print(json.dumps({"events": options.events, "chunk": options.chunk, "events_per_s_core": options.events / total}))


if __name__ == "__main__":
    main()
