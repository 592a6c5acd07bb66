#!/usr/bin/env python
"""Asks whether a running platform keeps the promises that you give; exits 1 if not.

    benchmarks/sla.py --url https://events.example.com --key $KEY --rate 500 --duration 30 --p99-ms 25
    benchmarks/sla.py --url http://127.0.0.1:8080 --stream orders --lines orders.ndjson --rows 100 --rate 50 --p50-ms 10

Open loop at `--rate` requests per second, so that a stall counts against every request that it delayed; closed loop
without. Sends game events (schema: benchmarks/game/plays.schema.json), or the lines of a file of your own.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from load import Plan
from report import Figure, Report, over_time, show, write
from service import RunningLoad

OUT = Path(__file__).resolve().parent / "out" / "sla"


def main() -> None:
    """Send, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--url", required=True)
    parser.add_argument("--stream", default="plays")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--lines", type=Path, help="NDJSON file with events of your own; sent as they are, in turn")
    parser.add_argument("--rate", type=float, help="requests per second")
    parser.add_argument("--rows", type=int, default=1, help="events per request")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--duration", type=float, default=30.0, help="seconds")
    parser.add_argument("--p50-ms", type=float, help="promise: median latency of acks")
    parser.add_argument("--p99-ms", type=float, help="promise: 99th percentile")
    parser.add_argument("--p99-9-ms", type=float, help="promise: 99.9th percentile")
    parser.add_argument("--events-per-s", type=float, help="promise: accepted events per second")
    parser.add_argument("--not-acked", type=int, default=0, help="promise: requests without an ack, at most")
    parser.add_argument("--out", type=Path, default=OUT, help="where results.json and latency.png go")
    args = parser.parse_args()
    plan = Plan(
        args.url,
        args.stream,
        connections=args.connections,
        rows=args.rows,
        duration_s=args.duration,
        rate=args.rate,
        key=args.key,
        run=f"{os.getpid() % 65536:04x}",
        lines=args.lines,
    )
    found, columns = RunningLoad(plan, args.out / "sla.npz").finish()
    report = Report(
        f"{args.stream}: {args.rows} events per request" + (f", {args.rate:g} requests/s" if args.rate else ""),
        [
            Figure("p50", found["p50_ms"], "ms", args.p50_ms),
            Figure("p99", found["p99_ms"], "ms", args.p99_ms),
            Figure("p99.9", found["p99_9_ms"], "ms", args.p99_9_ms),
            Figure("events/s", found["events_per_s"], "/s", args.events_per_s, "at least"),
            Figure("not acked", found["not_ok"], "requests", args.not_acked),
        ],
        over_time(columns),
        dict(found),
    )
    show([report])
    print(f"written: {write([report], args.out, 'benchmarks/sla.py')}")
    raise SystemExit(0 if report.met else 1)


if __name__ == "__main__":
    main()
