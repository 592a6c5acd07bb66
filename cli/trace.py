"""`eagleray trace ID`: where is my event? Reads the tables, whether or not the platform runs (`sql.trace`)."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from eagleray.cli.completion import streams
from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile


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
        typer.echo("\n".join(line for one in known or found[:1] for line in _lines(one)))
    if not known:
        raise typer.Exit(1)


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['id']}: {found['state']}" + (f" in {found['stream']}" if "advice" not in found else "")]
    for event in found["events"]:
        place, seen = event["log"], event["snapshot"]
        lines.append(f"  acked    {event['acked_at']} from {event['source']}, event time {event['time']}")
        lines.append(f"  log      partition {place['partition']}, offset {place['offset']}, row {place['row']}")
        lines.append(f"  visible  since snapshot {seen['id']}, {seen['committed_at']}" if seen else "  visible  yes")
        lines += [f"  {one['state']:<8} {one['window']} {one['start']} - {one['end']}" for one in event["windows"]]
    for letter in found["rejected"]:
        lines.append(f"  {letter['reason']}: {letter['detail']}")
        if "send_again" in letter:
            lines.append(f"  rejected {letter['rejected_at']} from {letter['source']}, attempt {letter['attempt']}")
            lines.append(f"  again    {letter['send_again']}")
    return [*lines, f"  {found['advice']}"] if "advice" in found else lines
