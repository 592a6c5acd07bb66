#!/usr/bin/env python
"""What traces cost: requests of 500 events, validated and made durable, every other one with traces at a ratio of 20 %.

    benchmarks/traces.py [--requests 360]

One process and one thread of time (`time.thread_time`): what else the machine does disturbs both halves alike, so their
ratio holds where rates mean nothing. The surplus at 1 % is a twentieth of that at 20 %, which alone is above the
noise. The exporter has a thread of its own, which is not counted: some 40 us a span (docs/adr/0033).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from eagleray.cluster.events.verdict import Submission
from eagleray.cluster.telemetry import tracing
from tests.servers.otlp import receiver
from tests.stream_project import TEXT, StreamProject

ROWS, WARM, RATIO = 500, 40, 0.2
ENDS = 20  # one of so many requests, the slowest, is left out of each half


def body(number: int) -> bytes:
    """A request's events."""
    rows = ({"t": f"2026-01-01T12:00:{n % 60:02d}Z", "id": f"{number}-{n}", "v": "x" * 50} for n in range(ROWS))
    return b"\n".join(json.dumps(row).encode() for row in rows)


def request(project: StreamProject, events: bytes, coin: tracing.Coin | None) -> float:
    """Seconds of this thread for one request, with the spans of edge and validation where the coin says so."""
    began = time.thread_time()
    parent = coin.toss(None) if coin is not None else None
    if parent is None:
        project.validate.submit([Submission("s", "ndjson", events)])
        return time.thread_time() - began
    with tracing.request("POST", parent):
        with tracing.step("read the body"):
            pass
        with tracing.step("wait until it is durable", bytes=len(events)) as waiting:
            project.validate.submit([Submission("s", "ndjson", events, trace=waiting.contexts[0])])
    return time.thread_time() - began


def mean_us(seconds: list[float]) -> float:
    """Microseconds, without the slowest."""
    kept = sorted(seconds)[: len(seconds) - len(seconds) // ENDS]
    return 1e6 * sum(kept) / len(kept)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=360)
    args = parser.parse_args()
    with receiver() as received, tempfile.TemporaryDirectory(prefix="eagleray-bench-") as directory:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{received.http_port}"
        os.environ.pop("OTEL_SDK_DISABLED", None)
        tracing.start("bench")
        coin = tracing.Coin({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": f"{RATIO}"})
        project = StreamProject(Path(directory))
        project.configure({"v": TEXT, "id": TEXT}, id="id")
        project.up()
        spent: dict[bool, list[float]] = {False: [], True: []}
        for number in range(args.requests + WARM):
            traced = bool(number % 2)
            took = request(project, body(number), coin if traced else None)
            if number >= WARM:
                spent[traced].append(took)
        tracing.flush()
        project.kill()
        tracing.use(None)
    off, on = mean_us(spent[False]), mean_us(spent[True])
    print(f"{off:,.0f} us a request of {ROWS} events, {on:,.0f} with {RATIO:.0%} traced; {len(received.spans)} spans")
    print(f"at 1 %: {100 * (on / off - 1) * 0.01 / RATIO:+.2f} %")


if __name__ == "__main__":
    main()
