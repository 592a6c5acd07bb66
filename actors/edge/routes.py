"""Routes: what the edge answers, as one table. The router, authentication and /openapi.json read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from eagleray.actors.edge.answers import LongAnswer
from eagleray.actors.edge.refusal import Refusal
from eagleray.cluster.api_keys import ANONYMOUS, ApiKey


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way to a handler: `params` from the path, `key` of who asks (None on open routes)."""

    request: web.BaseRequest
    params: Mapping[str, str]
    key: ApiKey | None

    @property
    def asker(self) -> ApiKey:
        """Who asks, on a route with a scope."""
        assert self.key is not None
        return self.key

    @property
    def share(self) -> str | None:
        """Whose share of the room for bytes this is; None: everyone's."""
        return None if self.key is None or self.key is ANONYMOUS else self.key.name


Handler = Callable[[Call], Awaitable[web.Response | LongAnswer]]


@dataclass(frozen=True)
class Route:
    """One call of the HTTP interface. `scope` may name a path parameter, as in `write:{stream}`; None: open."""

    method: str
    path: str
    scope: str | None
    handler: Handler
    summary: str
    answer: Mapping[str, Any]  # OpenAPI content of the 200
    query: Mapping[str, str] = field(default_factory=dict)  # optional parameters and what they mean
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)  # OpenAPI content of the request
    refusals: Mapping[int, str] = field(default_factory=dict)  # besides 401 and 403, which follow from the scope

    @property
    def is_watched(self) -> bool:
        """Whether each call of it is written down, with who made it."""
        return self.scope == "admin" or self.path == "/v1/sql"

    def scope_of(self, params: Mapping[str, str]) -> str:
        """The scope that a call with these path parameters needs."""
        return (self.scope or "").format_map(params)


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Paths are matched segment by segment; a segment in braces takes anything but nothing, percent-decoded."""
        self.routes = tuple(routes)
        self._paths: dict[int, list[tuple[tuple[str, ...], dict[str, Route]]]] = {}
        for route in routes:
            segments = tuple(route.path.split("/"))
            paths = self._paths.setdefault(len(segments), [])
            methods = next((found for known, found in paths if known == segments), None)
            if methods is None:
                methods = {}
                paths.append((segments, methods))
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and its parameters; refuses with 404 or 405."""
        segments = path.split("/")
        for template, methods in self._paths.get(len(segments), ()):
            params = _match(template, segments)
            if params is None:
                continue
            route = methods.get(method)
            if route is None:
                allowed = ", ".join(sorted(methods))
                detail = f"{method} is not allowed here; expected {allowed}"
                raise Refusal(405, "method_not_allowed", detail, headers={"Allow": allowed})
            return route, params
        raise Refusal(404, "not_found", "no such path; GET /openapi.json lists all")


def _match(template: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    params: dict[str, str] = {}
    for wanted, found in zip(template, segments, strict=True):
        if wanted[:1] == "{" and found:
            params[wanted[1:-1]] = unquote(found) if "%" in found else found  # a slash may be within
        elif wanted != found:
            return None
    return params
