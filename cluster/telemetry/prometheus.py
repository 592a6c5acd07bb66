"""Renders gathered samples as Prometheus text. Called by the edge's /metrics; knows nothing of who counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as Shown

from eagleray.cluster.telemetry.histogram import Histogram
from eagleray.cluster.telemetry.metrics import BY_NAME, METRICS, Metric, parse_sample, sample

PREFIX = "eagleray_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text"
OPEN_METRICS_TYPE = f"{OPEN_METRICS}; version=1.0.0; charset=utf-8"
SECONDS_LE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
MINUTES_LE = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)  # freshness, durations of jobs
SIZES_LE = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0)
_SLOW = ("freshness_seconds", "job_duration_seconds")
_PARTS = ("_bucket", "_sum", "_count")


def histogram_samples(name: str, histogram: Histogram, **labels: object) -> dict[str, float]:
    """`histogram` as samples with cumulative buckets; counted in microseconds where the metric's unit is seconds."""
    scale, limits = _limits(name)
    found: dict[str, float] = {
        sample(f"{name}_bucket", **labels, le=f"{limit:g}"): histogram.at_most(int(limit * scale)) for limit in limits
    }
    found[sample(f"{name}_bucket", **labels, le="+Inf")] = histogram.count
    found[sample(f"{name}_count", **labels)] = histogram.count
    found[sample(f"{name}_sum", **labels)] = histogram.sum / scale
    return found


def _limits(name: str) -> tuple[float, Sequence[float]]:
    """(what is counted for each of the metric's unit, upper limits of its buckets)."""
    if BY_NAME[name].unit != "seconds":
        return 1.0, SIZES_LE
    return 1e6, MINUTES_LE if name in _SLOW else SECONDS_LE


class Exemplar(NamedTuple):
    """One of the values that a bucket counts: the trace that shows it."""

    trace: str  # 32 hexadecimal digits
    value: float


def render(samples: Mapping[str, float]) -> bytes:
    """Prometheus text of all samples in the list's order; a name that is not in the list comes last, untyped."""
    return generate_latest(cast(CollectorRegistry, _Gathered(samples, {})))


def render_open_metrics(samples: Mapping[str, float], exemplars: Mapping[str, Exemplar]) -> bytes:
    """The same as OpenMetrics, which has exemplars; they are named by the samples of their buckets."""
    text: bytes = open_metrics(_Gathered(samples, exemplars))  # type: ignore[no-untyped-call]
    return text


class _Gathered(Collector):
    def __init__(self, samples: Mapping[str, float], exemplars: Mapping[str, Exemplar]) -> None:
        self._samples = samples
        self._exemplars = exemplars

    def collect(self) -> Iterable[Family]:
        families = {metric.name: _family(metric) for metric in METRICS}
        for key, value in self._samples.items():
            name, labels = parse_sample(key)
            metric = _metric_of(name)
            family = families.get(metric.name if metric else name)
            if family is None:
                family = families[name] = Family(PREFIX + name, "Not in the list of metrics.", "untyped")
            found = self._exemplars.get(key)
            exemplar = Shown({"trace_id": found.trace}, found.value) if found else None
            family.add_sample(PREFIX + name, labels, value, exemplar=exemplar)
        return (family for family in families.values() if family.samples)


def _family(metric: Metric) -> Family:
    # prometheus-client appends `_total` to the names of counters itself
    return Family(PREFIX + metric.name.removesuffix("_total"), metric.help, metric.type)


def _metric_of(name: str) -> Metric | None:
    for part in _PARTS:
        stem = name.removesuffix(part)
        if stem != name and stem in BY_NAME and BY_NAME[stem].type == "histogram":
            return BY_NAME[stem]
    return BY_NAME.get(name)
