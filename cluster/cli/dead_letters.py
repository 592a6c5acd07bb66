"""`eagleray dead-letters`: rejected events, read from the lake; a replay sends their original bytes again over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from cluster.cli.client import Retries
from cluster.cli.letters import DeadLetter, Filter, Letters
from cluster.cli.target import DEFAULT_CONFIG, ConfigFile, Key, Url, connect
from cluster.errors import ConfigError
from cluster.events.verdict import ATTEMPT_HEADER

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

BODY_BYTES = 1 << 20  # of one request
REJECTED_SHOWN = 20

StreamName = Annotated[str, typer.Argument(metavar="STREAM", help="The stream whose dead letters are meant.")]
Reason = Annotated[str | None, typer.Option(help="Only those rejected for this reason.")]
Since = Annotated[str | None, typer.Option(help="Only those that came at or after this time (ISO 8601).")]
Until = Annotated[str | None, typer.Option(help="Only those that came before this time (ISO 8601).")]


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
            for one in letters.newest(name, wanted, limit):
                print(f"  {one.id:<12} {one.ingested_at[:19]}  {one.reason:<9} {' '.join(one.detail.split())[:90]}")


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
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Send the original bytes again, once the schema is mended; what is rejected again is a new dead letter.

    Needs a key with scope admin.
    """
    wanted = Filter(reason, since, until, identity).sql()
    accepted, rejected = 0, []
    with Letters(config_file) as letters, connect(url, key, config_file) as client:
        for page in letters.pages(letters.known(stream), wanted):
            for batch in requests(page):
                answer = client.deliver(f"/v1/streams/{stream}/events", *_request(batch), Retries())
                accepted += answer["accepted"]
                rejected += [
                    f"{batch[one['index']].id}: {one['reason']}: {one['detail']}" for one in answer["rejected"]
                ]
    print(f"accepted {accepted}, rejected {len(rejected)}")
    for line in rejected[:REJECTED_SHOWN]:
        typer.echo(f"  {line}", err=True)


def requests(letters: Iterable[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """The letters in order, cut into requests: one attempt and about BODY_BYTES each."""
    batch: list[DeadLetter] = []
    size = 0
    for letter in letters:
        if batch and (letter.attempt != batch[0].attempt or size + len(letter.original) > BODY_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(letter)
        size += len(letter.original)
    if batch:
        yield batch


def _request(batch: list[DeadLetter]) -> tuple[bytes, dict[str, str]]:
    names = " ".join(letter.id for letter in batch).encode()
    return b"\n".join(as_line(letter.original) for letter in batch), {
        "Content-Type": "application/x-ndjson",
        "Idempotency-Key": f"replay-{hashlib.blake2b(names, digest_size=16).hexdigest()}",
        ATTEMPT_HEADER: str(batch[0].attempt + 1),
    }


def as_line(original: bytes) -> bytes:
    """The original as one NDJSON line: in JSON, line ends are blanks, for strings hold none unescaped."""
    return original.replace(b"\r", b" ").replace(b"\n", b" ")
