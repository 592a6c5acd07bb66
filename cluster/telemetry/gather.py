"""Turns the controller's status into metric samples: pool sizes, memory, lag, watermarks, each worker's counters.

The status is the plain dict of `GET /v1/status`, so that a metric and the status page can never disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagleray.cluster.sections import SloConfig
from eagleray.cluster.telemetry.metrics import PROCESS, labelled, sample


def platform_samples(status: Mapping[str, Any]) -> dict[str, float]:
    """Samples of everything that `status` names; parts that are missing are left out."""
    found: dict[str, float] = {}
    for pool, row in status.get("pools", {}).items():
        found[sample("pool_size", pool=pool)] = row["size"]
        found[sample("pool_alive", pool=pool)] = row["alive"]
    for row in status.get("processes", ()):
        labels = {"pool": row["pool"], PROCESS: row["name"]}
        found[sample("process_resident_bytes", **labels)] = row.get("rss_bytes") or 0
        found[sample("process_restarts_total", **labels)] = row.get("restarts") or 0
        found[sample("process_replaced_total", **labels)] = row.get("replaced") or 0
    for row in status.get("partitions", ()):
        found |= _partition_samples(row)
    found |= labelled(dict(status.get("counters", {})), **{PROCESS: "committer"})
    for name, counters in status.get("workers", {}).items():
        found |= labelled(dict(counters), **{PROCESS: name})
    return found


def shares(slo: SloConfig) -> dict[str, float]:
    """By objective, the share of what it judges that shall meet it."""
    return {"ack": 0.99, "freshness": 0.99, "success": slo.success}


def objective_samples(slo: SloConfig) -> dict[str, float]:
    """The same as samples."""
    return {sample("slo_target_ratio", objective=name): share for name, share in shares(slo).items()}


def _partition_samples(row: Mapping[str, Any]) -> dict[str, float]:
    labels = {"stream": row["stream"], "partition": row["partition"]}
    found = {sample("log_end_offset", **labels): float(row["end"])}
    for consumer in ("writer", "window"):
        if report := row.get(consumer):
            lag = max(report["end"] - report["position"], 0)
            found[sample("consumer_lag_records", **labels, consumer=consumer)] = float(lag)
    watermark_us = (row.get("window") or {}).get("watermark_us")
    if watermark_us is not None:
        found[sample("watermark_seconds", **labels)] = watermark_us / 1e6
    return found
