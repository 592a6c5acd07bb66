"""Who asks, and whether they may: API keys from `Authorization: Bearer` or `X-API-Key`. Called by app."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from eagleray.actors.edge.ingest import FORMS
from eagleray.actors.edge.refusal import Refusal
from eagleray.actors.edge.same_site import check_same_site
from eagleray.cluster.api_keys import ANONYMOUS, ApiKey, KeyRing

_CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Gate:
    """Lets a request in or refuses it."""

    def __init__(self, ring: KeyRing | None) -> None:
        """`ring` None: authentication is off, and everyone may do everything."""
        self.ring = ring

    def admit(self, request: web.BaseRequest, scope: str | None) -> ApiKey | None:
        """The key behind a request, None on open routes (`scope` None).

        Refuses with 401 who is not known and with 403 who may not do `scope`; where authentication is off, what
        another site's page may have sent.
        """
        if self.ring is None:
            check_same_site(request.method, request.headers, FORMS)
            return ANONYMOUS
        if scope is None:
            return None
        found = self.ring.find(_presented(request.headers))
        if found is None:
            raise Refusal(401, "unauthorized", "this API key is unknown or revoked", headers=_CHALLENGE)
        if not found.allows(scope):
            raise Refusal(403, "forbidden", f"key {found.name!r} lacks the scope {scope}")
        return found


def _presented(headers: Mapping[str, str]) -> str:
    authorization = headers.get("Authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer" and key:
            return key.strip()
    elif key := headers.get("X-API-Key", ""):
        return key
    expected = "expected `Authorization: Bearer KEY` or `X-API-Key: KEY`"
    raise Refusal(401, "unauthorized", f"no API key; {expected}", headers=_CHALLENGE)
