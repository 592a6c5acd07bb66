"""The route table: every call of the HTTP interface, in the order of docs/http.md. Read by router and openapi."""

from __future__ import annotations

from typing import Any

from eagleray.actors.edge.ingest import ATTEMPT_MAX, FORMS, IDEMPOTENCY_KEY_CHARS_MAX, Ingest
from eagleray.actors.edge.pools import Pools
from eagleray.actors.edge.routes import Handler, Route
from eagleray.actors.edge.sql import ARROW, Sql
from eagleray.actors.edge.status import Status
from eagleray.actors.edge.windows import ROWS_MAX, Windows
from eagleray.cluster.api_keys import ANY_READ
from eagleray.cluster.events.verdict import ATTEMPT_HEADER, REASONS
from eagleray.cluster.sections import EdgeConfig
from eagleray.cluster.telemetry.prometheus import CONTENT_TYPE

_OVERLOADED = "A named limit is reached (`overloaded`, `rate_limited`); see Retry-After"
_AWAY = "Not confirmed as stored (`log_unavailable`, `unavailable`, `timeout`); retry after Retry-After seconds"
_FOREIGN_TABLE = "A table that the key's scopes do not open"
_NO_ANSWER = "The platform does not answer; retry after Retry-After seconds"
_SMALL_BODY = {
    408: "The body took too long",
    413: "The body is too large",
    417: "An Expect other than 100-continue",
    429: _OVERLOADED,
    503: _NO_ANSWER,
}


def table(
    limits: EdgeConfig,
    *,
    ingest: Ingest,
    windows: Windows,
    sql: Sql,
    pools: Pools,
    status: Status,
    openapi: Handler,
) -> tuple[Route, ...]:
    """All routes, bound to their handlers; descriptions carry the limits that run."""
    return (
        *_streams(limits, ingest, windows, status),
        *_platform(limits, sql, pools, status),
        Route("GET", "/livez", None, status.livez, "Whether this process answers.", _json({"type": "object"})),
        Route(
            "GET",
            "/readyz",
            None,
            status.readyz,
            "Whether events can be sent now.",
            _json({"type": "object"}),
            refusals={503: "Not ready; `detail` says why"},
        ),
        Route("GET", "/metrics", None, status.metrics, "Prometheus metrics.", {CONTENT_TYPE: {"schema": {}}}),
        Route("GET", "/openapi.json", None, openapi, "This document.", _json({"type": "object"})),
    )


def _streams(limits: EdgeConfig, ingest: Ingest, windows: Windows, status: Status) -> tuple[Route, ...]:
    return (
        Route(
            "POST",
            "/v1/streams/{stream}/events",
            "write:{stream}",
            ingest.post,
            f"Send events: at most {limits.events_max} a request, {limits.body_bytes_max} bytes as sent, "
            f"{limits.inflated_bytes_max} bytes inflated. Accepted means durable.",
            _json(VERDICTS),
            headers={
                "Content-Encoding": "gzip, deflate or zstd",
                "Idempotency-Key": f"1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters: the request is stored once per key",
                ATTEMPT_HEADER: f"1 to {ATTEMPT_MAX}: which attempt a replay is; needs the scope admin",
            },
            body={media_type: {"schema": {}} for media_type in FORMS},
            refusals={
                400: "The body cannot be read (`malformed`, `malformed_body`); nothing of it is stored",
                404: "Unknown stream",
                408: f"The body took longer than {limits.body_timeout_s:g} s",
                413: "Larger than a limit (`too_large`, `too_many_events`)",
                415: "Unknown Content-Type or Content-Encoding",
                417: "An Expect other than 100-continue",
                429: _OVERLOADED,
                503: _AWAY,
            },
        ),
        Route(
            "GET",
            "/v1/streams/{stream}/windows/{window}",
            "read:{stream}",
            windows.get,
            "A page of a window's rows, final and open ones, in order; `next` is the cursor of the page behind it.",
            _json(_object(rows=_list({"type": "object"}))),
            query={
                "from": "window_start at or after this time (RFC 3339)",
                "to": "window_start before this time",
                "limit": f"1 to {ROWS_MAX} rows, {ROWS_MAX} by default",
                "cursor": "`next` of the page before",
            },
            refusals={
                400: "A time, limit or cursor that cannot be read",
                404: "Unknown stream or window",
                503: _NO_ANSWER,
            },
        ),
        Route("GET", "/v1/streams", ANY_READ, status.streams, "The streams.", _json(_object(streams=_list({})))),
    )


def _platform(limits: EdgeConfig, sql: Sql, pools: Pools, status: Status) -> tuple[Route, ...]:
    return (
        Route(
            "GET",
            "/v1/status",
            ANY_READ,
            status.status,
            "What runs: pools, partitions, lag, rates, latencies.",
            _json({"type": "object"}),
            refusals={503: _NO_ANSWER},
        ),
        Route(
            "GET",
            "/v1/streams/{stream}/events/{id}",
            "read:{stream}",
            sql.event,
            "What became of an event: acked when, visible since which snapshot, counted where, or rejected why.",
            _json({"type": "object"}),
            refusals={
                404: "Unknown stream, or one whose events have no id",
                422: "Not found out within the limits of a query",
                503: _NO_ANSWER,
            },
        ),
        Route(
            "POST",
            "/v1/sql",
            ANY_READ,
            sql.post,
            f"Run a read-only query on the lake, for at most {limits.query_timeout_s:g} s.",
            {**_json(RESULT), ARROW: {"schema": {"type": "string", "format": "binary"}}},
            body=_json(_object(query={"type": "string"})),
            refusals={
                400: "Not allowed or not valid",
                403: _FOREIGN_TABLE,
                422: "Not completed within its limits",
                **_SMALL_BODY,
            },
        ),
        Route(
            "POST",
            "/v1/admin/pools/{pool}",
            "admin",
            pools.post,
            "Set the size of a worker pool.",
            _json(_object(pool={"type": "string"}, size={"type": "integer"})),
            body=_json(_object(size={"type": "integer"})),
            refusals={400: "Outside the pool's limits", 404: "Unknown pool", **_SMALL_BODY},
        ),
    )


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_REJECTION = _object(
    index={"type": "integer"}, reason={"type": "string", "enum": list(REASONS)}, detail={"type": "string"}
)
VERDICTS = _object(accepted={"type": "integer"}, rejected=_list(_REJECTION))
VERDICTS["properties"]["duplicates"] = {"type": "integer"}
RESULT = _object(columns=_list(_object(name={"type": "string"}, type={"type": "string"})), rows=_list(_list({})))
