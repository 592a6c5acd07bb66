"""What one edge process counts: requests, latencies, batches, events. Read by status."""

from __future__ import annotations

from collections import Counter
from typing import Any

from eagleray.cluster.events.verdict import Answer
from eagleray.cluster.sections import SloConfig
from eagleray.cluster.telemetry.histogram import Histogram, Recent
from eagleray.cluster.telemetry.metrics import sample
from eagleray.cluster.telemetry.prometheus import SECONDS_LE, Exemplar, histogram_samples
from eagleray.cluster.telemetry.tracing import trace_id

DEFAULT = SloConfig()
INGEST = "/v1/streams/{stream}/events"
"""The route that events come in by."""


class Meters:
    """Counters since the process started, and distributions of the last minute."""

    def __init__(self, slo: SloConfig = DEFAULT) -> None:
        """Everything at zero; `slo` says which acks are too slow."""
        self._ack_s = slo.ack_p99 / 1e6
        self.sent = self.failed = self.acked = self.slow = 0  # requests with events, for the objectives
        self.exemplars: dict[str, Exemplar] = {}  # by the sample of a bucket: the newest that was traced
        self.acks = Histogram()  # microseconds, of those acked
        self.requests: Counter[tuple[str, int]] = Counter()  # by route and status
        self.latency: dict[str, Histogram] = {}  # by route, microseconds
        self.recent_posts = Recent()  # microseconds
        self.active = 0
        self.received_bytes = 0
        self.batch_requests, self.batch_bytes, self.ack = Histogram(), Histogram(), Histogram()
        self.accepted: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        self.rejected: Counter[tuple[str, str]] = Counter()

    def answered(self, route: str, status: int, elapsed_s: float, trace: str = "") -> None:
        """Count one answered request; `trace` is its context, where it is sampled."""
        self.requests[route, status] += 1
        latency = self.latency.get(route)
        if latency is None:
            latency = self.latency[route] = Histogram()
        latency.record(int(elapsed_s * 1e6))
        if trace:
            limit = next((f"{limit:g}" for limit in SECONDS_LE if elapsed_s <= limit), "+Inf")
            key = sample("http_request_seconds_bucket", route=route, le=limit)
            self.exemplars[key] = Exemplar(trace_id(trace), elapsed_s)
        if route == INGEST:
            self.sent += 1
            if status == 200:
                self.acked += 1
                self.acks.record(int(elapsed_s * 1e6))
                if elapsed_s > self._ack_s:
                    self.slow += 1
            elif status >= 500:
                self.failed += 1

    def judged(self, stream: str, answer: Answer) -> None:
        """Count one submission's verdicts."""
        self.accepted[stream] += answer.accepted
        if answer.duplicates:
            self.repeated[stream] += answer.duplicates
        for _, reason, _ in answer.rejected:
            self.rejected[stream, reason] += 1

    def judgements(self) -> dict[str, tuple[int, int, dict[int, int]]]:
        """What objectives have judged since the process began (`actors.objectives.Counts`)."""
        return {"ack": (self.acked, self.slow, self.acks.sparse()), "success": (self.sent, self.failed, {})}

    def samples(self) -> dict[str, float]:
        """All counters as samples (see cluster.telemetry.metrics)."""
        found: dict[str, float] = {
            "http_in_flight_requests": self.active,
            "edge_received_bytes_total": self.received_bytes,
        }
        found |= {sample("http_requests_total", route=r, status=s): n for (r, s), n in self.requests.items()}
        for route, latency in self.latency.items():
            found |= histogram_samples("http_request_seconds", latency, route=route)
        found |= histogram_samples("edge_batch_requests", self.batch_requests)
        found |= histogram_samples("edge_batch_bytes", self.batch_bytes)
        found |= histogram_samples("edge_ack_seconds", self.ack)
        found[sample("slo_events_total", objective="ack")] = self.acked
        found[sample("slo_missed_total", objective="ack")] = self.slow
        found[sample("slo_events_total", objective="success")] = self.sent
        found[sample("slo_missed_total", objective="success")] = self.failed
        found |= {sample("events_accepted_total", stream=s): n for s, n in self.accepted.items()}
        found |= {sample("events_repeated_total", stream=s): n for s, n in self.repeated.items()}
        found |= {sample("events_rejected_total", stream=s, reason=r): n for (s, r), n in self.rejected.items()}
        return found

    def report(self) -> dict[str, Any]:
        """Rates and latencies of POSTed events over the last minute, for people."""
        recent, seconds = self.recent_posts.snapshot()
        latency = {f"p{percent:g}": _milliseconds(recent.percentile(percent)) for percent in (50, 99, 99.9)}
        return {
            "requests_per_s": round(recent.count / seconds, 1),
            "latency_ms": latency,
            "in_flight_requests": self.active,
            "events": {
                "accepted": dict(self.accepted),
                "rejected": {f"{stream}.{reason}": count for (stream, reason), count in self.rejected.items()},
            },
        }


def _milliseconds(micros: float | None) -> float | None:
    return None if micros is None else round(micros / 1000, 2)
