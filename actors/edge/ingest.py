"""POST /v1/streams/{stream}/events: from a request to the verdicts on its events. Acked means durable.

Called by app through the route table; hands whole bodies to the batcher and never looks into an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from aiohttp import web

from eagleray.actors.edge.batcher import Batcher, Submit
from eagleray.actors.edge.body import check_count, coding_of, count_events, inflated, read_body
from eagleray.actors.edge.in_flight import InFlight, Lease
from eagleray.actors.edge.meters import Meters
from eagleray.actors.edge.rate_limit import Rates
from eagleray.actors.edge.refusal import Refusal
from eagleray.actors.edge.routes import Call
from eagleray.cluster.api_keys import ApiKey
from eagleray.cluster.config import Config
from eagleray.cluster.events.verdict import ATTEMPT_HEADER, Answer, Form, Submission
from eagleray.cluster.telemetry import tracing

FORMS: dict[str, Form] = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/x-jsonlines": "ndjson",
    "application/jsonlines": "ndjson",
}
IDEMPOTENCY_KEY_CHARS_MAX = 255
ATTEMPT_MAX = 1_000_000


class Ingest:
    """Takes events in, for one event loop."""

    def __init__(
        self,
        config: Config,
        submit: Submit,
        workers: Callable[[], int],
        rates: Rates,
        flight: InFlight,
        meters: Meters,
    ) -> None:
        """One batcher per stream, so that one stream's trouble is not another's."""
        self._limits = config.edge
        self._flight = flight
        self._meters = meters
        self._rates = rates
        self._batchers = {name: Batcher(submit, workers, config.edge, meters) for name in config.streams}

    async def post(self, call: Call) -> web.Response:
        """1. admit  2. read and inflate  3. count and charge  4. submit and wait until durable  5. settle, answer."""
        began = time.perf_counter()
        request, stream, key = call.request, call.params["stream"], call.asker
        # 1. what needs no body comes first
        batcher = self._batchers.get(stream)
        if batcher is None:
            raise Refusal(404, "unknown_stream", f"no stream is called {stream!r}; GET /v1/streams lists them")
        form, coding, idempotency_key = form_of(request), coding_of(request), _idempotency_key(request)
        attempt = _attempt(request, key)
        self._rates.admit(key)
        with self._flight.lease(call.share) as lease:
            # 2. and 3.
            with tracing.step("read the body"):
                body = await self._body(request, form, coding, lease)
                charged = await self._charge(key, body, form)
            # 4.
            with tracing.step("wait until it is durable", bytes=len(body)) as waiting:
                trace = waiting.contexts[0] if waiting.contexts else ""
                submission = Submission(stream, form, body, key.name, idempotency_key, attempt, trace=trace)
                answer = await batcher.put(submission)
        # 5.
        if charged:
            self._rates.charge(key, answer.accepted + len(answer.rejected) + answer.duplicates - charged)
        if answer.rejected:
            self._rates.rejected(key, len(answer.rejected))
        self._meters.judged(stream, answer)
        self._meters.recent_posts.record(int((time.perf_counter() - began) * 1e6))
        return _respond(answer)

    async def _charge(self, key: ApiKey, body: bytes, form: Form) -> int:
        """Charge the key for the body's events before they cost anything; returns how many. 0: it has no rate."""
        if key.rate is None:
            return 0
        events = await count_events(body, form, self._limits)
        self._rates.charge(key, events - 1)  # `admit` took one
        return events

    async def _body(self, request: web.BaseRequest, form: Form, coding: str | None, lease: Lease) -> bytes:
        body = await read_body(request, self._limits, lease)
        self._meters.received_bytes += len(body)
        if coding is not None:
            body = await inflated(body, coding, self._limits, lease)
        await check_count(body, form, self._limits)
        return body


def form_of(request: web.BaseRequest) -> Form:
    """How the body is laid out, by its Content-Type; none means JSON."""
    value = request.headers.get("Content-Type", "application/json")
    form = FORMS.get(value)
    if form is None:
        form = FORMS.get(value.partition(";")[0].strip().lower())
    if form is None:
        expected = "expected application/json or application/x-ndjson"
        raise Refusal(415, "unsupported_media_type", f"Content-Type {value!r}; {expected}")
    return form


def _idempotency_key(request: web.BaseRequest) -> str | None:
    value = request.headers.get("Idempotency-Key")
    if value is not None and not (0 < len(value) <= IDEMPOTENCY_KEY_CHARS_MAX and value.isprintable()):
        expected = f"expected 1 to {IDEMPOTENCY_KEY_CHARS_MAX}, printable and UTF-8"
        raise Refusal(400, "bad_idempotency_key", f"an Idempotency-Key of {len(value)} characters; {expected}")
    return value


def _attempt(request: web.BaseRequest, key: ApiKey) -> int:
    """How often these events were sent: a replay of dead letters says so, and must be who may do everything."""
    value = request.headers.get(ATTEMPT_HEADER)
    if value is None:
        return 1
    if not key.allows("admin"):
        raise Refusal(403, "forbidden", f"{ATTEMPT_HEADER} is for replays; key {key.name!r} lacks the scope admin")
    if not (value.isascii() and value.isdecimal() and len(value) < 8 and 1 <= int(value) <= ATTEMPT_MAX):
        raise Refusal(400, "bad_attempt", f"{ATTEMPT_HEADER}: {value[:20]!r}; expected 1 to {ATTEMPT_MAX}")
    return int(value)


def _respond(answer: Answer) -> web.Response:
    if answer.malformed is not None:
        raise Refusal(400, "malformed", answer.malformed)
    if answer.too_large is not None:
        raise Refusal(413, "too_large", answer.too_large)
    if not answer.rejected and not answer.duplicates:
        body = b'{"accepted":%d,"rejected":[]}' % answer.accepted
    else:
        rejected = [{"index": index, "reason": reason, "detail": why} for index, reason, why in answer.rejected]
        fields = {"accepted": answer.accepted, "rejected": rejected}
        body = msgspec.json.encode(fields | ({"duplicates": answer.duplicates} if answer.duplicates else {}))
    return web.Response(body=body, content_type="application/json")
