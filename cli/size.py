"""`eagleray size`: the plan for a load, as tables for people; `--format json` for programs. No platform is needed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, TextIO

import typer

from eagleray.cli.sizing import DAY_S, DEFAULTS, Load, Plan, plan, read_table
from eagleray.cli.terminal_table import print_facts, print_table
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.quantities import parse_size


def size(
    events_per_s: Annotated[
        float | None, typer.Option("--events-per-s", help="Events a second, the average of a day.")
    ] = None,
    event_bytes: Annotated[
        str | None, typer.Option("--event-bytes", help="Bytes of an event as JSON, such as 350 or 1KiB.")
    ] = None,
    retention_days: Annotated[float, typer.Option(min=0, help="How long the lake keeps events.")] = 365.0,
    peak: Annotated[float, typer.Option(min=1, help="How many times the average the busiest minutes are.")] = 3.0,
    events_per_request: Annotated[float, typer.Option(min=1, help="Events that clients send at once.")] = 100.0,
    log_hours: Annotated[float, typer.Option(min=1, help="How long Kafka keeps records.")] = 24.0,
    streams: Annotated[int, typer.Option(min=1, help="Streams that share the rate.")] = 1,
    commit_interval_s: Annotated[float, typer.Option(min=0.1, help="lake.commit_interval_s.")] = 10.0,
    jobs: Annotated[int, typer.Option(min=0, help="Jobs a day, each over the day's events.")] = 0,
    job_weight: Annotated[float, typer.Option(min=0, help="How many times the benchmark's job one costs.")] = 1.0,
    budget: Annotated[float | None, typer.Option(min=0, help="US dollars a month: exit 1 where it costs more.")] = None,
    prices: Annotated[Path | None, typer.Option(help="Figures and prices of your own; see --print-prices.")] = None,
    format: Annotated[Literal["table", "json"], typer.Option(help="table or json.")] = "table",
    print_prices: Annotated[
        bool, typer.Option("--print-prices", help="Print the file that --prices replaces.")
    ] = False,
) -> None:
    """Say what a load needs: cores, memory, nodes, Kafka partitions, objects, and what it costs a month."""
    if print_prices:
        print(DEFAULTS.read_text(), end="")
        return
    load = Load(
        _positive("--events-per-s", events_per_s), _bytes(event_bytes), retention_days, peak, events_per_request,
        log_hours, streams=streams, commit_interval_s=commit_interval_s, jobs=jobs, job_weight=job_weight,
    )  # fmt: skip
    found = plan(load, read_table(prices or DEFAULTS))
    if format == "json":
        print(json.dumps({**asdict(found), "usd": round(found.usd, 2)}, indent=2))
    else:
        show(load, found, sys.stdout)
    if budget is not None:
        within = found.usd <= budget
        if format == "table":
            print(f"{found.usd / budget:.0%} of {budget:,.0f} USD a month" if budget else "no budget")
        if not within:
            raise typer.Exit(1)


def _positive(option: str, value: float | None) -> float:
    if value is None or not 0 < value < float("inf"):
        raise ConfigError(option, "expected a number above 0")
    return value


def _bytes(text: str | None) -> float:
    if text is None:
        raise ConfigError("--event-bytes", "expected a number of bytes, such as 350 or 1KiB")
    try:
        return _positive("--event-bytes", float(parse_size(text)))
    except ValueError as error:
        raise ConfigError("--event-bytes", str(error)) from None


def show(load: Load, found: Plan, out: TextIO) -> None:
    """Print the plan: what runs, then what it costs."""
    per_day = load.events_per_s * DAY_S
    runs = [
        ("load", f"{per_day / 1e6:,.0f} million events, {per_day * load.event_bytes / 1e12:,.2f} TB a day"),
        ("at the peak", f"{load.events_per_s * load.peak:,.0f} events/s"),
        ("edge", f"{found.edge_cores:,.1f} cores at the peak, {found.edge_nodes} nodes"),
        ("stream", f"{found.stream_cores:,.1f} cores at the peak, {found.stream_nodes} nodes"),
        ("batch", f"{found.batch_cores:,.1f} cores for some hours"),
        ("memory", f"{found.memory_gib:,.0f} GiB of edge and stream workers"),
        ("log.partitions", f"{found.partitions} of each stream"),
        ("objects", f"{found.objects:,}"),
    ]
    print_facts(runs, out)
    print(file=out)
    costs = [(line.what, line.amount, f"{line.usd:,.0f}") for line in found.lines]
    costs.append(("all", "", f"{found.usd:,.0f}"))
    print_table(("cost", "amount", "USD a month"), costs, out, right=("amount", "USD a month"), whole=("USD a month",))
