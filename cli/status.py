"""`eagleray status`: what `GET /v1/status` says, as tables for people; `--json` for programs."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from eagleray.cli.options import DEFAULT_CONFIG, Ca, Cert, ConfigFile, Key, Url
from eagleray.cli.terminal_table import print_table
from eagleray.cluster.client.target import connect
from eagleray.cluster.clock import Clock, SystemClock, iso
from eagleray.cluster.log.lineage import EPOCH_OFFSETS
from eagleray.cluster.telemetry.metrics import parse_sample


def status(
    url: Url = None,
    key: Key = None,
    ca: Ca = None,
    cert: Cert = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="The answer of /v1/status as it is.")] = False,
) -> None:
    """Show pools, streams and tables of a running platform. Needs a key with scope read."""
    with connect(url, key, config_file, ca, cert) as client:
        found = client.get("/v1/status")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(client.url)
    for title, rows in {
        "nodes": node_rows(found),
        "pools": pool_rows(found),
        "streams": stream_rows(found),
        "tables": table_rows(found, SystemClock()),
        "broken files of jobs/ (see `eagleray job list`)": broken_rows(found),
    }.items():
        _show(title, rows)


def node_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per node of a cluster: what it is for, where its edge is, how many workers answer there."""
    return [
        {
            "node": str(node.get("node")),
            "role": str(node.get("role") or "any"),
            "edge": str(node.get("url") or "-"),
            "workers": str(len(node.get("workers", []))),
            "state": "draining" if node.get("draining") else "in use" if node.get("workers") else "empty",
        }
        for node in found.get("nodes", [])
    ]


def pool_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per pool: workers alive of wanted, restarts, memory."""
    processes = found.get("processes", [])
    rows = []
    for pool, about in found.get("pools", {}).items():
        mine = [process for process in processes if process.get("pool") == pool]
        rows.append(
            {
                "pool": pool,
                "alive": f"{about.get('alive', '?')} of {about.get('size', '?')}",
                "restarts": str(sum(process.get("restarts", 0) for process in mine)),
                "memory": f"{sum(process.get('rss_bytes', 0) for process in mine) / 2**20:,.0f} MiB",
            }
        )
    return rows


def stream_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per stream: records that its log has taken, how far each consumer is behind, the lowest watermark."""
    streams: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for partition in found.get("partitions", []):
        streams[str(partition.get("stream"))].append(partition)
    rows = []
    for stream, partitions in streams.items():
        windows = [partition.get("window") or {} for partition in partitions]
        marks = [mark for window in windows if (mark := window.get("watermark_us")) is not None]
        rows.append(
            {
                "stream": stream,
                "partitions": str(len(partitions)),
                "log records": _records(partitions),
                "writer lag": _lag(partitions, "writer"),
                "window lag": _lag(partitions, "window"),
                "watermark": iso(min(marks)) if marks else "-",
            }
        )
    return rows


def _records(partitions: list[Mapping[str, Any]]) -> str:
    """How many records the log has taken in this epoch; or the code of what is wrong with it."""
    if problem := next((one["problem"]["code"] for one in partitions if one.get("problem")), None):
        return str(problem)
    return f"{sum(one.get('end', 0) % EPOCH_OFFSETS for one in partitions):,}"


def _lag(partitions: list[Mapping[str, Any]], consumer: str) -> str:
    reports = [partition.get(consumer) for partition in partitions]
    if any(report is None for report in reports):
        return "restoring"
    return f"{sum(max(0, report['end'] - report['position']) for report in reports if report):,}"


def table_rows(found: Mapping[str, Any], clock: Clock) -> list[dict[str, str]]:
    """One row per table: rows committed by this process of the committer, and how long ago."""
    counters = found.get("counters", {})
    return [
        {
            "table": table,
            "rows committed": f"{counters.get(f'committed_rows_total{{table={table}}}', 0):,.0f}",
            "last commit": f"{max(0, clock.now_us() - at_us) / 1e6:,.1f} s ago",
        }
        for table, at_us in sorted(found.get("last_commit_us", {}).items())
    ]


def broken_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per file that the scheduler leaves out."""
    keys = {key for samples in found.get("workers", {}).values() for key in samples}
    named = (labels["file"] for name, labels in map(parse_sample, keys) if name == "job_files_broken")
    return [{"file": file} for file in sorted(named)]


def _show(title: str, rows: list[dict[str, str]]) -> None:
    if rows:
        print(f"\n{title}")
        names = list(rows[0])
        cells = [list(row.values()) for row in rows]
        print_table(names, cells, sys.stdout, right=names[1:], whole=names[:1], all_with="--json shows all")
