"""What the demo shows at its end: tables against accounts, windows, SQL, dead letters, waits. Prints; decides nothing.

`report` is the judge as well: True only if every table holds exactly what was accepted and every final window equals a
recount of its events.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from eagleray.cli.demo.events import STREAMS
from eagleray.cli.demo.load import Load
from eagleray.cluster.client.http import Client

HEALTH = "/v1/streams/service_calls/windows/health"
REVENUE = """SELECT country, round(max(revenue), 2) AS best_10s, sum(purchases) AS purchases
FROM game_events.revenue GROUP BY country ORDER BY best_10s DESC LIMIT 4"""
DEVICES = """SELECT device.os, count(DISTINCT player) AS players, count(*) AS taps
FROM ui_events.events WHERE action = 'tap' GROUP BY ALL ORDER BY taps DESC"""
RECOUNT = """
WITH again AS (
    SELECT at_ms - at_ms % 5000 AS start_ms, service, count(*) AS calls FROM service_calls.events
    WHERE endpoint <> '/healthz' AND request_id NOT IN (
        SELECT json_extract_string(event, '$.request_id') FROM service_calls.late WHERE "window" = 'health')
    GROUP BY ALL)
SELECT count(*) AS windows, count(*) FILTER (WHERE again.calls = health.calls) AS equal
FROM service_calls.health LEFT JOIN again ON epoch_ms(window_start) = start_ms AND again.service = health.service"""


def report(console: Console, client: Client, load: Load, counts: dict[str, int], config_file: Path) -> bool:
    """Print everything; `counts` are the rows of the `events` tables. True if all of it is exact."""
    rate = load.acked / load.seconds
    console.print(
        f"[green]✓[/] {load.acked:,} events in {load.seconds:.0f} s, {rate:,.0f} a second, each with its verdict"
    )
    exact = _accounts(console, client, load, counts)
    _health(console, client)
    for title, sql in (("a window's table, in SQL", REVENUE), ("the events themselves, in SQL", DEVICES)):
        _table(console, title, query(client, sql), sql)
    _dead_letters(console, load)
    _waits(console, load)
    exact &= _verdict(console, client, exact)
    _next(console, config_file)
    return exact


def query(client: Client, sql: str) -> list[dict[str, Any]]:
    """Rows of a query over HTTP, as mappings; raises Refused, Unreachable."""
    answer = client.post("/v1/sql", {"query": sql})
    names = [column["name"] for column in answer["columns"]]
    return [dict(zip(names, row, strict=True)) for row in answer["rows"]]


def _accounts(console: Console, client: Client, load: Load, counts: dict[str, int]) -> bool:
    rows, exact = [], True
    for stream in STREAMS:
        account = load.accounts[stream]
        late = query(client, f"SELECT count(*) AS n FROM {stream}.late")[0]["n"]
        dead = query(client, f"SELECT count(*) AS n FROM {stream}.dead_letters")[0]["n"]
        same = counts[stream] == len(account.ids) and dead == account.rejected
        exact &= same
        rows.append(
            {
                "stream": stream,
                "sent": account.sent,
                "rejected": account.rejected,
                "twice": account.repeated,
                "accepted, once": len(account.ids),
                "in table": counts[stream],
                "dead letters": dead,
                "late": late,
                "": "[green]exact[/]" if same else "[red]WRONG[/]",
            }
        )
    _table(console, "what was sent, and what the tables hold", rows)
    return exact


def _health(console: Console, client: Client) -> None:
    rows = client.get(HEALTH)["rows"]
    rows.sort(key=lambda row: (row["window_start"], row["service"]))
    last_final = [row for row in rows if row["final"]][-4:]
    shown = last_final + [row for row in rows if not row["final"]][-4:]
    lines = [
        {
            "window": f"{row['window_start'][11:19]} - {row['window_end'][11:19]}",
            "service": row["service"],
            "calls": row["calls"],
            "p95 ms": f"{row['p95_ms']:.1f}",
            "slowest ms": f"{row['slowest_ms']:.1f}",
            "": "[green]final[/]" if row["final"] else "[yellow]open[/]",
        }
        for row in shown
    ]
    _table(console, "windows of 5 s, the open ones as they stand", lines, f"GET {HEALTH}")


def _dead_letters(console: Console, load: Load) -> None:
    reasons: dict[str, tuple[int, str]] = {}
    for account in load.accounts.values():
        for reason, (count, detail) in account.reasons.items():
            before, first = reasons.get(reason, (0, detail))
            reasons[reason] = (before + count, first)
    rows = [
        {"why": why, "events": count, "for example": shorten(detail, 72, placeholder=" …")}
        for why, (count, detail) in reasons.items()
    ]
    _table(console, "dead letters: rejected, kept byte for byte", rows, left=("why", "for example"))


def _waits(console: Console, load: Load) -> None:
    rows = [
        {"what": "sent → acked on disk", **_quantiles([seconds * 1e3 for seconds in load.latencies_s], "ms")},
        {"what": "sent → seen by SQL", **_quantiles(load.freshness_s, "s")},
    ]
    _table(console, "delays, measured by this client", rows)


def _quantiles(values: Sequence[float], unit: str) -> dict[str, str]:
    if len(values) < 2:
        return {"p50": "-", "p99": "-", "worst": "-"}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": f"{cuts[49]:.1f} {unit}", "p99": f"{cuts[98]:.1f} {unit}", "worst": f"{max(values):.1f} {unit}"}


def _verdict(console: Console, client: Client, exact: bool) -> bool:
    again = query(client, RECOUNT)[0]
    equal = again["windows"] == again["equal"]
    tables = "[green]✓[/] every accepted event is in its table, once" if exact else "[red]✗[/] a table is wrong"
    mark = "[green]✓[/]" if equal else "[red]✗[/]"
    console.print(f"\n{tables}")
    console.print(f"{mark} {again['equal']} of {again['windows']} final health windows equal a recount of their events")
    return bool(equal)


def _next(console: Console, config_file: Path) -> None:
    console.print("\n[bold]Next[/]")
    for command, what in (
        (f"eagleray sql -c {config_file} 'SHOW TABLES'", "query the tables, which stay"),
        (f"eagleray up -c {config_file}", "start the same platform again"),
        ("eagleray init my-project", "a project of your own"),
        ("docs/ARCHITECTURE.md", "how it works"),
    ):
        console.print(f"  [cyan]{command:<48}[/] {what}", highlight=False)


def _table(
    console: Console,
    title: str,
    rows: Sequence[dict[str, Any]],
    source: str = "",
    left: Sequence[str] = ("stream", "window", "service", "country", "os", "what"),
) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in rows[0] if rows else ():
        table.add_column(name, justify="left" if name in left else "right")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int | float) else str(value) for value in row.values()))
    console.print(f"\n[bold cyan]{title}[/]")
    if source:
        console.print(f"[dim]{source}[/]", highlight=False)
    console.print(table)
