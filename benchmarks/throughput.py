#!/usr/bin/env python
"""Asks how many events per second are sustained, HTTP in, three windows and Iceberg out, and in what memory.

    benchmarks/throughput.py [--minutes 1] [--rows 500] [--rate R] [--url URL]

Closed loop without `--rate` (requests per second). Lag is what was acked and is not yet in the `events` table, counted
there by SQL, and what the window workers have not read yet, in records of the log.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import phase
from processes import MIB, Sampler
from report import Figure, Report, over_time
from service import Columns, RunningLoad, Service

OUT = Path(__file__).resolve().parent / "out"
POLL_S = 1.0  # on average: looking as regularly as the platform commits would show a slow beat of the two
GROWTH_SHARE = 0.03  # lag that grows by more than this share of the rate is growing


@dataclass
class Lag:
    """How far the tables and the window workers were behind, poll by poll."""

    at: list[float] = field(default_factory=list)  # time.perf_counter() when the question was asked
    stored: list[int] = field(default_factory=list)  # rows in the table
    window_records: list[int] = field(default_factory=list)

    def poll(self, service: Service, first_seq: int) -> None:
        """Ask once."""
        at = time.perf_counter()
        stored = service.sql(f"SELECT count(*) FROM plays.events WHERE seq >= {first_seq}")[0][0]
        self.at.append(at)
        self.stored.append(int(stored))
        self.window_records.append(service.lag()["window"])

    def events(self, columns: Columns) -> list[int]:
        """Events acked and not yet in the table, at each poll."""
        order = np.argsort(columns["answered"])
        answered, total = columns["answered"][order], np.cumsum(columns["accepted"][order])
        index = np.searchsorted(answered, self.at, side="right")
        acked = np.where(index > 0, total[np.maximum(index - 1, 0)], 0)
        return [max(0, int(a) - s) for a, s in zip(acked, self.stored, strict=True)]


def slope(at: list[float], values: list[int]) -> float:
    """Growth per second over the last two thirds."""
    third = len(at) // 3
    if len(at) - third < 2:
        return 0.0
    return float(np.polyfit(at[third:], values[third:], 1)[0])


def measure(
    service: Service, *, minutes: float = 1.0, rows: int = 500, rate: float | None = None, connections: int = 24
) -> Report:
    """Send for `minutes`, then wait until all of it is in the table."""
    plan = phase.plan(service, connections=connections, rows=rows, duration_s=60 * minutes, rate=rate)
    lag = Lag()
    with Sampler(service.pids) as sampler:
        load = RunningLoad(plan, OUT / "throughput.npz")
        while load.running:
            time.sleep(POLL_S * random.uniform(0.5, 1.5))
            lag.poll(service, plan.first_seq)
        found, columns = load.finish()
    caught_up_s = _until_stored(service, plan.first_seq, int(columns["accepted"].sum()))
    behind = lag.events(columns)
    events_per_s = found["events_per_s"]
    per_record = max(1.0, rows / 4)
    start = float(columns["intended"].min())
    seconds = [at - start for at in lag.at]
    return Report(
        f"sustained throughput, {rows} events per request" + (f", {rate:g} requests/s" if rate else ""),
        [
            Figure("events/s", events_per_s, "/s", 150_000, "at least"),
            Figure("MB/s", events_per_s * 350 / 1e6, "MB/s"),
            Figure("not acked", found["not_ok"], "requests", 0),
            Figure("lag growth, table", slope(lag.at, behind) / events_per_s, "of the rate", GROWTH_SHARE),
            Figure(
                "lag growth, windows",
                slope(lag.at, lag.window_records) * per_record / events_per_s,
                "of the rate",
                GROWTH_SHARE,
            ),
            Figure("largest lag, table", max(behind, default=0) / events_per_s, "s"),
            Figure("all in the table after", caught_up_s, "s"),
            Figure("memory of all actors, PSS", sampler.peak_pss / MIB, "MiB", 3072),
            Figure("memory of all actors, RSS", sampler.peak_rss / MIB, "MiB"),
            Figure("memory, end over beginning", sampler.growth(), "", 1.15 if minutes >= 5 else None),
            Figure("cores, our actors", sum(sampler.cpu_shares.values()), "cores"),
            Figure("cores, load generator", found["cpu_share"], "cores"),
        ],
        over_time(columns)
        | {
            "lag, thousand events": (seconds, [value / 1000 for value in behind]),
            "memory, 10 MiB": ([s.at - start for s in sampler.samples], [s.pss / MIB / 10 for s in sampler.samples]),
        },
        {"load": found, "cores": sampler.cpu_shares, "memory": sampler.samples[-1].by_name if sampler.samples else {}},
    )


def _until_stored(service: Service, first_seq: int, accepted: int, timeout_s: float = 180.0) -> float:
    began = time.monotonic()
    query = f"SELECT count(*) FROM plays.events WHERE seq >= {first_seq}"
    while (stored := service.sql(query)[0][0]) < accepted:
        if time.monotonic() - began > timeout_s:
            raise SystemExit(f"{accepted} events were acked and {stored} are in the table after {timeout_s:g} s")
        time.sleep(0.5)
    if stored > accepted:
        print(f"{stored - accepted} events more than were acked: requests without an answer may have been stored")
    return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--rows", type=int, default=500, help="events per request")
    parser.add_argument("--rate", type=float, help="requests per second; default: closed loop")
    parser.add_argument("--connections", type=int, default=24)
    args = phase.arguments(parser)
    settings = {"minutes": args.minutes, "rows": args.rows, "rate": args.rate, "connections": args.connections}
    phase.run(args, lambda service: [measure(service, **settings)])


if __name__ == "__main__":
    main()
