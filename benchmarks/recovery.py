#!/usr/bin/env python
"""Asks what a killed worker costs: how long acks pause, and when windows and tables have caught up.

    benchmarks/recovery.py [--events-per-s 20000] [--url URL]

One worker of each pool is killed (SIGKILL) while a steady load runs. The pause of acks is the longest time between two
acks that follow the kill. Caught up: from then on windows and table are as fresh as promised (`freshness.py`), that is,
they hold everything that was acked up to four seconds before they were asked.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

import numpy as np
import phase
from report import Figure, Report, over_time
from service import Columns, RunningLoad, Service, kill

OUT = Path(__file__).resolve().parent / "out"
ROWS = 500
POOLS = ("validate", "window", "writer", "committer", "edge")
FIRST_S, BETWEEN_S = 8.0, 20.0
NO_ANSWER = -1
BEHIND_S = 4.0  # what tables and windows may always be behind


class Progress:
    """What windows and the table held at each moment; two threads ask, so that neither waits for the other."""

    def __init__(self, service: Service, first_seq: int) -> None:
        self.service, self.first_seq = service, first_seq
        self.since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 10))
        self.windows: list[tuple[float, int]] = []
        self.table: list[tuple[float, int]] = []
        self.over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(self.windows, self._in_windows))]
        self._threads += [threading.Thread(target=self._ask, args=(self.table, self._in_table))]

    def __enter__(self) -> Progress:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.over.set()
        for thread in self._threads:
            thread.join()

    def _in_windows(self) -> int:
        return sum(row["events"] for row in self.service.windows("kinds", self.since))

    def _in_table(self) -> int:
        return int(self.service.sql(f"SELECT count(*) FROM plays.events WHERE seq >= {self.first_seq}")[0][0])

    def _ask(self, answers: list[tuple[float, int]], question: object) -> None:
        assert callable(question)
        while not self.over.wait(0.3):
            at = time.perf_counter()
            try:
                answers.append((at, question()))
            except OSError:  # workers are away
                answers.append((at, NO_ANSWER))


def measure(service: Service, *, events_per_s: float = 20_000.0) -> Report:
    """Kill one worker of each pool in turn."""
    duration_s = FIRST_S + BETWEEN_S * len(POOLS)
    plan = phase.plan(service, connections=32, rows=ROWS, rate=events_per_s / ROWS, duration_s=duration_s)
    killed: dict[str, float] = {}
    with Progress(service, plan.first_seq) as progress:
        load = RunningLoad(plan, OUT / "recovery.npz")
        time.sleep(FIRST_S)
        for pool in POOLS:
            _, pid = min(service.pids(pool).items())
            killed[pool] = time.perf_counter()
            kill(pid)
            time.sleep(BETWEEN_S)
        found, columns = load.finish()
    figures = []
    for pool, at in killed.items():
        figures.append(Figure(f"{pool} killed: acks pause", _pause(columns, at), "s", 1 if pool != "edge" else None))
        for what, answers in (("windows", progress.windows), ("table", progress.table)):
            caught_up = _caught_up(columns, answers, at)
            figures.append(Figure(f"{pool} killed: {what} caught up after", caught_up, "s", 15))
    figures.append(Figure("requests not acked at the first try", found["not_ok"], "requests"))
    return Report(f"killed workers, {events_per_s:,.0f} events/s", figures, over_time(columns, 0.5), dict(found))


def _pause(columns: Columns, killed: float) -> float:
    good = np.sort(columns["answered"][columns["status"] == 200])
    inside = good[(good >= killed - 0.5) & (good < killed + BETWEEN_S - 1)]
    ends = inside[1:]
    return float(np.max(np.where(ends > killed, np.diff(inside), 0))) if len(inside) > 1 else float("inf")


def _caught_up(columns: Columns, answers: list[tuple[float, int]], killed: float) -> float:
    """Seconds from the kill to the answer after the last that was behind or missing; infinite if there is none."""
    good = columns["status"] == 200
    order = np.argsort(columns["answered"][good])
    answered, total = columns["answered"][good][order], np.cumsum(columns["accepted"][good][order])
    mine = [(at, held) for at, held in answers if killed <= at < killed + BETWEEN_S - 0.5]
    last = killed
    for index, (at, held) in enumerate(mine):
        acked = np.searchsorted(answered, at - BEHIND_S, side="right")
        if acked and held < total[acked - 1]:
            last = mine[index + 1][0] if index + 1 < len(mine) else float("inf")
    return last - killed if mine else float("inf")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--events-per-s", type=float, default=20_000.0)
    args = phase.arguments(parser)
    phase.run(args, lambda service: [measure(service, events_per_s=args.events_per_s)])


if __name__ == "__main__":
    main()
