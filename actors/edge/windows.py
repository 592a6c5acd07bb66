"""GET /v1/streams/{stream}/windows/{window}: rows of a window, final and open ones."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from aiohttp import web

from eagleray.actors.edge.backend_protocol import Backend
from eagleray.actors.edge.refusal import Refusal
from eagleray.actors.edge.routes import Call
from eagleray.cluster.config import Config

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET = re.compile(r" (?=\d\d:\d\d$)")
_times = msgspec.json.Decoder(datetime)
_cursors = msgspec.json.Decoder(list[str | int | float | bool | None])
ROWS_MAX = 10_000  # of one answer: some 2 MB


class Windows:
    """Answers questions about windows."""

    def __init__(self, config: Config, backend: Backend) -> None:
        """The configuration says which windows there are."""
        self._windows = {name: frozenset(stream.windows) for name, stream in config.streams.items()}
        self._backend = backend

    async def get(self, call: Call) -> web.Response:
        """A page of the rows with window_start in [from, to)."""
        stream, window = call.params["stream"], call.params["window"]
        if stream not in self._windows:
            raise Refusal(404, "unknown_stream", f"no stream is called {stream!r}; GET /v1/streams lists them")
        if window not in self._windows[stream]:
            there = ", ".join(sorted(self._windows[stream])) or "none"
            raise Refusal(404, "unknown_window", f"{stream} has no window {window!r}; it has {there}")
        from_us, to_us = _time(call, "from"), _time(call, "to")
        limit, cursor = _limit(call), _cursor(call)
        rows, behind = await self._backend.windows(stream, window, from_us, to_us, cursor, limit)
        answer = {"rows": rows} if behind is None else {"rows": rows, "next": _written(behind)}
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")


def _limit(call: Call) -> int:
    text = call.request.query.get("limit")
    if not text:
        return ROWS_MAX
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and 1 <= int(text) <= ROWS_MAX):
        raise Refusal(400, "bad_limit", f"limit={text[:20]!r}; expected 1 to {ROWS_MAX}")
    return int(text)


def _written(cursor: list[Any]) -> str:
    return urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def _cursor(call: Call) -> list[Any] | None:
    text = call.request.query.get("cursor")
    if not text:
        return None
    try:
        return _cursors.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, msgspec.MsgspecError):
        raise Refusal(400, "bad_cursor", "cursor: expected the `next` of an earlier page") from None


def _time(call: Call, name: str) -> int | None:
    text = call.request.query.get(name)
    if not text:
        return None
    try:
        # A plus sign in a query arrives as a space; before an offset nobody means a space.
        time = _times.decode(msgspec.json.encode(_OFFSET.sub("+", text)))
    except msgspec.ValidationError:
        time = None
    if time is not None and time.tzinfo is not None:
        with suppress(OverflowError):  # in UTC it is of the year 0 or 10000
            return (time.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
    expected = "expected RFC 3339 with a time zone, such as 2026-01-31T12:00:00Z"
    raise Refusal(400, "bad_time", f"{name}={text!r}; {expected}")
