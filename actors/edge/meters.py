"""What one edge process counts: requests, latencies, batches, events. Read by status."""

from __future__ import annotations

from collections import Counter
from typing import Any

from eagleray.cluster.events.verdict import Answer
from eagleray.cluster.telemetry.histogram import Histogram, Recent
from eagleray.cluster.telemetry.metrics import sample
from eagleray.cluster.telemetry.prometheus import histogram_samples


class Meters:
    """Counters since the process started, and distributions of the last minute."""

    def __init__(self) -> None:
        """Everything at zero."""
        self.requests: Counter[tuple[str, int]] = Counter()  # by route and status
        self.latency: dict[str, Histogram] = {}  # by route, microseconds
        self.recent_posts = Recent()  # microseconds
        self.active = 0
        self.received_bytes = 0
        self.batch_requests, self.batch_bytes, self.ack = Histogram(), Histogram(), Histogram()
        self.accepted: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        self.rejected: Counter[tuple[str, str]] = Counter()

    def answered(self, route: str, status: int, elapsed_s: float) -> None:
        """Count one answered request."""
        self.requests[route, status] += 1
        latency = self.latency.get(route)
        if latency is None:
            latency = self.latency[route] = Histogram()
        latency.record(int(elapsed_s * 1e6))

    def judged(self, stream: str, answer: Answer) -> None:
        """Count one submission's verdicts."""
        self.accepted[stream] += answer.accepted
        if answer.duplicates:
            self.repeated[stream] += answer.duplicates
        for _, reason, _ in answer.rejected:
            self.rejected[stream, reason] += 1

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
