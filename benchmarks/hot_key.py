#!/usr/bin/env python
"""Asks what one key with nine tenths of all events costs, against keys that share evenly.

    benchmarks/hot_key.py [--seconds 20] [--pairs 3] [--share 0.9] [--rows 500] [--url URL]

Phases with and without the hot key take turns on one platform, so that both meet the same machine. A phase ends when
the windows have counted and the writers have read all of it: its rate is of events through to there, not only acked.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import phase
import uvloop
from events import USERS, Feed
from load import Load, Plan, summary
from report import Figure, Report
from service import Service

RATIO_LEAST = 0.7
_USER = b'"user":"u'  # behind fields of one width: at the same place in every event


class KeyFeed(Feed):
    """Game events of which `share` are one user's, and the rest all users' alike."""

    def __init__(self, rows: int, share: float, **settings: Any) -> None:
        """`settings` as of Feed."""
        super().__init__(rows, **settings)
        rng = np.random.default_rng(settings.get("seed", 0))
        lines = self._bytes[:, self._pad :].reshape(-1, self._width)
        numbers = np.where(rng.random(len(lines)) < share, 0, rng.integers(1, USERS, len(lines)))
        at = lines[0].tobytes().index(_USER) + len(_USER)
        for digit in range(6):
            lines[:, at + digit] = 48 + numbers // 10 ** (5 - digit) % 10


class KeyLoad(Load):
    """A load of such events."""

    def __init__(self, plan: Plan, share: float) -> None:
        """`share` of the hot key."""
        super().__init__(plan)
        self.share = share

    def _feed(self, seed: int) -> KeyFeed:
        pool = max(self.plan.rows, 16_000 // self.plan.connections)
        return KeyFeed(self.plan.rows, self.share, run=self.plan.run, pool=pool, seed=seed, form=self.plan.form)


def send(plan: Plan, share: float) -> dict[str, float]:
    """Carry out the plan; for a process of its own."""
    load = KeyLoad(plan, share)
    uvloop.run(load.run())
    accepted = int(load.log.columns()["accepted"].sum())
    return {**summary(load), "accepted": accepted}


def measure(service: Service, *, seconds: float = 20.0, pairs: int = 3, share: float = 0.9, rows: int = 500) -> Report:
    """Uniform, hot, uniform, hot, …; the figures are medians."""
    acked: dict[float, list[float]] = {0.0: [], share: []}
    through: dict[float, list[float]] = {0.0: [], share: []}
    wrong = 0.0
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as sender:
        for turn in range(2 * pairs):
            kind = share if turn % 2 else 0.0
            plan = phase.plan(service, connections=24, rows=rows, duration_s=seconds)
            began = time.perf_counter()
            found = sender.submit(send, plan, kind).result()
            service.wait_quiet()
            through[kind].append(found["accepted"] / (time.perf_counter() - began))
            acked[kind].append(found["events_per_s"])
            wrong += found["not_ok"]
    uniform, hot = (float(np.median(through[kind])) for kind in (0.0, share))
    return Report(
        f"one key has {share:.0%} of events, {pairs} pairs of {seconds:g} s",
        [
            Figure("uniform, through windows and writers", uniform, "/s"),
            Figure("hot key, through windows and writers", hot, "/s"),
            Figure("hot over uniform", hot / uniform, "", RATIO_LEAST, "at least"),
            Figure("hot over uniform, acked", float(np.median(acked[share]) / np.median(acked[0.0])), ""),
            Figure("not acked", wrong, "requests", 0),
        ],
        details={"acked": {str(k): v for k, v in acked.items()}, "through": {str(k): v for k, v in through.items()}},
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    parser.add_argument("--pairs", type=int, default=3, choices=range(1, phase.PHASES_MAX // 2 + 1))
    parser.add_argument("--share", type=float, default=0.9, help="of the hot key")
    parser.add_argument("--rows", type=int, default=500, help="events per request")
    args = phase.arguments(parser)
    settings = {"seconds": args.seconds, "pairs": args.pairs, "share": args.share, "rows": args.rows}
    phase.run(args, lambda service: [measure(service, **settings)])


if __name__ == "__main__":
    main()
