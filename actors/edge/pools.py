"""POST /v1/admin/pools/{pool}: sets the size of a worker pool. Called by `eagleray scale`."""

from __future__ import annotations

import msgspec
from aiohttp import web

from eagleray.actors.edge.backend_protocol import Backend
from eagleray.actors.edge.body import read_body
from eagleray.actors.edge.in_flight import InFlight
from eagleray.actors.edge.refusal import Refusal
from eagleray.actors.edge.routes import Call
from eagleray.cluster.config import Config

POOLS = ("validate", "window", "writer")


class _Wish(msgspec.Struct, forbid_unknown_fields=True):
    size: int


_wished = msgspec.json.Decoder(_Wish)


class Pools:
    """Resizes pools."""

    def __init__(self, config: Config, backend: Backend, flight: InFlight) -> None:
        """The pool's own limits are the backend's to hold."""
        self._limits = config.edge
        self._backend = backend
        self._flight = flight

    async def post(self, call: Call) -> web.Response:
        """Set the size and answer with the one that holds now."""
        pool = call.params["pool"]
        if pool not in POOLS:
            raise Refusal(404, "unknown_pool", f"no pool is called {pool!r}; expected one of {', '.join(POOLS)}")
        with self._flight.lease(call.share) as lease:
            body = await read_body(call.request, self._limits, lease)
        try:
            size = _wished.decode(body).size
        except msgspec.MsgspecError as error:
            raise Refusal(400, "malformed", f'expected a body such as {{"size": 2}}: {error}') from None
        answer = {"pool": pool, "size": await self._backend.scale(pool, size)}
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
