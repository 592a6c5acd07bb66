#!/usr/bin/env python
"""Asks how many requests of one event each are answered per second, in a closed loop.

benchmarks/single.py [--duration 20] [--connections 64] [--url URL]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import phase
from report import Figure, Report, over_time
from service import RunningLoad, Service

OUT = Path(__file__).resolve().parent / "out"


def measure(service: Service, *, duration_s: float = 20.0, connections: int = 64) -> Report:
    """As many one-event requests as `connections` get answered."""
    plan = phase.plan(service, connections=connections, rows=1, duration_s=duration_s)
    found, columns = RunningLoad(plan, OUT / "single.npz").finish()
    return Report(
        f"one-event requests, {connections} connections",
        [
            Figure("requests/s", found["requests_per_s"], "/s", 2000, "at least"),
            Figure("p50", found["p50_ms"], "ms"),
            Figure("p99", found["p99_ms"], "ms"),
            Figure("not acked", found["not_ok"], "requests", 0),
        ],
        over_time(columns),
        dict(found),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds")
    parser.add_argument("--connections", type=int, default=64)
    args = phase.arguments(parser)
    phase.run(args, lambda service: [measure(service, duration_s=args.duration, connections=args.connections)])


if __name__ == "__main__":
    main()
