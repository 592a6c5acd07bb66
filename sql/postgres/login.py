"""From a fresh connection to a client that is known: TLS, the first message, SCRAM. Called by `server`.

The user is the name of an API key, the password the key itself. It is never sent: the client proves that it holds it
(`cluster.scram`). With `edge.tls` nothing but TLS is spoken; with `edge.auth: off`, which needs a loopback host,
everyone is let in.
"""

from __future__ import annotations

import logging
import secrets
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from eagleray.cluster.api_keys import ANONYMOUS, ApiKey
from eagleray.cluster.certificates import Certificates
from eagleray.cluster.scram import MECHANISM, BadProof, Exchange, Verifier, decoy
from eagleray.sql.postgres.dialect import DATABASE
from eagleray.sql.postgres.session import SessionEnded
from eagleray.sql.postgres.wire import FIRST_BYTES_MAX, Body, ProtocolError, Wire, text

logger = logging.getLogger(__name__)

_PROTOCOL_3, _CANCEL, _TLS, _GSS = 3 << 16, 80877102, 80877103, 80877104
_TLS_HELLO = 0x16  # the first byte of TLS: a client that begins with it (sslnegotiation=direct)
_SECRET = secrets.token_bytes(32)
_NO_VERIFIER = (
    "the key {name!r} was made before there was SQL over Postgres, and cannot be used for it: make a new one with"
    " `eagleray keys create`"
)


@dataclass(frozen=True)
class Known:
    """Somebody who may ask."""

    wire: Wire
    key: ApiKey
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class CancelRequest:
    """Somebody who wants a query of another connection to stop."""

    backend: int
    secret: int


class Login:
    """Lets a connection in or refuses it; threads may share it."""

    def __init__(
        self,
        named: Callable[[str], ApiKey | None] | None,
        certificates: Certificates | None,
        timeout_s: float,
        write_timeout_s: float,
    ) -> None:
        """`named` finds a working key by its name; None: authentication is off."""
        self._named = named
        self._certificates = certificates
        self._timeout_s = timeout_s
        self._write_timeout_s = write_timeout_s

    def admit(self, sock: socket.socket) -> tuple[Wire, Known | CancelRequest | None]:
        """Who has connected; None: nobody who wants to go on. The wire is to be closed by the caller.

        Raises Closed, ProtocolError, TimeoutError, SessionEnded with what the client is to be told.
        """
        deadline = monotonic() + self._timeout_s
        sock.settimeout(self._timeout_s)
        if self._certificates and sock.recv(1, socket.MSG_PEEK)[:1] == bytes([_TLS_HELLO]):
            return self._first(self._protected(sock), True, deadline)
        wire = Wire(sock, self._write_timeout_s)
        for _ in range(2):  # GSS and TLS may each be asked for once
            code, body = wire.first(_left(deadline))
            if code not in (_TLS, _GSS):
                return wire, self._known(wire, code, body, False, deadline)
            if wire.pending:
                raise ProtocolError("data was sent before TLS began")
            if code == _TLS and self._certificates:
                sock.sendall(b"S")
                return self._first(self._protected(sock), True, deadline)
            sock.sendall(b"N")
        return self._first(wire, False, deadline)

    def _protected(self, sock: socket.socket) -> Wire:
        assert self._certificates is not None
        return Wire(self._certificates.context().wrap_socket(sock, server_side=True), self._write_timeout_s)

    def _first(self, wire: Wire, protected: bool, deadline: float) -> tuple[Wire, Known | CancelRequest | None]:
        code, body = wire.first(_left(deadline))
        return wire, self._known(wire, code, body, protected, deadline)

    def _known(self, wire: Wire, code: int, body: bytes, protected: bool, deadline: float) -> Known | CancelRequest:
        if code == _CANCEL:
            backend, secret = struct.unpack("!iI", body[:8].ljust(8, b"\0"))
            return CancelRequest(backend, secret)
        if code >> 16 != 3:
            raise SessionEnded("0A000", f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: expected 3.0")
        parameters = _parameters(body)
        _negotiate(wire, code, parameters)
        if self._certificates and not protected:
            raise SessionEnded("28000", "connections need TLS here: sslmode=require, or better verify-full")
        key = self._authenticated(wire, parameters, deadline)
        database = parameters.get("database") or DATABASE
        if database not in (DATABASE, parameters["user"]):  # libpq's default is the user's name
            raise SessionEnded("3D000", f'database "{database}" does not exist; there is one, "{DATABASE}"')
        return Known(wire, key, parameters)

    def _authenticated(self, wire: Wire, parameters: Mapping[str, str], deadline: float) -> ApiKey:
        user = parameters.get("user", "")
        if not user:
            raise SessionEnded("28000", "no user was named; the user is the name of an API key")
        if self._named is None:
            wire.write(b"R", struct.pack("!i", 0))
            return ApiKey(user, ANONYMOUS.scopes)
        key = self._named(user)
        verifier = Verifier.parse(key.scram) if key and key.scram else decoy(user, _SECRET)
        try:
            last = self._proven(wire, Exchange(verifier), deadline)
        except BadProof:
            last = None
        if key is not None and key.scram is None:
            raise SessionEnded("28P01", _NO_VERIFIER.format(name=user))
        if last is None or key is None:
            raise SessionEnded("28P01", f'password authentication failed for user "{user}"')
        wire.write(b"R", struct.pack("!i", 12) + last)
        wire.write(b"R", struct.pack("!i", 0))
        return key

    def _proven(self, wire: Wire, exchange: Exchange, deadline: float) -> bytes:
        """The last word of SCRAM to the client; raises BadProof."""
        wire.write(b"R", struct.pack("!i", 10) + text(MECHANISM) + b"\0")
        wire.flush()
        body = Body(_answer(wire, deadline))
        if body.text() != MECHANISM:
            raise BadProof("another mechanism")
        wire.write(b"R", struct.pack("!i", 11) + exchange.challenge(body.value() or b""))
        wire.flush()
        return exchange.confirm(_answer(wire, deadline))


def _answer(wire: Wire, deadline: float) -> bytes:
    letter, body = wire.next(_left(deadline), FIRST_BYTES_MAX)
    if letter != b"p":
        raise ProtocolError(f"message {letter!r} in the midst of a login")
    return body


def _left(deadline: float) -> float:
    """Seconds; raises TimeoutError where there are none."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _parameters(body: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    parts = Body(body)
    while name := parts.text():
        found[name] = parts.text()
    return found


def _negotiate(wire: Wire, code: int, parameters: Mapping[str, str]) -> None:
    """Say that 3.0 is spoken, and which of the client's options nobody knows."""
    unknown = [name for name in parameters if name.startswith("_pq_.")]
    if code != _PROTOCOL_3 or unknown:
        wire.write(b"v", struct.pack("!ii", _PROTOCOL_3, len(unknown)) + b"".join(map(text, unknown)))
