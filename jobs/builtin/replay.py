"""`eagleray job run replay`: sends dead letters again over HTTP; what is rejected again is a new dead letter.

The same as `eagleray dead-letters replay`, which calls this: by schedule, or after a schema was mended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from eagleray.cluster.client.http import Client, Retries
from eagleray.cluster.client.target import connect
from eagleray.cluster.config import Config
from eagleray.cluster.events.verdict import ATTEMPT_HEADER
from eagleray.jobs.dead_letters import DeadLetter, Filter, Letters

BODY_BYTES = 1 << 20  # of one request
REJECTED_SHOWN = 20


@dataclass(frozen=True)
class ReplayOptions:
    """Send the original bytes of a stream's dead letters to the platform again."""

    stream: str = field(metadata={"help": "The stream."})
    reason: str | None = field(default=None, metadata={"help": "Only those rejected for this reason."})
    since: str | None = field(default=None, metadata={"help": "Only those ingested at or after this time (ISO 8601)."})
    until: str | None = field(default=None, metadata={"help": "Only those ingested before this time (ISO 8601)."})
    id: str | None = field(default=None, metadata={"help": "This one only, by partition-offset-row."})
    url: str | None = field(default=None, metadata={"help": "The platform; default: the one that runs this project."})
    key: str | None = field(default=None, metadata={"help": "API key; see `eagleray keys create`."})
    ca: str | None = field(default=None, metadata={"help": "Authorities (PEM) to trust at an https URL."})
    cert: str | None = field(default=None, metadata={"help": "Client certificate to show, with its key (PEM)."})


@dataclass(frozen=True)
class ReplayReport:
    """How they were answered; of the rejected ones the first few, with the reason."""

    accepted: int
    rejected: int
    shown: tuple[str, ...] = ()


def run(config: Config, options: ReplayOptions) -> ReplayReport:
    """Replay; raises ConfigError for options that mean nothing, Unreachable and Refused as the client does."""
    wanted = Filter(options.reason, options.since, options.until, options.id).sql()
    with Letters(config) as letters, _client(config, options) as client:
        return _send(letters.pages(letters.known(options.stream), wanted), client, options.stream)


def _client(config: Config, options: ReplayOptions) -> Client:
    ca, cert = (Path(file) if file else None for file in (options.ca, options.cert))
    return connect(options.url, options.key, config.file, ca, cert)


def _send(pages: Iterable[list[DeadLetter]], client: Client, stream: str) -> ReplayReport:
    accepted, rejected = 0, []
    for page in pages:
        for batch in requests(page):
            answer = client.deliver(f"/v1/streams/{stream}/events", *_request(batch), Retries())
            accepted += answer["accepted"]
            rejected += [f"{batch[one['index']].id}: {one['reason']}: {one['detail']}" for one in answer["rejected"]]
    return ReplayReport(accepted, len(rejected), tuple(rejected[:REJECTED_SHOWN]))


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
