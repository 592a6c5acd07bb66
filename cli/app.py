"""The `eagleray` command: names every sub-command and loads only the one that is asked for.

`eagleray --help` and `eagleray send` therefore start in a fraction of a second, without Ray, Arrow or DuckDB.
Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

import eagleray
from eagleray.cli.options import InsecureRay
from eagleray.cluster.errors import ConfigError, EaglerayError, QueryRejected

CONFIG_FILE = Path("eagleray.yaml")


class Entry(NamedTuple):
    """Where a sub-command lives (`module:attribute`, a function or a Typer group) and what it does."""

    place: str
    help: str


def up(
    config_file: Annotated[Path, typer.Option("--config", "-c", help="The configuration.")] = CONFIG_FILE,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster (`auto`, or host:port); default: start one here.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Overrides data_dir.")] = None,
    port: Annotated[int | None, typer.Option(help="Overrides edge.port; 0 takes any free one.")] = None,
    insecure_ray: InsecureRay = False,
    timings: Annotated[bool, typer.Option(help="Print what each phase of the start took, on stderr.")] = False,
) -> None:
    """Start the platform; prints `ready URL` when events can be sent, drains and commits on SIGTERM."""
    import_module("eagleray.cli.up").up(config_file, address, data, port, insecure_ray, timings)


COMMANDS: dict[str, Entry] = {
    "init": Entry("eagleray.cli.init:init", "Make a project that runs at once."),
    "up": Entry("eagleray.cli.app:up", "Start the platform."),
    "status": Entry("eagleray.cli.status:status", "Show streams, pools, lag and latencies of a running platform."),
    "scale": Entry("eagleray.cli.scale:scale", "Set the size of a worker pool."),
    "send": Entry("eagleray.cli.send:send", "Send events from a file or standard input."),
    "sql": Entry("eagleray.cli.sql:sql", "Ask the tables, read-only."),
    "job": Entry("eagleray.cli.job:app", "Run, backfill, schedule and submit batch jobs."),
    "keys": Entry("eagleray.cli.keys:app", "Create, list and revoke API keys."),
    "dead-letters": Entry("eagleray.cli.dead_letters:app", "List, show and replay rejected events."),
    "demo": Entry("eagleray.cli.demo.command:demo", "Watch the whole platform work for half a minute."),
    "doctor": Entry("eagleray.cli.doctor:doctor", "Check machine, installation and configuration."),
}
"""Every sub-command, in the order of the help text."""


def _later() -> None:
    """Stands in the help text for a command that is not loaded."""


def _load(place: str) -> Callable[..., Any] | typer.Typer:
    module, _, attribute = place.partition(":")
    loaded: Callable[..., Any] | typer.Typer = getattr(import_module(module), attribute)
    return loaded


def _version(asked: bool) -> None:
    if asked:
        print(f"eagleray {eagleray.__version__}")
        raise typer.Exit()


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """An event platform on Ray: HTTP in, exactly-once Iceberg tables and windows out."""


def build(*names: str) -> typer.Typer:
    """The command line with the sub-commands `names` loaded, and the others only named."""
    app = typer.Typer(
        name="eagleray",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    for name, entry in COMMANDS.items():
        loaded = _load(entry.place) if name in names else _later
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=name, help=entry.help)
        else:
            app.command(name, help=None if name in names else entry.help)(loaded)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; always raises SystemExit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wanted = next((word for word in words if not word.startswith("-")), "")
    try:
        build(wanted)(args=words, prog_name="eagleray")
    except (ConfigError, QueryRejected) as error:
        print(f"eagleray: {error}", file=sys.stderr)
        sys.exit(2)
    except EaglerayError as error:
        print(f"eagleray: {error}", file=sys.stderr)
        sys.exit(1)
