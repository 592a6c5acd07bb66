"""The onion around every request: route, authenticate, handle, turn errors into answers, count. Called by server.

Nothing else wraps a request; there are no middlewares.
"""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from eagleray.actors.edge.auth import Gate
from eagleray.actors.edge.backend_protocol import Backend
from eagleray.actors.edge.in_flight import InFlight
from eagleray.actors.edge.ingest import Ingest
from eagleray.actors.edge.meters import Meters
from eagleray.actors.edge.openapi import document
from eagleray.actors.edge.pools import Pools
from eagleray.actors.edge.quarantine.isolation import Isolate, Probe
from eagleray.actors.edge.rate_limit import Rates
from eagleray.actors.edge.refusal import refusal_of, refuse
from eagleray.actors.edge.route_table import table
from eagleray.actors.edge.routes import Call, Router
from eagleray.actors.edge.sql import Sql
from eagleray.actors.edge.status import Status
from eagleray.actors.edge.windows import Windows
from eagleray.cluster.api_keys import KeyRing
from eagleray.cluster.config import Config
from eagleray.cluster.telemetry.metrics import PROCESS, labelled


class App:
    """Everything between a parsed request and its answer, for one event loop."""

    def __init__(self, config: Config, backend: Backend, process: str) -> None:
        """`process` names this process in metrics."""
        self.process = process
        self.meters = Meters()
        self.flight = InFlight(config.edge.in_flight_bytes_max)
        self.rates = Rates()
        self.isolate = Isolate(backend.submit, Probe(config))
        self.gate = Gate(KeyRing(config.keys_file) if config.edge.auth == "required" else None)
        self.status = Status(config, backend, self.gate, self.stats, self.report)
        self.router = Router(
            table(
                config.edge,
                ingest=Ingest(config, self.isolate.submit, backend.workers, self.rates, self.flight, self.meters),
                windows=Windows(config, backend),
                sql=Sql(config, backend, self.flight),
                pools=Pools(config, backend, self.flight),
                status=self.status,
                openapi=self.openapi,
            )
        )
        self._document = document(self.router.routes, config)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever happens."""
        began = time.perf_counter()
        self.meters.active += 1
        name = "none"
        try:
            route, params = self.router.find(request.method, request.raw_path.partition("?")[0])
            name = route.path
            key = self.gate.admit(request, route.scope_of(params) if route.scope else None)
            response = await route.handler(Call(request, params, key))
        except ConnectionError:
            raise  # the client is gone
        except Exception as error:
            response = refuse(refusal_of(error))
        finally:
            self.meters.active -= 1
        if self.status.draining or not request.content.is_eof():
            response.force_close()  # what is left of a refused body must not be read as the next request
        self.meters.answered(name, response.status, time.perf_counter() - began)
        return response

    def close(self) -> None:
        """Let go of the keys file and of the probe."""
        self.isolate.close()
        if self.gate.ring is not None:
            self.gate.ring.close()

    async def openapi(self, call: Call) -> web.Response:
        """Answer with the description of the interface."""
        return web.Response(body=self._document, content_type="application/json")

    def stats(self) -> dict[str, float]:
        """Samples of this process, labelled with its name."""
        samples = self.meters.samples()
        samples["edge_in_flight_bytes"] = self.flight.used
        return labelled(samples, **{PROCESS: self.process})

    def report(self) -> dict[str, Any]:
        """Rates, latencies and load of this process, for people."""
        in_flight = {"in_flight_bytes": self.flight.used, "in_flight_bytes_max": self.flight.bytes_max}
        return {"process": self.process, **self.meters.report(), **in_flight}
