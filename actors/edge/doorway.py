"""Takes connections in where more has to happen than to accept them: a PROXY header, then TLS, then HTTP.

Started by `server` in place of asyncio's own listener, where there is a certificate or a trusted proxy. Each connection
gets the certificate that is valid when it comes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from eagleray.actors.edge.connection import CONNECTIONS_MAX, Connection
from eagleray.actors.edge.proxies import V1_BYTES_MAX, BadHeader, Proxies, header_length, read_header
from eagleray.cluster.certificates import Certificates

logger = logging.getLogger(__name__)

_FULL_S = 1.0  # to wait where the system has no room for another connection
_MORE_S = 0.005  # to wait for the rest of a header that came in part


class Doorway:
    """Accepts connections on a socket until it is closed; on one event loop."""

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[], Connection],
        certificates: Certificates | None,
        proxies: Proxies,
        timeout_s: float,
    ) -> None:
        """`sock` is bound; `make` makes the protocol of a connection. What comes before HTTP may take `timeout_s`."""
        self._sock = sock
        self._make = make
        self._certificates = certificates
        self._proxies = proxies
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._greeting: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def open(self, backlog: int) -> None:
        """Listen."""
        self._sock.listen(backlog)
        self._accepting = self._loop.create_task(self._accept())

    def close(self) -> None:
        """Take no more in; who is not through the door yet is turned away."""
        if self._accepting is not None:
            self._accepting.cancel()
        for task in self._greeting:
            task.cancel()
        self._sock.close()

    async def _accept(self) -> None:
        while True:
            try:
                sock, _ = await self._loop.sock_accept(self._sock)
            except OSError as error:
                logger.error("no connection can be accepted: %s", error.strerror)
                await asyncio.sleep(_FULL_S)
                continue
            if len(self._greeting) >= CONNECTIONS_MAX:
                sock.close()
                continue
            task = self._loop.create_task(self._greet(sock))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _greet(self, sock: socket.socket) -> None:
        """1. whom it is from  2. what else a proxy says  3. TLS  4. HTTP has it."""
        sock.setblocking(False)
        try:
            async with asyncio.timeout(self._timeout_s):
                # 1. and 2.
                client = await self._told(sock) if self._proxies.trusts(sock.getpeername()[0]) else None
                # 3. and 4.
                await self._hand_on(sock, client)
        except (OSError, ssl.SSLError, BadHeader, TimeoutError) as error:
            logger.debug("a connection came to nothing: %r", error)
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise

    async def _hand_on(self, sock: socket.socket, client: str | None) -> None:
        def make() -> Connection:
            connection = self._make()
            connection.client = client
            return connection

        if self._certificates is None:
            await self._loop.connect_accepted_socket(make, sock)
        else:
            context = self._certificates.context()
            await self._loop.connect_accepted_socket(make, sock, ssl=context, ssl_handshake_timeout=self._timeout_s)

    async def _told(self, sock: socket.socket) -> str | None:
        """The client's address by the PROXY header, which is read and not a byte more; None: there is none."""
        while True:
            await self._readable(sock)
            head = sock.recv(V1_BYTES_MAX, socket.MSG_PEEK)
            if not head:
                raise ConnectionError("closed before it began")
            length = header_length(head)
            if length is not None:
                break
            await asyncio.sleep(_MORE_S)
        header = b""
        while len(header) < length:
            piece = await self._loop.sock_recv(sock, length - len(header))
            if not piece:
                raise ConnectionError("closed within its PROXY header")
            header += piece
        return read_header(header) if header else None

    async def _readable(self, sock: socket.socket) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(sock, _wake, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(sock)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
