"""Renders gathered samples as Prometheus text. Called by the edge's /metrics; knows nothing of who counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from eagleray.cluster.telemetry.histogram import Histogram
from eagleray.cluster.telemetry.metrics import BY_NAME, METRICS, Metric, parse_sample, sample

PREFIX = "eagleray_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS_LE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES_LE = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0)
_PARTS = ("_bucket", "_sum", "_count")


def histogram_samples(name: str, histogram: Histogram, **labels: object) -> dict[str, float]:
    """`histogram` as samples with cumulative buckets; counted in microseconds where the metric's unit is seconds."""
    scale, limits = (1e6, SECONDS_LE) if BY_NAME[name].unit == "seconds" else (1.0, SIZES_LE)
    found: dict[str, float] = {
        sample(f"{name}_bucket", **labels, le=f"{limit:g}"): histogram.at_most(int(limit * scale)) for limit in limits
    }
    found[sample(f"{name}_bucket", **labels, le="+Inf")] = histogram.count
    found[sample(f"{name}_count", **labels)] = histogram.count
    found[sample(f"{name}_sum", **labels)] = histogram.sum / scale
    return found


def render(samples: Mapping[str, float]) -> bytes:
    """Prometheus text of all samples in the list's order; a name that is not in the list comes last, untyped."""
    return generate_latest(cast(CollectorRegistry, _Gathered(samples)))


class _Gathered(Collector):
    def __init__(self, samples: Mapping[str, float]) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Family]:
        families = {metric.name: _family(metric) for metric in METRICS}
        for key, value in self._samples.items():
            name, labels = parse_sample(key)
            metric = _metric_of(name)
            family = families.get(metric.name if metric else name)
            if family is None:
                family = families[name] = Family(PREFIX + name, "Not in the list of metrics.", "untyped")
            family.add_sample(PREFIX + name, labels, value)
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
