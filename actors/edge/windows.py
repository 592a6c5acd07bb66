"""GET /v1/streams/{stream}/windows/{window}: rows of a window, final and open ones."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec
from aiohttp import web

from eagleray.actors.edge.backend_protocol import Backend
from eagleray.actors.edge.refusal import Refusal
from eagleray.actors.edge.routes import Call
from eagleray.cluster.config import Config

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET = re.compile(r" (?=\d\d:\d\d$)")
_times = msgspec.json.Decoder(datetime)


class Windows:
    """Answers questions about windows."""

    def __init__(self, config: Config, backend: Backend) -> None:
        """The configuration says which windows there are."""
        self._windows = {name: frozenset(stream.windows) for name, stream in config.streams.items()}
        self._backend = backend

    async def get(self, call: Call) -> web.Response:
        """Rows with window_start in [from, to)."""
        stream, window = call.params["stream"], call.params["window"]
        if stream not in self._windows:
            raise Refusal(404, "unknown_stream", f"no stream is called {stream!r}; GET /v1/streams lists them")
        if window not in self._windows[stream]:
            there = ", ".join(sorted(self._windows[stream])) or "none"
            raise Refusal(404, "unknown_window", f"{stream} has no window {window!r}; it has {there}")
        from_us, to_us = _time(call, "from"), _time(call, "to")
        rows = await self._backend.windows(stream, window, from_us, to_us)
        return web.Response(body=msgspec.json.encode({"rows": rows}), content_type="application/json")


def _time(call: Call, name: str) -> int | None:
    text = call.request.query.get(name)
    if not text:
        return None
    try:
        # A plus sign in a query arrives as a space; before an offset nobody means a space.
        time = _times.decode(msgspec.json.encode(_OFFSET.sub("+", text)))
    except msgspec.ValidationError:
        time = None
    if time is None or time.tzinfo is None:
        expected = "expected RFC 3339 with a time zone, such as 2026-01-31T12:00:00Z"
        raise Refusal(400, "bad_time", f"{name}={text!r}; {expected}")
    return (time - _EPOCH) // timedelta(microseconds=1)
