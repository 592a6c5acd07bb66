#!/usr/bin/env python
"""Asks how long an ack takes at a steady rate: open loop, counted from when a request was due.

benchmarks/latency.py [--rate 500] [--duration 60] [--url URL]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import phase
from report import Figure, Report, over_time
from service import RunningLoad, Service

OUT = Path(__file__).resolve().parent / "out"


def measure(service: Service, *, rate: float = 500.0, duration_s: float = 60.0) -> Report:
    """One-event requests at `rate` per second."""
    plan = phase.plan(service, connections=64, rows=1, rate=rate, duration_s=duration_s)
    found, columns = RunningLoad(plan, OUT / "latency.npz").finish()
    return Report(
        f"ack latency, {rate:g} one-event requests/s",
        [
            Figure("p50", found["p50_ms"], "ms", 8),
            Figure("p99", found["p99_ms"], "ms", 25),
            Figure("p99.9", found["p99_9_ms"], "ms"),
            Figure("largest", found["max_ms"], "ms"),
            Figure("not acked", found["not_ok"], "requests", 0),
            Figure("rate reached", found["requests_per_s"], "requests/s", 0.98 * rate, "at least"),
        ],
        over_time(columns),
        dict(found),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rate", type=float, default=500.0, help="requests per second")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds")
    args = phase.arguments(parser)
    phase.run(args, lambda service: [measure(service, rate=args.rate, duration_s=args.duration)])


if __name__ == "__main__":
    main()
