"""Reads a request's body within its limits: size as received, size inflated, bytes in flight, time, number of events.

Called by ingest and sql. Whatever is wrong with a body is a Refusal; nothing is read past a broken limit.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from eagleray.actors.edge import event_count as count
from eagleray.actors.edge.in_flight import Lease
from eagleray.actors.edge.inflate import CODINGS, Broken, inflate
from eagleray.actors.edge.refusal import Refusal
from eagleray.cluster.events.verdict import Form
from eagleray.cluster.sections import EdgeConfig

_INLINE_BYTES = 64 << 10  # bodies that need a scan and are larger leave the event loop


async def read_body(request: web.BaseRequest, limits: EdgeConfig, lease: Lease) -> bytes:
    """The body as received, at most body_bytes_max, within body_timeout_s."""
    declared = request.content_length
    if declared is not None and declared > limits.body_bytes_max:
        raise _too_large("edge.body_bytes_max", limits.body_bytes_max)
    _greet(request)
    try:
        if request.content.is_eof():  # it came together with the headers
            body: bytes = request.content.read_nowait()
            lease.take(len(body))
        else:
            async with asyncio.timeout(limits.body_timeout_s) as patience:
                lease.uploading(lambda: patience.reschedule(0.0))
                body = await _gather(request, limits.body_bytes_max, lease)
                lease.uploaded()
    except TimeoutError:
        detail = f"the body did not arrive within edge.body_timeout_s ({limits.body_timeout_s:g} s)"
        if lease.gave_way:
            detail = "the body stalled while others needed its room (edge.in_flight_bytes_max); send it again"
        raise Refusal(408, "body_timeout", detail) from None
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise Refusal(400, "malformed_body", f"the body cannot be read: {error}") from None
    if len(body) > limits.body_bytes_max:
        raise _too_large("edge.body_bytes_max", limits.body_bytes_max)
    if not body:
        raise Refusal(400, "malformed", "the body is empty")
    return body


async def _gather(request: web.BaseRequest, bytes_max: int, lease: Lease) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := await request.content.readany():
        size += len(piece)
        if size > bytes_max:
            raise _too_large("edge.body_bytes_max", bytes_max)
        lease.arrived(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


def coding_of(request: web.BaseRequest) -> str | None:
    """The body's content coding, None for identity; refuses unknown and nested ones."""
    value = request.headers.get("Content-Encoding")
    if value is None:
        return None
    name = value.strip().lower().removeprefix("x-")
    if name in ("", "identity"):
        return None
    if name not in CODINGS or len(request.headers.getall("Content-Encoding")) > 1:
        expected = "expected one of gzip, deflate, zstd, identity, not nested"
        raise Refusal(415, "unsupported_encoding", f"Content-Encoding {value!r}; {expected}")
    return name


async def inflated(body: bytes, coding: str, limits: EdgeConfig, lease: Lease) -> bytes:
    """The body inflated, at most inflated_bytes_max; every piece is leased before the next one is made."""
    pieces: list[bytes] = []
    size = 0
    steps = inflate(body, coding)
    try:
        piece = next(steps, b"")  # small bodies end here, without a thread
        while piece:
            size += len(piece)
            if size > limits.inflated_bytes_max:
                raise _too_large("edge.inflated_bytes_max", limits.inflated_bytes_max)
            lease.take(len(piece))
            pieces.append(piece)
            piece = await asyncio.to_thread(next, steps, b"") if size > _INLINE_BYTES else next(steps, b"")
    except Broken as error:
        raise Refusal(400, "malformed_body", str(error)) from None
    if not size:
        raise Refusal(400, "malformed", "the body is empty")
    return b"".join(pieces)


async def check_count(body: bytes, form: Form, limits: EdgeConfig) -> None:
    """Refuse a body of more than events_max events."""
    if count.surely_within(body, form, limits.events_max):
        return
    if await count_events(body, form, limits) > limits.events_max:
        detail = f"more than edge.events_max ({limits.events_max}) events in one request; send them in several"
        raise Refusal(413, "too_many_events", detail)


async def count_events(body: bytes, form: Form, limits: EdgeConfig) -> int:
    """How many events the body has; from events_max + 1 on not exact."""
    if len(body) <= _INLINE_BYTES:
        return count.count(body, form, limits.events_max)
    return await asyncio.to_thread(count.count, body, form, limits.events_max)


def _greet(request: web.BaseRequest) -> None:
    """Ask for the body if the sender waits to be asked; by now the headers are accepted."""
    expected = request.headers.get("Expect")
    if expected is None:
        return
    if expected.lower() != "100-continue":
        raise Refusal(417, "expectation_failed", f"Expect: {expected!r}; expected 100-continue")
    if request.transport is not None and not request.content.is_eof():
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(setting: str, bytes_max: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is larger than {setting} ({bytes_max} bytes)")
