"""/openapi.json, made from the route table and the configuration, so that it cannot differ from what runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec

from eagleray.actors.edge.pools import POOLS
from eagleray.actors.edge.routes import Route
from eagleray.cluster.api_keys import ANY_READ
from eagleray.cluster.config import Config

_PARAMETER = re.compile(r"\{(\w+)\}")
_RETRIED = (429, 503)
_ERROR = {
    "type": "object",
    "required": ["error", "detail"],
    "properties": {"error": {"type": "string"}, "detail": {"type": "string"}},
}


def document(routes: Iterable[Route], config: Config) -> bytes:
    """The OpenAPI 3.1 document as JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, config)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Eagleray", "version": version("eagleray")},
            "paths": paths,
            "components": {
                "schemas": {"Error": _ERROR},
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                },
            },
        }
    )


def _operation(route: Route, config: Config) -> dict[str, Any]:
    locked = route.scope is not None and config.edge.auth == "required"
    refusals = dict(route.refusals)
    if locked:
        lacking = f"The key lacks the scope `{route.scope}`"
        if route.scope == ANY_READ:
            lacking = "The key has no scope that reads, or it does not open this"
        refusals |= {401: "No key, or an unknown or revoked one", 403: lacking}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _identifier(route),
        "parameters": [*_path_parameters(route, config), *_optional("query", route), *_optional("header", route)],
        "responses": {
            "200": {"description": "OK", "content": route.answer},
            **{str(status): _refusal(status, why) for status, why in sorted(refusals.items())},
            "default": _refusal(500, "Any other error, in the same shape"),
        },
    }
    if route.body:
        operation["requestBody"] = {"required": True, "content": route.body}
    if locked:
        operation["security"] = [{"bearer": []}, {"header": []}]
    return operation


def _identifier(route: Route) -> str:
    return "_".join([route.method.lower(), *re.findall(r"\w+", route.path)])


def _path_parameters(route: Route, config: Config) -> list[dict[str, Any]]:
    known = {
        "stream": sorted(config.streams),
        "window": sorted({window for stream in config.streams.values() for window in stream.windows}),
        "pool": list(POOLS),
    }
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", **_named(known.get(name))}}
        for name in _PARAMETER.findall(route.path)
    ]


def _named(known: list[str] | None) -> dict[str, Any]:
    return {} if known is None else {"enum": known}


def _optional(place: str, route: Route) -> list[dict[str, Any]]:
    named = route.query if place == "query" else route.headers
    return [
        {"name": name, "in": place, "required": False, "description": why, "schema": {"type": "string"}}
        for name, why in named.items()
    ]


def _refusal(status: int, why: str) -> dict[str, Any]:
    refusal: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}: {why}",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if status in _RETRIED:
        refusal["headers"] = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
    return refusal
