"""`eagleray dead-letters`: rejected events, read from the lake; a replay sends their original bytes again over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from eagleray.cli.completion import streams
from eagleray.cli.options import DEFAULT_CONFIG, Ca, Cert, ConfigFile, Key, Url
from eagleray.cli.terminal_table import WIDER, print_table
from eagleray.cluster.config import load_config
from eagleray.cluster.errors import ConfigError
from eagleray.jobs.builtin.replay import ReplayOptions, run
from eagleray.jobs.dead_letters import Filter, Letters

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

NAMES = ("ID", "INGESTED", "REASON", "SOURCE", "DETAIL")

StreamName = Annotated[str, typer.Argument(metavar="STREAM", help="The stream.", autocompletion=streams)]
Reason = Annotated[str | None, typer.Option(help="Only those rejected for this reason.")]
Since = Annotated[str | None, typer.Option(help="Only those ingested at or after this time (ISO 8601).")]
Until = Annotated[str | None, typer.Option(help="Only those ingested before this time (ISO 8601).")]


@app.command("list")
def list_(
    stream: Annotated[str | None, typer.Argument(metavar="[STREAM]", help="Default: every stream.")] = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Lines per stream, newest first.")] = 20,
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """List rejected events, newest first, and how many there are by reason."""
    wanted = Filter(reason, since, until).sql()
    with Letters(config_file) as letters:
        for name in [letters.known(stream)] if stream else letters.streams:
            counts = letters.counts(name, wanted)
            print(f"{name}: {sum(counts.values())} dead letters" + "".join(f", {r} {n}" for r, n in counts.items()))
            found = letters.newest(name, wanted, limit)
            rows = [
                (one.id, f"{one.ingested_at[:19]}Z", one.reason, one.source, " ".join(one.detail.split()))
                for one in found
            ]
            if rows:
                print_table(NAMES, rows, sys.stdout, whole=NAMES[:3], first_to_go=("SOURCE",), all_with=WIDER)


@app.command()
def show(
    stream: StreamName,
    identity: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Print the original bytes of a dead letter on stdout, and why it was rejected on stderr."""
    with Letters(config_file) as letters:
        found = letters.newest(letters.known(stream), Filter(id=identity).sql(), 1)
    if not found:
        raise ConfigError("ID", f"{stream} has no dead letter {identity}")
    one = found[0]
    about = f"{one.reason}: {one.detail}\ncame {one.ingested_at} from {one.source}, attempt {one.attempt}"
    typer.echo(about, err=True)
    typer.echo(one.original)


@app.command()
def replay(
    stream: StreamName,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    identity: Annotated[str | None, typer.Option("--id", help="This one only.")] = None,
    url: Url = None,
    key: Key = None,
    ca: Ca = None,
    cert: Cert = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Send the original bytes again, once the schema is mended; what is rejected again is a new dead letter.

    Needs a key with scope admin.
    """
    config = load_config(config_file)
    report = run(config, ReplayOptions(stream, reason, since, until, identity, url, key, _text(ca), _text(cert)))
    print(f"accepted {report.accepted}, rejected {report.rejected}")
    for line in report.shown:
        typer.echo(f"  {line}", err=True)


def _text(file: Path | None) -> str | None:
    return None if file is None else str(file)
