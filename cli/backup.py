"""`eagleray backup` and `eagleray restore`: everything that belongs to a project's data, as of one instant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile
from eagleray.cluster.config import load_config

if TYPE_CHECKING:  # the imports are for later: `--help` needs neither lake nor log
    from eagleray.cluster.backup.manifest import Manifest


def backup(
    directory: Annotated[Path, typer.Argument(help="Where the backup goes: a new directory, or an unfinished one.")],
    config_file: ConfigFile = DEFAULT_CONFIG,
    check: Annotated[
        bool, typer.Option("--check", help="Read a backup through instead, and compare checksums.")
    ] = False,
) -> None:
    """Copy log, catalog, lake, states, history and keys as of one instant, while the platform runs."""
    from eagleray.cluster.backup.restore import check_backup
    from eagleray.cluster.backup.take import take_backup
    from eagleray.cluster.clock import SystemClock

    if check:
        print(f"whole: {_described(check_backup(directory))}")
        return
    done = take_backup(load_config(config_file), directory, SystemClock())
    print(f"{directory}: {_described(done)}")
    for what in done.left_out:
        print(f"not in it: {what}")


def restore(
    directory: Annotated[Path, typer.Argument(help="A backup, as `eagleray backup` made it.")],
    config_file: ConfigFile = DEFAULT_CONFIG,
    data: Annotated[Path | None, typer.Option(help="Overrides data_dir.")] = None,
) -> None:
    """Put a backup where the configuration has its data, at the same place or another; then `up` goes on from it."""
    from eagleray.cluster.backup.restore import restore as put

    config = load_config(config_file, data_dir=data)
    print(f"{config.data_dir}: {_described(put(config, directory))}")


def _described(manifest: Manifest) -> str:
    what = f"{len(manifest.tables)} tables, {len(manifest.streams)} streams, {manifest.bytes / 2**20:,.1f} MiB"
    return f"{what}; holds every event that was acked before {manifest.instant}"
