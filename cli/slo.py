"""`eagleray slo`: how the objectives of the section `slo` are met, as `GET /v1/status` says; `--json` for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from eagleray.cli.options import DEFAULT_CONFIG, Ca, Cert, ConfigFile, Key, Url
from eagleray.cli.terminal_table import print_table
from eagleray.cluster.client.target import connect

SPANS = {"hour": "last hour", "days_28": "28 days"}
NAMES = ("objective", "target", "in", "judged", "met", "p99", "budget")
NUMBERS = NAMES[3:]


def slo(
    url: Url = None,
    key: Key = None,
    ca: Ca = None,
    cert: Cert = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="What /v1/status says of objectives, as it is.")] = False,
) -> None:
    """Show objectives, how they were met, and the error budget left; 1 where one of 28 days is missed."""
    with connect(url, key, config_file, ca, cert) as client:
        found = client.get("/v1/status").get("slo", {})
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    if any(one["days_28"].get("budget_left", 1) < 0 for one in found.values()):
        raise typer.Exit(1)


def show(found: Mapping[str, Any]) -> None:
    """Print them as a table."""
    whole, last, every = ("objective", "in", "budget"), ("judged", "p99"), "--json shows all"
    print_table(NAMES, rows(found), sys.stdout, right=NUMBERS, whole=whole, first_to_go=last, all_with=every)


def rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """For each objective a row for each span of time, as NAMES has it; a budget below 0 is marked as missed."""
    shown: list[tuple[str, ...]] = []
    for name, one in found.items():
        target = f"{one['share']:.5g} " + (f"within {one['within_ms']:g} ms" if "within_ms" in one else "without a 5xx")
        for span, label in SPANS.items():
            about = one[span]
            met = f"{about['met']:.4%}" if "met" in about else "-"
            p99 = f"{about['p99_ms']:,.0f} ms" if "p99_ms" in about else "-"
            left = f"{about['budget_left']:,.1%}" if "budget_left" in about else "-"
            missed = "missed " if about.get("budget_left", 1) < 0 else ""
            shown.append((name, target, label, f"{about['events']:,}", met, p99, missed + left))
    return shown
