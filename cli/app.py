"""The `eagleray` command: names every sub-command and loads only the one that is asked for.

`eagleray --help` and `eagleray send` therefore start in a fraction of a second, without Ray, Arrow or DuckDB.
Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

import eagleray
from eagleray.cli.options import InsecureRay
from eagleray.cluster.errors import ConfigError, EaglerayError, QueryRejected
from eagleray.cluster.machine_errors import DIRECTORY, advice, sentence

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
    "deploy": Entry("eagleray.cli.deploy:deploy", "Start the platform in a Ray cluster, and return."),
    "undeploy": Entry("eagleray.cli.deploy:undeploy", "Drain and end the platform in a Ray cluster."),
    "rollout": Entry("eagleray.cli.rollout:rollout", "Change the configuration of a cluster's platform, under load."),
    "drain": Entry("eagleray.cli.deploy:drain", "Have other nodes take over what a node does."),
    "status": Entry("eagleray.cli.status:status", "Show streams, pools, lag and latencies of a running platform."),
    "slo": Entry("eagleray.cli.slo:slo", "Show objectives, how they were met, and the error budget left."),
    "scale": Entry("eagleray.cli.scale:scale", "Set the size of a worker pool."),
    "send": Entry("eagleray.cli.send:send", "Send events from a file or standard input."),
    "sql": Entry("eagleray.cli.sql:sql", "Query the tables, read-only."),
    "trace": Entry("eagleray.cli.trace:trace", "Say what became of an event, by its id."),
    "job": Entry("eagleray.cli.job:app", "Run, backfill, schedule and submit batch jobs."),
    "backup": Entry("eagleray.cli.backup:backup", "Copy all data as of one instant, while the platform runs."),
    "restore": Entry("eagleray.cli.backup:restore", "Put a backup in place, here or elsewhere."),
    "check": Entry("eagleray.cli.check:check", "Check the configuration, and what a changed one would do."),
    "schema": Entry("eagleray.cli.schema:app", "Show what becomes of a schema, or infer one from events."),
    "table": Entry("eagleray.cli.table:app", "Alter, migrate, rename and drop tables."),
    "lake": Entry("eagleray.cli.lake:app", "Look after the lake as a whole: relocate it."),
    "keys": Entry("eagleray.cli.keys:app", "Create, list and revoke API keys."),
    "dead-letters": Entry("eagleray.cli.dead_letters:app", "List, show and replay rejected events."),
    "demo": Entry("eagleray.cli.demo.command:demo", "Run the whole platform for half a minute."),
    "recover": Entry("eagleray.cli.recover:recover", "Begin a new epoch of the log from the tables."),
    "doctor": Entry("eagleray.cli.doctor:doctor", "Check machine, installation and configuration."),
    "size": Entry("eagleray.cli.size:size", "Say what a load needs, and what it costs a month."),
    "docs": Entry("eagleray.cli.docs:docs", "Read the documentation."),
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


def _typed() -> list[str]:
    """The words of the command line that a shell asks to complete; empty where none does."""
    if "_EAGLERAY_COMPLETE" not in os.environ:
        return []
    return (os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")).split()[1:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; always raises SystemExit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wanted = next((word for word in (_typed() or words) if not word.startswith("-")), "")
    if wanted != "init":  # a project's sources are its owner's to share; all else holds events or keys
        os.umask(0o077)
    try:
        build(wanted)(args=words, prog_name="eagleray")
    except (ConfigError, QueryRejected) as error:
        print(f"eagleray: {error}", file=sys.stderr)
        sys.exit(2)
    except EaglerayError as error:
        what = advice(error.__cause__)
        line = str(error)
        more = what if what and what not in line and DIRECTORY not in line else ""
        print(f"eagleray: {line}{more and '; ' + more}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if (said := sentence(error)) is None:
            raise
        print(f"eagleray: {said}", file=sys.stderr)
        sys.exit(1)
