#!/usr/bin/env python
"""Asks how long it takes from sending an event to seeing it in SQL, at a steady rate.

    benchmarks/freshness.py [--events-per-s 20000] [--duration 60] [--url URL]

A request is visible when the first query that finds all of its events has answered: the time of that answer minus the
time at which the request was due. The poll's own pause and the query's duration are in the figure.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import phase
from load import Plan
from report import Figure, Report
from service import RunningLoad, Service

OUT = Path(__file__).resolve().parent / "out"
ROWS = 500
PAUSE_S = 0.1
GIVE_UP_S = 30.0


class Visible:
    """When each request's events were all there."""

    def __init__(self, service: Service, plan: Plan) -> None:
        self.service, self.plan = service, plan
        self.seen: dict[int, float] = {}  # number of the request → time.perf_counter()
        self.next = 0  # all requests below are seen

    def poll(self) -> None:
        """Ask for everything from the first request on that is not complete."""
        first = self.plan.first_seq
        rows = self.service.sql(
            f"SELECT (seq - {first}) // {ROWS} AS request, count(*) FROM plays.events "
            f"WHERE seq >= {first + self.next * ROWS} GROUP BY 1"
        )
        at = time.perf_counter()
        for request, count in rows:
            if count == ROWS:
                self.seen.setdefault(int(request), at)
        while self.next in self.seen:
            self.next += 1


def measure(service: Service, *, events_per_s: float = 20_000.0, duration_s: float = 60.0) -> Report:
    """Requests of 500 events at `events_per_s`."""
    rate = events_per_s / ROWS
    plan = phase.plan(service, connections=16, rows=ROWS, rate=rate, duration_s=duration_s)
    visible = Visible(service, plan)
    load = RunningLoad(plan, OUT / "freshness.npz")
    ended = 0.0
    while True:
        visible.poll()
        time.sleep(PAUSE_S)
        if not load.running:
            ended = ended or time.monotonic()
            if visible.next >= int(rate * duration_s) or time.monotonic() - ended > GIVE_UP_S:
                break
    found, columns = load.finish()
    acked = columns["status"] == 200
    number = ((columns["first_seq"] - plan.first_seq) // ROWS)[acked]
    due = dict(zip(number.tolist(), columns["intended"][acked].tolist(), strict=True))
    fresh = {n: visible.seen[n] - at for n, at in due.items() if n in visible.seen}
    p50, p99 = np.percentile(list(fresh.values()), (50, 99)) if fresh else (np.nan, np.nan)
    start = min(due.values())
    return Report(
        f"freshness, {events_per_s:,.0f} events/s",
        [
            Figure("send to visible in SQL, p50", float(p50), "s", 2),
            Figure("send to visible in SQL, p99", float(p99), "s", 4),
            Figure("acked and not visible", len(due) - len(fresh), "requests", 0),
            Figure("ack p99", found["p99_ms"], "ms"),
        ],
        {"send to visible, s": ([due[n] - start for n in sorted(fresh)], [fresh[n] for n in sorted(fresh)])},
        dict(found),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--events-per-s", type=float, default=20_000.0)
    parser.add_argument("--duration", type=float, default=60.0, help="seconds")
    args = phase.arguments(parser)
    phase.run(args, lambda service: [measure(service, events_per_s=args.events_per_s, duration_s=args.duration)])


if __name__ == "__main__":
    main()
