"""POST /v1/sql: hands a query to the batch plane and its result back, as JSON or as an Arrow stream.

And GET /v1/streams/{stream}/events/{id}, which is answered by queries as well (`sql.trace`).
"""

from __future__ import annotations

import msgspec

from eagleray.actors.edge.answers import LongAnswer
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
        self._streams = {name: stream.id is not None for name, stream in config.streams.items()}

    async def event(self, call: Call) -> LongAnswer:
        """What became of an event."""
        stream = call.params["stream"]
        if stream not in self._streams:
            raise Refusal(404, "unknown_stream", f"no stream is called {stream!r}; GET /v1/streams lists them")
        if not self._streams[stream]:
            raise Refusal(404, "no_id", f"events of {stream} have no id to be found by (streams.{stream}.id)")
        found = await self._backend.event(stream, call.params["id"], call.asker.tables)
        return LongAnswer(found, "application/json")

    async def post(self, call: Call) -> LongAnswer:
        """Run one read-only query."""
        with self._flight.lease(call.share) as lease:
            body = await read_body(call.request, self._limits, lease)
        try:
            query = _asked.decode(body).query
        except msgspec.MsgspecError as error:
            raise Refusal(400, "malformed", f'expected {{"query": "SELECT ..."}}: {error}') from None
        arrow = ARROW in call.request.headers.get("Accept", "")
        result = await self._backend.sql(query, arrow, call.asker.tables)
        return LongAnswer(result, ARROW if arrow else "application/json")
