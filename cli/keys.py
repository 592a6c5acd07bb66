"""`eagleray keys`: create, list and revoke API keys whether or not the platform runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from eagleray.cluster.api_keys import ApiKey, KeyStore, check_scope, open_keys
from eagleray.cluster.clock import SystemClock, iso
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.near_names import instead

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The project's configuration.")]
CONFIG_FILE = Path("eagleray.yaml")


def _store(config: Config) -> KeyStore:
    return open_keys(config, SystemClock())


def _outputs(config: Config) -> set[str]:
    """The namespaces that jobs of the project write to, or once wrote to; raises ConfigError."""
    from eagleray.cluster.lake.pin import open_snapshots
    from eagleray.jobs.project.load import load_project

    declared = (job.output for job in load_project(config).jobs.values())
    return {table.partition(".")[0] for table in (*declared, *open_snapshots(config).names())}


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The key's name, which is also the `source` of its events.")],
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            "-s",
            help="write:STREAM, write:*, read, read:NAMESPACE, dead_letters, dead_letters:STREAM or admin; repeatable.",
        ),
    ],
    rate: Annotated[float | None, typer.Option(help="Events per second; default: no limit.")] = None,
    config_file: ConfigFile = CONFIG_FILE,
) -> None:
    """Make a key and print it, the only time it can be seen."""
    config = load_config(config_file)
    try:
        scopes = [check_scope(text, config.streams, lambda: _outputs(config)) for text in scope]
        key = _store(config).create(name, scopes, rate)
    except ValueError as error:
        raise ConfigError("keys create", str(error)) from None
    typer.echo(key)


@app.command("list")
def list_(config_file: ConfigFile = CONFIG_FILE) -> None:
    """List keys: name, scopes, rate, when made and when revoked."""
    from eagleray.cli.terminal_table import WIDER, print_table

    rows = [_columns(key) for key in _store(load_config(config_file)).keys()]
    names = ("NAME", "SCOPES", "RATE", "CREATED", "REVOKED")
    print_table(names, rows, sys.stdout, whole=("NAME",), first_to_go=("CREATED", "RATE"), all_with=WIDER)


def _columns(key: ApiKey) -> tuple[str, str, str, str, str]:
    rate = "-" if key.rate is None else f"{key.rate:g}/s"
    revoked = "-" if key.revoked_us is None else iso(key.revoked_us // 1_000_000 * 1_000_000)
    return key.name, ",".join(sorted(key.scopes)), rate, iso(key.created_us // 1_000_000 * 1_000_000), revoked


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The key's name.")], config_file: ConfigFile = CONFIG_FILE) -> None:
    """Revoke a key; it stops working within a second."""
    if not _store(load_config(config_file)).revoke(name):
        there = (key.name for key in _store(load_config(config_file)).keys() if key.revoked_us is None)
        raise ConfigError("keys revoke", f"no active key is called {name!r}{instead(name, there)}")
