"""`eagleray status`: what `GET /v1/status` says, as tables for people; `--json` for programs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile, Key, Url
from eagleray.cluster.client.target import connect
from eagleray.cluster.clock import Clock, SystemClock, iso

LINE = 120


def status(
    url: Url = None,
    key: Key = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="The answer of /v1/status as it is.")] = False,
) -> None:
    """Show pools, streams and tables of a running platform. Needs a key with scope read."""
    with connect(url, key, config_file) as client:
        found = client.get("/v1/status")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=LINE)  # a file or a pipe has no width of its own
    console.print(f"[bold]{client.url}[/]")
    for title, rows in {
        "pools": pool_rows(found),
        "streams": stream_rows(found),
        "tables": table_rows(found, SystemClock()),
    }.items():
        _show(console, title, rows)


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
    """One row per stream: records in the log, how far each consumer is behind, the lowest watermark."""
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
                "log records": f"{sum(partition.get('end', 0) for partition in partitions):,}",
                "writer lag": _lag(partitions, "writer"),
                "window lag": _lag(partitions, "window"),
                "watermark": iso(min(marks)) if marks else "-",
            }
        )
    return rows


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


def _show(console: Any, title: str, rows: list[dict[str, str]]) -> None:
    from rich import box
    from rich.table import Table

    if not rows:
        return
    console.print(f"\n[bold cyan]{title}[/]")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
