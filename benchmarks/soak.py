#!/usr/bin/env python
"""Asks what grows when nothing but time passes: memory, descriptors, files and table metadata at a steady, modest load.

    benchmarks/soak.py [--minutes 60] [--rate 4] [--rows 500]

Every process is looked at three times a minute. Growth is the slope over the second half, when caches are full.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import phase
from processes import MIB, memory
from report import Figure, Report
from service import RunningLoad, Service

OUT = Path(__file__).resolve().parent / "out"
LOOK_S = 20.0
GROWTH_MAX = 0.05  # of what there is, per hour
DESCRIPTORS_MAX = 20  # more per hour, of all processes together


@dataclass(frozen=True)
class Look:
    """The platform at one moment."""

    at: float  # seconds since the beginning
    pss: dict[str, int]  # bytes, by process
    descriptors: int
    metadata_bytes: int  # the largest metadata file of any table
    log_files: int


def look(service: Service, data: Path, began: float) -> Look:
    """Every process and every directory, now."""
    pids = service.pids()
    descriptors = 0
    for pid in pids.values():
        with suppress(OSError):  # ended meanwhile
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
    metadata = 0
    for file in data.glob("lake/**/*.metadata.json"):
        with suppress(OSError):  # removed meanwhile
            metadata = max(metadata, file.stat().st_size)
    return Look(
        time.monotonic() - began,
        {name: memory(pid)[1] for name, pid in pids.items()},
        descriptors,
        metadata,
        sum(file.is_file() for file in (data / "log").rglob("*")),
    )


def per_hour(looks: list[Look], values: list[float]) -> float:
    """The slope over the second half, per hour."""
    half = len(looks) // 2
    if len(looks) - half < 2:
        return 0.0
    return float(np.polyfit([one.at for one in looks[half:]], values[half:], 1)[0]) * 3600


def measure(service: Service, data: Path, *, minutes: float, rate: float, rows: int) -> Report:
    """Send for `minutes` and look meanwhile."""
    plan = phase.plan(service, connections=4, rows=rows, duration_s=60 * minutes, rate=rate)
    load, looks, began = RunningLoad(plan, OUT / "soak.npz"), [], time.monotonic()
    while load.running:
        looks.append(look(service, data, began))
        time.sleep(LOOK_S)
    found, _ = load.finish()
    names = sorted({name for one in looks for name in one.pss})
    seconds = [one.at for one in looks]
    total = [float(sum(one.pss.values())) for one in looks]
    half = len(looks) // 2
    figures = [
        Figure("events/s", found["events_per_s"], "/s"),
        Figure("not acked", found["not_ok"], "requests", 0),
        Figure("memory of all actors, PSS, at half-time", total[half] / MIB, "MiB"),
        Figure("memory of all actors, PSS, at the end", total[-1] / MIB, "MiB"),
        Figure("memory, growth per hour", per_hour(looks, total) / total[half], "of it", GROWTH_MAX),
        Figure("descriptors, at the end", looks[-1].descriptors, ""),
        Figure("descriptors, more per hour", per_hour(looks, [one.descriptors for one in looks]), "", DESCRIPTORS_MAX),
        Figure("files of the log, more per hour", per_hour(looks, [one.log_files for one in looks]), "", 1),
        Figure("largest table metadata, at the end", looks[-1].metadata_bytes / 1024, "KiB"),
        Figure("largest table metadata, at half-time", looks[half].metadata_bytes / 1024, "KiB"),
    ]
    for name in names:
        series = [float(one.pss.get(name, 0)) for one in looks]
        figures.append(Figure(f"{name}, PSS growth per hour", per_hour(looks, series) / MIB, "MiB"))
    shown = {name: (seconds, [one.pss.get(name, 0) / MIB for one in looks]) for name in names}
    return Report(f"{minutes:g} minutes at {rate * rows:,.0f} events/s: PSS in MiB", figures, shown)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=4.0, help="requests per second")
    parser.add_argument("--rows", type=int, default=500, help="events per request")
    args = phase.arguments(parser)

    def soak(service: Service) -> list[Report]:
        if service.data is None:
            parser.error("--url: the files of a platform elsewhere cannot be counted; leave it out")
        return [measure(service, service.data, minutes=args.minutes, rate=args.rate, rows=args.rows)]

    phase.run(args, soak)


if __name__ == "__main__":
    main()
