"""`eagleray lake`: looks after the lake as a whole."""

from __future__ import annotations

import typer

from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile
from eagleray.cluster.config import load_config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.project_lock import project_lock

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Look after the lake as a whole."""


@app.command()
def relocate(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Make a lake that was copied or moved one of its own, here; the place it came from is not touched."""
    from eagleray.cluster.lake.catalog import place_of
    from eagleray.cluster.lake.relocate import relocate as move

    config = load_config(config_file)
    here = place_of(config)
    if here is None:
        problem = "only a lake in local files, with its catalog in SQLite, can be relocated"
        raise ConfigError(f"{config.file}: lake", f"{problem}; others keep their locations wherever a project is")
    if not here.catalog.exists():
        raise EaglerayError(f"there is no catalog {here.catalog}; copy the project's data directory first")
    with project_lock(config):
        done = move(here)
    if done.old == done.new:
        print(f"the lake is in {done.new} already")
    else:
        print(f"{done.tables} tables are in {done.new} now; {done.old} was not touched")
