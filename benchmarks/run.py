#!/usr/bin/env python
"""Every question about speed and memory, one after the other on one platform: `make bench`.

    benchmarks/run.py [--minutes 1] [--only latency,throughput] [--url URL]

Prints figures against promises, writes results.json and latency.png to benchmarks/out/, exits 1 if a promise is missed.
"""

from __future__ import annotations

import argparse

import freshness
import latency
import phase
import recovery
import single
import throughput
from report import Report
from service import Service

QUESTIONS = ("latency", "single", "freshness", "throughput", "recovery")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long full load lasts")
    parser.add_argument(
        "--rate", type=float, help="requests of 500 events per second under full load; default: closed loop"
    )
    parser.add_argument("--only", default=",".join(QUESTIONS), help=f"some of {', '.join(QUESTIONS)}")
    args = phase.arguments(parser)
    wanted = args.only.split(",")

    def measure(service: Service) -> list[Report]:
        answers = {
            "latency": lambda: latency.measure(service),
            "single": lambda: single.measure(service),
            "freshness": lambda: freshness.measure(service),
            "throughput": lambda: throughput.measure(service, minutes=args.minutes, rate=args.rate),
            "recovery": lambda: recovery.measure(service),
        }
        reports = []
        for question in QUESTIONS:
            if question in wanted:
                print(f"measuring {question} …", flush=True)
                reports.append(answers[question]())
                service.wait_quiet()
        return reports

    phase.run(args, measure)


if __name__ == "__main__":
    main()
