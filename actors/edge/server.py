"""The edge: an HTTP server on one port, shared by edge.processes of them. Started by the composition.

Knows neither Ray nor the other stages; lives on the event loop that `start` runs on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping

from eagleray.actors.edge.app import App
from eagleray.actors.edge.backend_protocol import Backend
from eagleray.actors.edge.connection import Connection, HttpServer
from eagleray.actors.edge.doorway import Doorway
from eagleray.actors.edge.proxies import Proxies
from eagleray.cluster.certificates import Certificates
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError

logger = logging.getLogger(__name__)

BACKLOG = 1024
_CLOSING_S = 0.02  # how often a drain looks whether connections are done


class Edge:
    """One edge process. `start` once, then `drain`; both on the same event loop."""

    def __init__(self, config: Config, backend: Backend, name: str = "edge") -> None:
        """Nothing listens yet. `name` tells edges of several nodes apart: ports and process ids may be the same."""
        self._name = name
        self._config = config
        self._backend = backend
        self._app: App | None = None
        self._http: HttpServer | None = None
        self._listener: asyncio.Server | Doorway | None = None

    async def start(self, port: int | None = None, shared: bool = False) -> int:
        """Listen on `port` (default edge.port; 0: any free one) and return the port; raises ConfigError if taken.

        `shared`: another edge may listen there as well, though edge.processes is 1.
        """
        sock = _bind(self._config, self._config.edge.port if port is None else port, shared)
        bound: int = sock.getsockname()[1]
        self._app = App(self._config, self._backend, f"{self._name}-{bound}-{os.getpid()}", self._open_connections)
        self._http = HttpServer(self._app.handle, self._config.edge)
        self._listener = await self._listen(sock, self._http)
        logger.info("edge listens", extra={"host": self._config.edge.host, "port": bound})
        return bound

    async def _listen(self, sock: socket.socket, http: HttpServer) -> asyncio.Server | Doorway:
        edge = self._config.edge
        if edge.tls is None and not edge.trusted_proxies:
            return await asyncio.get_running_loop().create_server(http, sock=sock, backlog=BACKLOG)
        certificates = Certificates(str(self._config.file), edge.tls) if edge.tls is not None else None
        doorway = Doorway(sock, http, certificates, Proxies(edge.trusted_proxies), edge.header_timeout_s)
        doorway.open(BACKLOG)
        return doorway

    async def drain(self) -> None:
        """1. stop accepting  2. close idle connections  3. answer what is in flight  4. close the rest after a time."""
        if self._app is None or self._http is None or self._listener is None:
            return
        # 1. answers from now on end their connection
        self._app.status.draining = True
        self._listener.close()
        # 2. and 3. a connection that was busy becomes idle, or closes itself after its answer
        deadline = asyncio.get_running_loop().time() + self._config.edge.drain_timeout_s
        while self._http.connections and asyncio.get_running_loop().time() < deadline:
            for connection in self._http.connections:
                if isinstance(connection, Connection) and connection.idle:
                    connection.force_close()
            await asyncio.sleep(_CLOSING_S)
        # 4.
        if left := len(self._http.connections):
            logger.warning("edge closes busy connections", extra={"connections": left})
        await self._http.shutdown(timeout=0.1)
        await self._app.close()

    def _open_connections(self) -> int:
        return len(self._http.connections) if self._http else 0

    @property
    def process(self) -> str:
        """The name of this process in metrics; empty before `start`."""
        return self._app.process if self._app else ""

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of bodies between first byte and ack."""
        return self._app.flight.used if self._app else 0

    @property
    def answered(self) -> int:
        """Requests answered since the start, probes and refusals too."""
        return sum(self._app.meters.requests.values()) if self._app else 0

    def exchange(self, elsewhere: Mapping[str, float]) -> dict[str, float]:
        """Hear what keys spent at other edges; returns what they spent here since the last time (`rate`)."""
        return self._app.rates.exchange(elsewhere) if self._app else {}

    def judgements(self) -> dict[str, tuple[int, int, dict[int, int]]]:
        """What objectives have judged in this process; empty before `start`."""
        return self._app.meters.judgements() if self._app else {}

    def stats(self) -> dict[str, float]:
        """Samples of this process (see cluster.telemetry.metrics), labelled with its name; empty before `start`."""
        return self._app.stats() if self._app else {}


def _bind(config: Config, port: int, shared: bool) -> socket.socket:
    host = config.edge.host
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.edge.processes > 1 or shared:
            # Only where it is wanted: with it, a second platform on the same port would take half of the requests.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(f"{config.file}: edge.port", f"cannot listen on {host}:{port}: {error.strerror}") from None
    sock.setblocking(False)
    return sock
