#!/usr/bin/env python
"""Asks how many bytes an event takes in the log and in its table, and how many files a commit makes.

benchmarks/stored.py [--duration 15]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import phase
from report import Figure, Report
from service import RunningLoad, Service

OUT = Path(__file__).resolve().parent / "out"


def size(directory: Path, pattern: str = "*") -> int:
    """Bytes of all files below `directory`."""
    return sum(file.stat().st_size for file in directory.rglob(pattern) if file.is_file())


def measure(service: Service, *, duration_s: float = 15.0) -> Report:
    """Requests of 500 events in a closed loop, until all of them are in the table."""
    if service.data is None:
        raise SystemExit("it looks into the data directory of a platform that it starts itself: leave out --url")
    plan = phase.plan(service, connections=8, rows=500, duration_s=duration_s)
    _, columns = RunningLoad(plan, OUT / "stored.npz").finish()
    service.wait_quiet()
    events = int(columns["accepted"].sum())
    while int(service.sql(f"SELECT count(*) FROM plays.events WHERE seq >= {plan.first_seq}")[0][0]) < events:
        pass
    table = service.data / "lake" / "plays" / "events"
    files = list((table / "data").rglob("*.parquet"))
    commits = len(list((table / "metadata").glob("snap-*.avro")))
    return Report(
        "bytes that an event takes",
        [
            Figure("events", events, "events"),
            Figure("in the log", size(service.data / "log") / events, "bytes"),
            Figure("in the table", sum(file.stat().st_size for file in files) / events, "bytes"),
            Figure("Parquet files a commit", len(files) / max(1, commits), "files"),
            Figure("commits", commits, ""),
        ],
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--duration", type=float, default=15.0, help="seconds")
    args = phase.arguments(parser)
    phase.run(args, lambda service: [measure(service, duration_s=args.duration)])


if __name__ == "__main__":
    main()
