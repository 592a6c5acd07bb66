"""SQL for tools that speak Postgres: a server of its own, read-only, in front of the same SQL processes as `/v1/sql`.

A plain class; the platform makes an actor of it where `sql.postgres` is configured. A connection is a thread here,
which reads and writes its socket and waits; all work on queries is done in child processes (`sql.child`), which send
rows that are ready to be passed on. So memory here hangs on the number of connections, not on what they ask
(docs/adr/0028).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import ssl
import struct
import threading
from contextlib import suppress

from eagleray.cluster.api_keys import ApiKey, open_ring
from eagleray.cluster.certificates import Certificates
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, QueryError
from eagleray.cluster.sections import PostgresConfig
from eagleray.cluster.telemetry import tracing
from eagleray.sql.postgres.login import CancelRequest, Known, Login
from eagleray.sql.postgres.runner import Bell
from eagleray.sql.postgres.session import Session, SessionEnded, error_body
from eagleray.sql.postgres.settings import REPORTED
from eagleray.sql.postgres.wire import Closed, ProtocolError, Stream, Wire, text
from eagleray.sql.worker import SqlWorker

logger = logging.getLogger(__name__)

BACKLOG = 128
ALPN = "postgresql"
_FAREWELL_S = 0.5  # for the client to answer it
_STOPPING_S = 5.0  # for sessions to end
_CHECKED_SETTINGS = ("application_name", "statement_timeout", "search_path")
"""Settings that a client may send with its first message; others that it sends there are what they are."""


class PostgresServer:
    """Listens from the moment that it is made, until `stop`."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError where the port is taken, or the certificate cannot be used."""
        assert config.sql.postgres is not None
        self._config = config
        self._limits: PostgresConfig = config.sql.postgres
        self._ring = open_ring(config)
        self._ring_turn = threading.Lock()  # a ring is for one thread at a time
        tls = config.edge.tls
        certificates = Certificates(str(config.file), tls, protocol=ALPN) if tls else None
        edge = config.edge
        named = self._named if edge.auth == "required" else None
        self._login = Login(named, certificates, edge.header_timeout_s, edge.answer_timeout_s)
        self._listener = _listen(config, self._limits)
        self.port: int = self._listener.getsockname()[1]
        self._worker = SqlWorker(config, queries_max=self._limits.queries_max)
        self._turn = threading.Lock()
        self._connections: dict[threading.Thread, Stream] = {}
        self._bells: dict[tuple[int, int], Bell] = {}  # by what a client has to know to cancel
        self._coin = tracing.Coin(os.environ) if tracing.is_on() else None
        self._stopping = False
        threading.Thread(target=self._accept, name="postgres", daemon=True).start()
        logger.info("SQL over Postgres listens", extra={"host": self._limits.host, "port": self.port})

    def stop(self) -> None:
        """End all sessions and processes."""
        self._stopping = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._turn:
            for bell in self._bells.values():
                bell.ring()
            open_ = dict(self._connections)
        for stream in open_.values():
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        for thread in open_:
            thread.join(_STOPPING_S)
        self._worker.close()
        self._ring.close()

    def stats(self) -> dict[str, float]:
        """Connections that are open."""
        with self._turn:
            return {"postgres_connections": float(len(self._connections))}

    def _named(self, name: str) -> ApiKey | None:
        with self._ring_turn:
            return self._ring.named(name)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                logger.warning("a connection could not be accepted: %s", error)
                threading.Event().wait(0.1)  # out of descriptors: it will not pass at once
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            thread = threading.Thread(target=self._serve, args=(sock,), name="postgres session", daemon=True)
            with self._turn:
                # Cancels have no slot of their own: a few more than those that are let in.
                full = len(self._connections) >= 2 * self._limits.connections_max
                if not full:
                    self._connections[thread] = sock
            if full:
                sock.close()
            else:
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        wire: Wire | None = None
        try:
            wire, found = self._login.admit(sock)
            with self._turn:
                self._connections[threading.current_thread()] = wire.stream  # with TLS it is another
            if isinstance(found, CancelRequest):
                self._cancel(found)
            elif found is not None:
                self._session(found)
        except SessionEnded as end:
            logger.info("audit", extra={"call": "postgres", "status": end.sqlstate, "detail": str(end)})
            self._say(wire or Wire(sock, 1.0), end)
        except (Closed, ProtocolError, TimeoutError, ssl.SSLError, OSError, struct.error) as error:
            logger.debug("a connection ended: %s", error)
        except Exception:
            logger.exception("a session of SQL over Postgres failed")
        finally:
            with self._turn:
                self._connections.pop(threading.current_thread(), None)
            _close(wire.stream if wire else sock)
            sock.close()

    @staticmethod
    def _say(wire: Wire, end: SessionEnded) -> None:
        with suppress(Closed):
            wire.write(b"E", error_body("FATAL", end.sqlstate, str(end), None))
            wire.flush()

    def _cancel(self, request: CancelRequest) -> None:
        with self._turn:
            bell = self._bells.get((request.backend, request.secret))
            if bell is not None:
                bell.ring()

    def _session(self, known: Known) -> None:
        bell = Bell()
        number = secrets.randbelow(2**31 - 1) + 1, secrets.randbits(32)
        try:
            with self._turn:
                if len(self._bells) >= self._limits.connections_max:
                    raise SessionEnded("53300", "too many connections (sql.postgres.connections_max)")
                self._bells[number] = bell
            key = known.key

            def valid() -> bool:
                return self._config.edge.auth == "off" or self._named(key.name) == key

            session = Session(known.wire, key, number[0], self._worker, self._config, bell, valid, self._coin)
            _greet(known, session, number)
            session.run()
        finally:
            with self._turn:
                self._bells.pop(number, None)
                bell.close()


def _close(stream: Stream) -> None:
    """End a connection; TLS has a word for it, without which a client takes it for cut."""
    with suppress(OSError, ValueError):
        if isinstance(stream, ssl.SSLSocket):
            stream.settimeout(_FAREWELL_S)
            stream.unwrap()
    with suppress(OSError):
        stream.close()


def _greet(known: Known, session: Session, number: tuple[int, int]) -> None:
    """Take the settings that came with the login; tell those that a client follows, and how to cancel."""
    for name in _CHECKED_SETTINGS:
        if name in known.parameters:
            try:
                session.settings.set(name, known.parameters[name])
            except QueryError as error:
                raise SessionEnded(error.sqlstate, str(error)) from None
    for name in REPORTED:
        known.wire.write(b"S", text(name) + text(session.settings.get(name) or ""))
    known.wire.write(b"K", struct.pack("!iI", *number))


def _listen(config: Config, limits: PostgresConfig) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(limits.host, limits.port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        problem = f"cannot listen on {limits.host}:{limits.port}: {error.strerror}"
        raise ConfigError(f"{config.file}: sql.postgres.port", problem) from None
    return sock
