"""Verdicts on events: what the edge hands to validation, and what comes back. Plain values that cross processes.

Bad data is a value: a `Rejection` names index, reason and cause, and keeps the original bytes for the dead letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import msgspec

Reason = Literal["json", "schema", "time", "future", "too_large", "too_deep", "id", "crash"]
"""Why an event was rejected; a closed set, also the label of the metric.

json: not one well-formed JSON value in UTF-8 · schema: does not match the stream's schema · time: event time missing or
not readable · future: beyond now + max_future · too_large: above edge.event_bytes_max or edge.items_max · too_deep:
nested deeper than edge.depth_max · id: the deduplication id is missing or not a string or integer · crash: judging it
ends the process.
"""
REASONS: tuple[str, ...] = get_args(Reason)

ATTEMPT_HEADER = "X-Eagleray-Attempt"
"""The HTTP header by which a replay says which attempt it is; needs the scope `admin`."""

Form = Literal["json", "ndjson"]
"""How a request's body is laid out: one JSON object or array (`json`), or one object a line (`ndjson`)."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One request's events on their way from the edge to validation.

    `body` is inflated already; `source` is the name of the API key (`anonymous` where authentication is off).
    `attempt` counts how often these events were sent, a replay of dead letters being the next. `condemned` are the
    indices of events that are not to be judged but rejected as `crash`, each with the detail.
    """

    stream: str
    form: Form
    body: bytes
    source: str = "anonymous"
    idempotency_key: str | None = None
    attempt: int = 1
    condemned: Mapping[int, str] = field(default_factory=dict)
    trace: str = ""  # the request's context (`telemetry.tracing`), where it is sampled


@dataclass(frozen=True, slots=True)
class Rejection:
    """One event that was not accepted: `index` counts events of its request from 0, blank NDJSON lines skipped."""

    index: int
    reason: Reason
    detail: str
    original: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What happened to one submission. `malformed` set: nothing of it was stored (HTTP 400, code `malformed`)."""

    accepted: int = 0
    rejected: list[tuple[int, Reason, str]] = field(default_factory=list)
    malformed: str | None = None
    duplicates: int = 0  # repeated ids within the same micro-batch; later ones are found downstream
    too_large: str | None = None  # an event that no record of the log can hold: nothing was stored (HTTP 413)


# Between processes they travel as MessagePack: a tenth of what pickling dataclasses costs.
pack = msgspec.msgpack.Encoder().encode
"""Submissions or answers as bytes."""
unpack_submissions = msgspec.msgpack.Decoder(list[Submission]).decode
unpack_answers = msgspec.msgpack.Decoder(list[Answer]).decode
