"""`eagleray demo`: starts a platform in ./demo, streams a game's events to it over HTTP, and shows what became of them.

Promise: what is shown was measured here and now; it exits 1 if a table does not hold exactly what was accepted.
"""

from __future__ import annotations

import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from eagleray.cli.demo.events import STREAMS
from eagleray.cli.demo.load import Load
from eagleray.cli.demo.report import query, report
from eagleray.cli.init import write_project
from eagleray.cluster.client.http import Client
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.owner_key import read_owner_key

TEMPLATE = Path(__file__).parent / "project"
START_TIMEOUT_S = 150.0
SETTLE_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 90.0
LINE = 100


def demo(
    directory: Annotated[Path, typer.Argument(help="Where the demo's project goes.")] = Path("demo"),
    seconds: Annotated[float, typer.Option(min=1, help="How long to stream.")] = 25.0,
    rate: Annotated[int, typer.Option(min=30, help="Events a second.")] = 3000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same events.")] = 7,
) -> None:
    """Watch the whole platform work for half a minute; exits 1 if a count is wrong."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=LINE)  # a file or a pipe has no width of its own
    config_file = _prepare(directory)
    console.print(f"[bold]Eagleray demo[/]: a game's events from HTTP to SQL, all of it in {directory}\n")
    with _platform(console, config_file) as url:
        key = read_owner_key(config_file.parent / "data")
        load = Load(url, key, seed)
        with _bar(console, seconds) as advance:
            load.stream(seconds, rate, advance)
        with console.status("waiting until every accepted event is in its table"), Client(url, key) as client:
            counts = _settled(client, load)
            exact = report(console, client, load, counts, config_file)
    if not exact:
        raise typer.Exit(1)


def _prepare(directory: Path) -> Path:
    """Write the project; a demo that ran here before makes room, anything else stays."""
    config_file = directory / "eagleray.yaml"
    if directory.exists():
        known = {file.name for file in TEMPLATE.iterdir()} | {"data", "up.log"}
        if strangers := sorted(entry.name for entry in directory.iterdir() if entry.name not in known):
            raise ConfigError(str(directory), f"holds {strangers[0]}, which is not the demo's; name another directory")
        shutil.rmtree(directory)
    write_project(TEMPLATE, directory)
    return config_file


@contextmanager
def _platform(console: Console, config_file: Path) -> Iterator[str]:
    """`eagleray up` as a process; yields its URL, and stops it whatever happens."""
    log = config_file.parent / "up.log"
    command = [sys.executable, "-m", "eagleray", "up", "-c", str(config_file), "--port", "0"]
    began = time.monotonic()
    with log.open("w") as errors:
        # A session of its own: Ctrl-C reaches the demo alone, which then stops the platform in order.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
    try:
        with console.status("starting the platform: Ray, edge, workers, committer"):
            url = _ready(process, log)
        console.print(f"[green]✓[/] [bold]eagleray up[/] is ready at {url} after {time.monotonic() - began:.1f} s")
        yield url
    finally:
        with console.status("stopping: draining and committing"):
            _stop(process)


def _ready(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(START_TIMEOUT_S) else ""
    if not line.startswith("ready "):
        raise EaglerayError(f"the platform did not start; the end of {log}:\n{log.read_text()[-2000:]}")
    return line.split()[1]


def _stop(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _bar(console: Console, seconds: float) -> Iterator[Callable[[float, int], None]]:
    columns = (
        SpinnerColumn(),
        TextColumn("streaming over HTTP"),
        BarColumn(),
        TextColumn("{task.fields[events]:>7,} events acked"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=seconds, events=0)
        yield lambda elapsed, events: bar.update(task, completed=elapsed, events=events)


def _settled(client: Client, load: Load) -> dict[str, int]:
    """Rows of each `events` table once nothing is missing there and in the dead letters, or after SETTLE_TIMEOUT_S."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        counts = {stream: _count(client, f"{stream}.events") for stream in STREAMS}
        done = all(
            counts[stream] >= len(account.ids) and _count(client, f"{stream}.dead_letters") >= account.rejected
            for stream, account in load.accounts.items()
        )
        if done or time.monotonic() > deadline:
            return counts
        time.sleep(0.3)


def _count(client: Client, table: str) -> int:
    return int(query(client, f"SELECT count(*) AS n FROM {table}")[0]["n"])
