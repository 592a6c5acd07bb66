"""Long answers, sent as fast as they are read: piece by piece, bounded in all, given up where nobody reads.

Called by app. Short answers go out at once: a connection's buffers hold them (`connection` gives up where these are not
read). Of a long one that lies elsewhere the edge holds a piece at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web

from eagleray.actors.edge.backend_protocol import Body
from eagleray.actors.edge.in_flight import InFlight
from eagleray.cluster.sections import EdgeConfig

logger = logging.getLogger(__name__)

SHORT_BYTES = 64 << 10  # what a transport buffers before it holds the writer back
PIECE_BYTES = 256 << 10
READ_RATE_MIN = 64 << 10  # bytes/s: who reads slower than this, answer_timeout_s aside, is given up


@dataclass(frozen=True, slots=True)
class LongAnswer:
    """An answer that is fetched while it is sent."""

    body: Body
    content_type: str


class Unread(ConnectionError):
    """The client did not read its answer in time; the connection is gone."""


class Answers:
    """Sends long answers, for one event loop."""

    def __init__(self, limits: EdgeConfig) -> None:
        """`answer_bytes_max` bounds what waits to be read, half of it for each key; full: Overloaded."""
        most = limits.answer_bytes_max
        share = "half of edge.answer_bytes_max"
        self.waiting = InFlight(most, most // 2, "edge.answer_bytes_max", share)
        self._timeout_s = limits.answer_timeout_s

    async def send(
        self, request: web.BaseRequest, answer: web.Response | LongAnswer, key: str | None, *, last: bool
    ) -> web.StreamResponse:
        """The answer as sent, or as it is where it is short. `last`: the connection ends with it.

        Raises Overloaded before anything was sent, Unread where the client does not read.
        """
        body = answer.body if isinstance(answer, LongAnswer) else _body(answer)
        if isinstance(answer, web.Response) and body.size <= SHORT_BYTES:
            if last:
                answer.force_close()
            return answer
        try:
            with self.waiting.lease(key) as lease:
                lease.take(len(body.first) if body.more is None else min(body.size, 2 * PIECE_BYTES))
                return await self._send(request, _head(answer, body.size, last), body)
        finally:
            if body.drop is not None:
                body.drop()

    async def _send(self, request: web.BaseRequest, response: web.StreamResponse, body: Body) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        try:
            async for piece in _pieces(body):
                async with asyncio.timeout_at(began + self._timeout_s + sent / READ_RATE_MIN):
                    await response.write(piece)
                sent += len(piece)
        except Exception as error:  # its beginning is sent: that it is cut short is all that can be said
            if request.transport is not None:
                request.transport.abort()
            logger.warning("a long answer was cut short", extra={"sent": sent, "size": body.size, "why": repr(error)})
            raise Unread(f"{sent} of {body.size} bytes were read") from error
        return response


def _body(answer: web.Response) -> Body:
    text = answer.body if isinstance(answer.body, bytes) else b""
    return Body(len(text), text)


def _head(answer: web.Response | LongAnswer, size: int, last: bool) -> web.StreamResponse:
    if isinstance(answer, LongAnswer):
        response = web.StreamResponse()
        response.content_type = answer.content_type
    else:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = size
    if last:
        response.force_close()
    return response


async def _pieces(body: Body) -> AsyncIterator[bytes | memoryview]:
    first = memoryview(body.first)
    for at in range(0, len(first), PIECE_BYTES):
        yield first[at : at + PIECE_BYTES]
    at = len(first)
    while body.more is not None and at < body.size:
        piece = await body.more(at)
        if not piece:
            raise ConnectionError("the rest of the answer is gone")
        at += len(piece)
        yield piece
