"""POST /v1/sql: hands a query to the batch plane and its result back, as JSON or as an Arrow stream."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from eagleray.actors.edge.backend_protocol import Backend
from eagleray.actors.edge.body import read_body
from eagleray.actors.edge.in_flight import InFlight
from eagleray.actors.edge.refusal import Refusal
from eagleray.actors.edge.routes import Call
from eagleray.cluster.config import Config

ARROW = "application/vnd.apache.arrow.stream"
QUERY_BYTES_MAX = 64 << 10


class _Ask(msgspec.Struct, forbid_unknown_fields=True):
    query: str


_asked = msgspec.json.Decoder(_Ask)


class Sql:
    """Answers questions in SQL."""

    def __init__(self, config: Config, backend: Backend, flight: InFlight) -> None:
        """`query_timeout_s` bounds a query; the worker's own limit comes first."""
        self._limits = config.edge.model_copy(update={"body_bytes_max": QUERY_BYTES_MAX})
        self._backend = backend
        self._flight = flight

    async def post(self, call: Call) -> web.Response:
        """Run one read-only query."""
        with self._flight.lease() as lease:
            body = await read_body(call.request, self._limits, lease)
        try:
            query = _asked.decode(body).query
        except msgspec.MsgspecError as error:
            raise Refusal(400, "malformed", f'expected {{"query": "SELECT ..."}}: {error}') from None
        arrow = ARROW in call.request.headers.get("Accept", "")
        result = await self._backend.sql(query, arrow)
        if isinstance(result, bytes):
            return web.Response(body=result, content_type=ARROW if arrow else "application/json")
        # Large results take a while; others are served meanwhile.
        encoded = await asyncio.to_thread(msgspec.json.encode, result)
        return web.Response(body=encoded, content_type="application/json")
