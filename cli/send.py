"""`eagleray send`: events from a file or standard input to a stream, with a progress bar and an honest account."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from eagleray.cli.batches import BLOCK, Batch, Form, read_batches
from eagleray.cli.completion import streams
from eagleray.cli.options import DEFAULT_CONFIG, Ca, Cert, ConfigFile, Key, Url
from eagleray.cli.sender import Account, Sender
from eagleray.cluster.client.http import Client, Refused, Retries, Unreachable
from eagleray.cluster.client.target import find_target
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.near_names import instead

BATCH_BYTES = 1 << 20  # the edge's own micro-batch: larger bodies are not faster, and cost more to repeat
PACES_PER_S = 10  # with --rate, batches are small enough for this many a second


def send(
    file: Annotated[str, typer.Argument(help="NDJSON or JSON, plain, gzip or zstd; `-` is standard input.")],
    stream: Annotated[
        str,
        typer.Option("--stream", "-s", help="The stream that takes the events.", autocompletion=streams),
    ],
    url: Url = None,
    key: Key = None,
    ca: Ca = None,
    cert: Cert = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
    form: Annotated[Form, typer.Option("--format", help="What FILE holds; `auto` looks at its beginning.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Events of one request, at most.")] = 5000,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Requests at once; 1 keeps the order of FILE.")] = 1,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Events a second; default: as fast as acked.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="Tries again on 429, 503 and lost connections.")] = 10,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for one answer.")] = 30.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Send events; exits 1 if any could not be sent (rejected ones are in the dead letters, and count as sent)."""
    target = find_target(url, key, config_file, ca, cert)
    with opened(file) as (source, total), _progress(source, total, quiet) as advance:
        sender = Sender(lambda: target.client(timeout), stream, in_flight, rate, Retries(retries), advance)
        with sender.connect() as client:
            client.request("GET", "/livez")  # a wrong address is told at once, not after ten retries
        events_max = max(1, min(batch, int(rate / PACES_PER_S))) if rate else batch
        account = sender.send(read_batches(source, form, events_max, BATCH_BYTES))
    _sum_up(account)
    if "unknown_stream" in account.codes:
        with target.client(timeout) as client:
            print(f"no stream is called {stream!r}{_meant(client, stream)}", file=sys.stderr)
    if account.failures:
        raise typer.Exit(1)


def _meant(client: Client, stream: str) -> str:
    """The end of a message: which stream was meant, of those that the key may see; empty where it may see none."""
    try:
        names = [str(one["name"]) for one in client.get("/v1/streams")["streams"]]
    except (Refused, Unreachable):  # a key that may only write
        return ""
    return instead(stream, names) if names else ""


@contextmanager
def opened(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """The bytes of `file` (`-`: standard input), and how many there are, where that is known; raises ConfigError."""
    if file == "-":
        yield sys.stdin.buffer, None
        return
    try:
        source = Path(file).open("rb", buffering=BLOCK)
    except OSError as error:
        raise ConfigError(file, f"cannot be opened: {error.strerror}") from error
    with source:
        yield source, Path(file).stat().st_size


@contextmanager
def _progress(source: BinaryIO, total: int | None, quiet: bool) -> Iterator[Callable[[Batch], None]]:
    if quiet or not sys.stderr.isatty():
        yield lambda batch: None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.SpinnerColumn(),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[events]:,} events"),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, events=0)
        events = 0

        def advance(batch: Batch) -> None:
            nonlocal events
            events += len(batch.places)
            bar.update(task, events=events, completed=source.tell() if total else None)

        yield advance


def _sum_up(account: Account) -> None:
    print(f"accepted {account.accepted}, rejected {account.rejected}, duplicates {account.duplicates}")
    out = sys.stderr
    if account.retried:
        print(f"{account.retried} requests had to be repeated", file=out)
    for reason in account.reasons:
        print(f"  rejected {reason}", file=out)
    if account.rejected > len(account.reasons):
        print(f"  … and {account.rejected - len(account.reasons)} more: eagleray dead-letters list", file=out)
    for failure in account.failures:
        print(f"NOT SENT: {failure}", file=out)
