"""One client's connection: aiohttp's protocol, with a deadline for headers, JSON errors and a limit on connections.

aiohttp has no deadline of its own before a request is whole, so a client that dribbles a header byte now and then would
hold a connection for ever. Bodies have their deadline in body.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import _ErrInfo

from eagleray.actors.edge.refusal import Refusal, refuse, retry_after
from eagleray.cluster.sections import EdgeConfig

logger = logging.getLogger(__name__)

CONNECTIONS_MAX = 10_000  # open connections of one process: at 256 KiB of buffers each, memory stays bounded
KEEPALIVE_S = 75.0  # an idle connection is closed after this; longer than the usual 60 s of proxies
LINGER_S = 2.0  # how long the rest of a refused body is read, so that its sender sees the answer
READ_BYTES = 128 << 10  # buffered per connection before the sender is held back (twice this)
HEADER_BYTES_MAX = 8190  # one header, or the request line
HEADERS_MAX = 100


class Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ("_answer_timeout_s", "_deadline", "_header_timeout_s", "_unread", "client")

    def __init__(
        self, server: web.Server, *, header_timeout_s: float, answer_timeout_s: float, **settings: Any
    ) -> None:
        super().__init__(server, **settings)
        self._header_timeout_s = header_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._unread: asyncio.TimerHandle | None = None
        self.client: str | None = None  # where a trusted proxy's PROXY header named one
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Between requests: nothing is lost by closing."""
        return self._current_request is None and not self._messages and not self._request_in_progress

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the deadline for the first request's headers; turn away what is beyond CONNECTIONS_MAX."""
        super().connection_made(transport)
        self._arm()
        if self._manager is not None and len(self._manager._connections) > CONNECTIONS_MAX:
            self._turn_away(Refusal(503, "too_many_connections", "try again later", headers=retry_after(1)))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the deadlines."""
        self._disarm()
        self._read_again()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read what was written: give it a while."""
        super().pause_writing()
        self._unread = self._loop.call_later(self._answer_timeout_s, self._give_up)

    def resume_writing(self) -> None:
        """It read most of it."""
        self._read_again()
        super().resume_writing()

    def _read_again(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up(self) -> None:
        """Nobody reads: what is buffered is let go with the connection. Closing it would wait for the reader."""
        self._unread = None
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse; whole headers end the deadline, the first bytes of the next ones start it."""
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._disarm()
            self._fail_body()
        elif self._deadline is None and self._waiter is not None:
            self._arm()

    def _fail_body(self) -> None:
        """Wake who reads a body whose framing just broke: aiohttp only queues the error behind it."""
        request = self._current_request
        if request is None or request.content.is_eof() or not self._messages:
            return
        broken = self._messages[-1][0]
        if isinstance(broken, _ErrInfo):
            request.content.set_exception(web.RequestPayloadError(_first_line(broken.message)))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP, or what broke outside of app, in the edge's own shape; the connection ends."""
        if status >= 500:
            logger.error("a request failed outside of its handler", exc_info=exc)
            response = refuse(Refusal(500, "internal", "the edge failed; its log names the cause"))
        elif isinstance(exc, LineTooLong):
            response = refuse(Refusal(431, "headers_too_large", f"a header is longer than {HEADER_BYTES_MAX} bytes"))
        else:
            response = refuse(Refusal(400, "bad_request", _first_line(message)))
        response.force_close()
        return response

    def _arm(self) -> None:
        self._deadline = self._loop.call_later(self._header_timeout_s, self._expired)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expired(self) -> None:
        self._deadline = None
        detail = f"no whole request within edge.header_timeout_s ({self._header_timeout_s:g} s)"
        self._turn_away(Refusal(408, "header_timeout", detail))

    def _turn_away(self, refusal: Refusal) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(_raw(refusal))
        self.force_close()


def _first_line(message: str | None) -> str:
    return (message or "not HTTP/1.1").splitlines()[0].strip(" :")


def _raw(refusal: Refusal) -> bytes:
    response = refuse(refusal)
    body = response.body
    assert isinstance(body, bytes)
    head = f"HTTP/1.1 {refusal.status} {response.reason}\r\nContent-Type: application/json\r\n"
    extra = "".join(f"{name}: {value}\r\n" for name, value in refusal.headers.items())
    return f"{head}{extra}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


class HttpServer(web.Server):
    """Makes a Connection for each client."""

    def __init__(self, handler: Any, limits: EdgeConfig) -> None:
        """`handler` answers every request."""
        super().__init__(handler)
        self._limits = limits

    def __call__(self) -> Connection:
        """A new connection's protocol."""
        return Connection(
            self,
            loop=self._loop,
            header_timeout_s=self._limits.header_timeout_s,
            answer_timeout_s=self._limits.answer_timeout_s,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
            read_bufsize=READ_BYTES,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
            auto_decompress=False,  # inflate does it within limits
            access_log=None,
        )
