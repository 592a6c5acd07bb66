"""Refusals: every answer of the edge that is not a success. One shape: `{"error": "<code>", "detail": "..."}`.

Errors of the platform become refusals by one table; what is not in it is a 500 whose cause is only in the log.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiohttp import web

from eagleray.actors.edge.backend_protocol import Unavailable
from eagleray.cluster.errors import (
    BadCursor,
    ClockAhead,
    EaglerayError,
    LogCorrupt,
    LogMismatch,
    LogUnavailable,
    Overloaded,
    QueryFailed,
    QueryForbidden,
    QueryRejected,
)
from eagleray.cluster.hidden_paths import without_paths

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0  # when whoever failed did not say


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None) -> None:
        """`code` is for programs, `detail` says what was found and what was expected."""
        super().__init__(status, code, detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}


def retry_after(seconds: float) -> dict[str, str]:
    """The header: whole seconds, at least one."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


class _Kind(NamedTuple):
    status: int
    code: str


_KINDS: tuple[tuple[type[BaseException], _Kind], ...] = (
    (Overloaded, _Kind(429, "overloaded")),
    (ClockAhead, _Kind(503, "clock_ahead")),
    (LogMismatch, _Kind(503, "log_mismatch")),
    (LogUnavailable, _Kind(503, "log_unavailable")),
    (LogCorrupt, _Kind(503, "log_corrupt")),
    (Unavailable, _Kind(503, "unavailable")),
    (TimeoutError, _Kind(503, "timeout")),
    (QueryRejected, _Kind(400, "query_rejected")),
    (QueryForbidden, _Kind(403, "forbidden")),
    (QueryFailed, _Kind(422, "query_failed")),
    (BadCursor, _Kind(400, "bad_cursor")),
    (EaglerayError, _Kind(400, "refused")),
)


def refusal_of(error: Exception, places: Iterable[Path] = ()) -> Refusal:
    """What to answer to a request that ended in `error`. Paths of this machine, `places` among them, are left out."""
    if isinstance(error, Refusal):
        return error
    for kind, (status, code) in _KINDS:
        if isinstance(error, kind):
            told = str(error) or "no answer in time; the request may or may not have taken effect"
            detail = without_paths(told, places)
            if detail != told:
                logger.warning("answered %d; the answer leaves out the paths that are here: %s", status, told)
            seconds = error.retry_after_s if isinstance(error, Overloaded) else RETRY_AFTER_S
            return Refusal(status, code, detail, headers=retry_after(seconds) if status in (429, 503) else None)
    logger.error("a request failed", exc_info=error)
    return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "the edge failed; its log names the cause")


def refuse(refusal: Refusal) -> web.Response:
    """The refusal as an answer."""
    body = msgspec.json.encode({"error": refusal.code, "detail": refusal.detail})
    return web.Response(
        body=body, status=refusal.status, content_type="application/json", headers=refusal.headers or None
    )
