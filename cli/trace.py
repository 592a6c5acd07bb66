"""`eagleray trace ID`: where is my event? Reads the tables, whether or not the platform runs (`sql.trace`)."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from eagleray.cli.completion import streams
from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile
from eagleray.cli.terminal_table import print_facts, print_table


def trace(
    event: Annotated[str, typer.Argument(metavar="ID", help="The event's id, as `streams.<stream>.id` names it.")],
    stream: Annotated[
        str | None,
        typer.Option(
            help="Look in this stream alone; default: in all whose events have an id.", autocompletion=streams
        ),
    ] = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False,
    data: Annotated[Path | None, typer.Option(help="Overrides data_dir.")] = None,
) -> None:
    """Say what became of an event: acked when, visible since which snapshot, counted where, or rejected why."""
    from eagleray.cluster.config import load_config
    from eagleray.cluster.errors import ConfigError
    from eagleray.sql.query import Sql
    from eagleray.sql.trace import Trace

    config = load_config(config_file, data_dir=data)
    names = [stream] if stream else [name for name, one in config.streams.items() if one.id is not None]
    if not names:
        raise ConfigError(f"{config.file}: streams", "no stream has an `id`: events cannot be found by one")
    with tempfile.TemporaryDirectory(prefix="eagleray-") as temp, Sql(config, temp_dir=Path(temp)) as lake:
        found = [Trace(lake, config, name, config.edge.query_timeout_s).find(event) for name in names]
    known = [one for one in found if one["state"] != "unknown"]
    if as_json:
        typer.echo(json.dumps(known or found, indent=2))
    else:
        for one in known or found[:1]:
            show(one, sys.stdout)
    if not known:
        raise typer.Exit(1)


def show(found: dict[str, Any], out: TextIO) -> None:
    """Print what is known of an event, as `sql.trace` found it; ids and commands are never cut."""
    print(f"{found['id']}: {found['state']}" + (f" in {found['stream']}" if "advice" not in found else ""), file=out)
    for event in found["events"]:
        place, seen = event["log"], event["snapshot"]
        facts = [
            ("acked", f"{event['acked_at']} from {event['source']}"),
            ("time", event["time"] or "none"),
            ("log", f"partition {place['partition']}, offset {place['offset']}, row {place['row']}"),
            ("visible", f"since snapshot {seen['id']}, {seen['committed_at']}" if seen else "yes"),
        ]
        print_facts(facts, out, whole=("visible",), indent=2)
        if event["windows"]:
            print(file=out)
            names = ("window", "start", "end", "state")
            rows = [[one[name] for name in names] for one in event["windows"]]
            whole, last = ("window", "start", "state"), ("end",)
            print_table(names, rows, out, whole=whole, first_to_go=last, all_with="--json shows all")
    for letter in found["rejected"]:
        facts = [(letter["reason"], letter["detail"])]
        if "send_again" in letter:
            facts.append(("rejected", f"{letter['rejected_at']} from {letter['source']}, attempt {letter['attempt']}"))
            facts.append(("again", letter["send_again"]))
        print_facts(facts, out, whole=("again",), indent=2)
    if "advice" in found:
        print_facts([("", found["advice"])], out)
