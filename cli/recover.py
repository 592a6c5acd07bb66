"""`eagleray recover`: begins a new epoch of a stream's log from its tables, where log and tables differ."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.near_names import instead
from eagleray.cluster.project_lock import project_lock

if TYPE_CHECKING:  # the command's help starts at once
    from eagleray.cluster.recovery import Recovered


def recover(
    streams: Annotated[list[str] | None, typer.Argument(metavar="[STREAM]...", help="Default: all.")] = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
    data: Annotated[Path | None, typer.Option(help="Overrides data_dir.")] = None,
    log: Annotated[
        list[Path] | None, typer.Option(help="An old log of the one STREAM (its records.db), to carry over from too.")
    ] = None,
    new_epoch: Annotated[
        bool, typer.Option("--new-epoch", help="Begin a new epoch also where log and tables belong together.")
    ] = False,
) -> None:
    """Begin a new epoch of the log from the tables, after the log was lost, replaced or restored from a backup.

    What the old log still holds and the tables do not have is carried over. The platform must be stopped.
    """
    from eagleray.cluster.events.stream import load_streams
    from eagleray.cluster.lake.lake import Lake
    from eagleray.cluster.log.backends import open_log
    from eagleray.cluster.recovery import Recovery

    config = load_config(config_file, data_dir=data)
    names = streams or list(config.streams)
    for name in names:
        if name not in config.streams:
            raise ConfigError("STREAM", f"no stream is called {name!r}{instead(name, config.streams)}")
    if log and len(names) != 1:
        raise ConfigError("--log", "an old log belongs to one stream; expected one STREAM beside it")
    with project_lock(config), closing(open_log(config)) as opened:
        found, lake = load_streams(config), Lake.open(config)
        lake.ensure({name: found[name] for name in names})
        recovery = Recovery(config, lake, opened, found, SystemClock())
        for name in names:
            _say(name, recovery.recover(name, log or (), new_epoch))


def _say(name: str, done: Recovered | None) -> None:
    if done is None:
        print(f"{name}: log and tables belong together; nothing to do")
        return
    if done.problem:
        print(f"{name}: {done.problem}", file=sys.stderr)
    offsets = ", ".join(str(done.bases[key]) for key in sorted(done.bases))
    carried = f"carried over {done.events} events and {done.rejects} rejected ones"
    print(f"{name}: new epoch {done.log} from offset {offsets}; {carried}")
    if done.lost:
        print(
            f"{name}: {done.lost} records had been deleted before the tables had them: they are lost", file=sys.stderr
        )
    if done.damaged:
        print(f"{name}: {done.damaged} records of the old log could not be read", file=sys.stderr)
