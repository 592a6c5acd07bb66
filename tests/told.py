"""Real servers that messages about jobs arrive at: HTTP of the standard library, SMTP of aiosmtpd, on free ports."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from tests.certificates import Pair


@dataclass
class Door:
    """An HTTP server; `answers` are the statuses of the next requests, 200 when there are no more."""

    url: str = ""
    got: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)  # path, headers, JSON
    answers: list[int] = field(default_factory=list)
    pages: set[str] = field(default_factory=set)  # paths that GET answers


@contextmanager
def http_door() -> Iterator[Door]:
    door = Door()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            door.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(body)))
            self._answer(door.answers.pop(0) if door.answers else 200)

        def do_GET(self) -> None:
            self._answer(200 if self.path in door.pages else 404)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    door.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield door
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Mailbox:
    """What arrived, as it was sent; and who logged in."""

    def __init__(self, password: str) -> None:
        self.mails: list[Any] = []
        self.password = password
        self.refuse: list[str] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refuse:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(envelope)
        return "250 OK"

    def authenticator(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data.password == self.password.encode())


@contextmanager
def smtp_door(password: str = "", tls: Pair | None = None) -> Iterator[tuple[Mailbox, int]]:
    """A mailbox and its port; with a password, a login is required, and with a certificate STARTTLS before it."""
    box = Mailbox(password)
    more: dict[str, Any] = {"authenticator": box.authenticator, "auth_required": True} if password else {}
    if tls is not None:
        more["tls_context"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        more["tls_context"].load_cert_chain(tls.cert, tls.key)
        more["require_starttls"] = True
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port, ready_timeout=20, **more)
    controller.start()
    try:
        yield box, port
    finally:
        controller.stop()
