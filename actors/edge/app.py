"""The onion around every request: route, authenticate, handle, turn errors into answers, count. Called by server.

Nothing else wraps a request; there are no middlewares.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from eagleray.actors.edge.answers import Answers
from eagleray.actors.edge.audit import Audit
from eagleray.actors.edge.auth import Gate
from eagleray.actors.edge.backend_protocol import Backend
from eagleray.actors.edge.in_flight import InFlight
from eagleray.actors.edge.ingest import Ingest
from eagleray.actors.edge.meters import Meters
from eagleray.actors.edge.openapi import document
from eagleray.actors.edge.pools import Pools
from eagleray.actors.edge.proxies import Proxies
from eagleray.actors.edge.quarantine.isolation import Isolate, Probe
from eagleray.actors.edge.rate_limit import Rates
from eagleray.actors.edge.refusal import refusal_of, refuse
from eagleray.actors.edge.request_target import origin_form
from eagleray.actors.edge.route_table import table
from eagleray.actors.edge.routes import Call, Router
from eagleray.actors.edge.sql import Sql
from eagleray.actors.edge.status import Status
from eagleray.actors.edge.windows import Windows
from eagleray.cluster.api_keys import open_ring
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.telemetry import tracing
from eagleray.cluster.telemetry.metrics import PROCESS, labelled
from eagleray.cluster.telemetry.prometheus import Exemplar

if TYPE_CHECKING:
    from eagleray.actors.edge.tokens import Tokens


def _tokens(config: Config) -> Tokens | None:
    if config.edge.jwt is None:
        return None
    from eagleray.actors.edge.tokens import Tokens  # and with it cryptography, which most do without

    return Tokens(config.edge.jwt, SystemClock())


class App:
    """Everything between a parsed request and its answer, for one event loop."""

    def __init__(self, config: Config, backend: Backend, process: str, connections: Callable[[], int]) -> None:
        """`process` names this process in metrics; `connections` counts the open ones."""
        self.process = process
        self._connections = connections
        self._places = (config.data_dir, config.file.parent)
        self.meters = Meters(config.slo)
        self._coin = tracing.Coin(os.environ) if tracing.is_on() else None
        self.flight = InFlight(config.edge.in_flight_bytes_max, config.edge.in_flight_key_bytes_max)
        self.answers = Answers(config.edge)
        self.rates = Rates(config.edge.dead_letters_rate)
        self.isolate = Isolate(backend.submit, Probe(config))
        self.audit = Audit()
        self.tokens = _tokens(config)
        ring = open_ring(config) if config.edge.auth == "required" else None
        self.gate = Gate(ring, self.tokens, Proxies(config.edge.trusted_proxies))
        self.status = Status(config, backend, self.gate, self.stats, self.report, self.exemplars)
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
        """Answer one request, whatever happens; trace it where it is sampled."""
        parent = self._coin.toss(request.headers.get("traceparent")) if self._coin is not None else None
        if parent is None:
            return await self._handle(request, "")
        with tracing.request(request.method, parent) as spans:
            response = await self._handle(request, spans.contexts[0])
            spans.note(status=response.status)
        return response

    async def _handle(self, request: web.BaseRequest, trace: str) -> web.StreamResponse:
        began = time.perf_counter()
        self.meters.active += 1
        name, key, is_watched = "none", None, False
        response: web.StreamResponse
        try:
            request = origin_form(request)
            route, params = self.router.find(request.method, request.raw_path.partition("?")[0])
            name = route.path
            key = await self.gate.admit(request, route.scope_of(params) if route.scope else None)
            is_watched = route.is_watched
            call = Call(request, params, key)
            answer = await route.handler(call)
            response = await self.answers.send(request, answer, call.share, last=self._is_last(request))
        except ConnectionError:
            raise  # the client is gone
        except Exception as error:
            response = refuse(refusal_of(error, self._places))
            if self._is_last(request):
                response.force_close()
        finally:
            self.meters.active -= 1
        if is_watched or response.status in (401, 403):
            client = self.gate.proxies.client_of(request)
            self.audit.note(f"{request.method} {name}", response.status, client, key.name if key else None)
        self.meters.answered(name, response.status, time.perf_counter() - began, trace)
        return response

    def _is_last(self, request: web.BaseRequest) -> bool:
        """Whether the connection ends: what is left of a refused body must not be read as the next request."""
        return self.status.draining or not request.content.is_eof()

    async def close(self) -> None:
        """Let go of the keys file, of the issuer's keys and of the probe."""
        if self.tokens is not None:
            await self.tokens.close()
        self.isolate.close()
        if self.gate.ring is not None:
            self.gate.ring.close()

    async def openapi(self, call: Call) -> web.Response:
        """Answer with the description of the interface."""
        return web.Response(body=self._document, content_type="application/json")

    def stats(self) -> dict[str, float]:
        """Samples of this process, labelled with its name."""
        samples = self.meters.samples()
        samples |= {"edge_in_flight_bytes": self.flight.used, "edge_answer_bytes": self.answers.waiting.used}
        samples["http_connections"] = self._connections()
        return labelled(samples, **{PROCESS: self.process})

    def exemplars(self) -> dict[str, Exemplar]:
        """Traces of requests of this process, by the samples that count them."""
        return labelled(self.meters.exemplars, **{PROCESS: self.process})

    def report(self) -> dict[str, Any]:
        """Rates, latencies and load of this process, for people."""
        in_flight = {"in_flight_bytes": self.flight.used, "in_flight_bytes_max": self.flight.bytes_max}
        return {"process": self.process, **self.meters.report(), **in_flight}
