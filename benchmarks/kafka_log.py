#!/usr/bin/env python
"""Asks what a log in Kafka costs beside the embedded one: end-to-end rate, ack latency; a broker on the same cores.

benchmarks/kafka_log.py [--rounds 2] [--seconds 20] [--rate 500]

The broker is that of the tests; it runs all the time. Each round starts a platform of each kind, in turn, over the same
project. Figures are ratios of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import latency
import phase
from report import Figure, Report, show, write
from service import RunningLoad, Service
from throughput import _until_stored

from tests.servers.kafka import Brokers, kafka_brokers

HERE = Path(__file__).resolve().parent
ROWS = 500  # events of a request


def settings(brokers: Brokers, round_: int) -> dict[str, str]:
    """A log in Kafka, as the environment says it."""
    return {
        "EAGLERAY__LOG__BACKEND": "kafka",
        "EAGLERAY__LOG__BROKERS": json.dumps(brokers.addresses),
        "EAGLERAY__LOG__KAFKA__TOPIC_PREFIX": f"round-{round_}",
        "EAGLERAY__LOG__KAFKA__REPLICATION": "1",
        "EAGLERAY__LOG__KAFKA__MIN_INSYNC_REPLICAS": "1",
    }


def end_to_end(service: Service, seconds: float, out: Path) -> float:
    """Events a second from the first request until all that was acked is in the table."""
    plan = phase.plan(service, connections=24, rows=ROWS, duration_s=seconds)
    began = time.perf_counter()
    _, columns = RunningLoad(plan, out).finish()
    accepted = int(columns["accepted"].sum())
    _until_stored(service, plan.first_seq, accepted)
    return accepted / (time.perf_counter() - began)


def measured(service: Service, seconds: float, rate: float, out: Path) -> dict[str, float]:
    """Both questions to one platform."""
    try:
        reached = end_to_end(service, seconds, out)  # first: it warms everything up
        acks = {figure.name: figure.value for figure in latency.measure(service, rate=rate, duration_s=seconds).figures}
        return {"rate": reached, "p50": acks["p50"], "p99": acks["p99"]}
    finally:
        service.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=500.0, help="one-event requests a second")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "kafka-log")
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"embedded": [], "kafka": []}
    with tempfile.TemporaryDirectory(prefix="eagleray-bench-") as text:
        directory = Path(text)
        with kafka_brokers(directory / "kafka") as brokers:
            for round_ in range(args.rounds):
                for side in found:
                    environ = settings(brokers, round_) if side == "kafka" else {}
                    service = Service.start(directory / f"{side}-{round_}", environ)
                    found[side].append(measured(service, args.seconds, args.rate, directory / "load.npz"))
                    print(side, {name: round(value, 1) for name, value in found[side][-1].items()}, flush=True)
    middle = {side: {n: statistics.median(one[n] for one in runs) for n in runs[0]} for side, runs in found.items()}
    embedded, kafka = middle["embedded"], middle["kafka"]
    report = Report(
        f"a log in Kafka beside the embedded one, median of {args.rounds} in turn",
        [
            Figure("embedded, end to end", embedded["rate"], "events/s"),
            Figure("Kafka, end to end", kafka["rate"], "events/s"),
            Figure("Kafka against embedded", kafka["rate"] / embedded["rate"], "×", 0.6, "at least"),
            Figure("ack p50, embedded", embedded["p50"], "ms"),
            Figure("ack p50, Kafka", kafka["p50"], "ms"),
            Figure("ack p50, Kafka against embedded", kafka["p50"] / embedded["p50"], "×", 2.0),
            Figure("ack p99, embedded", embedded["p99"], "ms"),
            Figure("ack p99, Kafka", kafka["p99"], "ms"),
        ],
        details={"runs": found},
    )
    show([report])
    print(f"written: {write([report], args.out, ' '.join(sys.argv), 'runs.png')}")
    sys.exit(0 if report.met else 1)


if __name__ == "__main__":
    main()
