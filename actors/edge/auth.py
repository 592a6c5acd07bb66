"""Who asks, and whether they may. Called by app.

A key of ours or a token of an identity provider, from `Authorization: Bearer` or `X-API-Key`; without either, a client
certificate whose subject is the name of a key. A client that keeps coming with what is not valid is told to wait.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from eagleray.actors.edge.ingest import FORMS
from eagleray.actors.edge.proxies import Proxies
from eagleray.actors.edge.rate_limit import Bucket
from eagleray.actors.edge.refusal import Refusal, retry_after
from eagleray.actors.edge.same_site import check_same_site
from eagleray.cluster.api_keys import ANONYMOUS, ANY_READ, PREFIX, ApiKey, Ring

if TYPE_CHECKING:  # where no identity provider is configured, none of it is loaded
    from eagleray.actors.edge.tokens import Tokens

CHALLENGE = {"WWW-Authenticate": "Bearer"}
FAILURES_PER_S = 50.0  # of one client; what is valid is never held up
FAILURES_AT_ONCE = 1000.0
CLIENTS_MAX = 10_000  # clients that failed lately; then the longest silent is forgotten


class Gate:
    """Lets a request in or refuses it."""

    def __init__(
        self,
        ring: Ring | None,
        tokens: Tokens | None = None,
        proxies: Proxies | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ring` None: authentication is off, and everyone may do everything."""
        self.ring = ring
        self.proxies = proxies or Proxies(())
        self._tokens = tokens
        self._monotonic = monotonic
        self._failures: OrderedDict[str, Bucket] = OrderedDict()  # by client

    async def admit(self, request: web.BaseRequest, scope: str | None) -> ApiKey | None:
        """The key behind a request, None on open routes (`scope` None).

        Refuses with 401 who is not known (with 429 who comes so too often), and with 403 who may not do `scope`; where
        authentication is off, what another site's page may have sent.
        """
        if self.ring is None:
            check_same_site(request.method, request.headers, FORMS)
            return ANONYMOUS
        if scope is None:
            return None
        try:
            found = await self._identified(self.ring, request)
        except Refusal as refusal:
            if refusal.status == 401:
                self._failed(self.proxies.client_of(request))
            raise
        if not found.allows(scope):
            needed = "read (or read:NAMESPACE)" if scope == ANY_READ else scope
            raise Refusal(403, "forbidden", f"key {found.name!r} lacks the scope {needed}")
        return found

    async def _identified(self, ring: Ring, request: web.BaseRequest) -> ApiKey:
        presented = _presented(request.headers)
        if presented is None:
            return self._certified(ring, request)
        found = ring.find(presented)
        if found is not None:
            return found
        if self._tokens is not None and presented.count(".") == 2 and not presented.startswith(PREFIX):
            return await self._tokens.identify(presented)
        _check_known(ring)
        raise Refusal(401, "unauthorized", "this API key is unknown or revoked", headers=CHALLENGE)

    @staticmethod
    def _certified(ring: Ring, request: web.BaseRequest) -> ApiKey:
        certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
        name = common_name(certificate) if certificate else None
        if name is None:
            expected = "expected `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            raise Refusal(401, "unauthorized", f"no API key; {expected}", headers=CHALLENGE)
        found = ring.named(name)
        if found is None:
            _check_known(ring)
            detail = f"the certificate's subject is {name[:80]!r}, and no key is called so"
            raise Refusal(401, "unauthorized", detail, headers=CHALLENGE)
        return found

    def _failed(self, client: str) -> None:
        now = self._monotonic()
        bucket = self._failures.get(client)
        if bucket is None:
            bucket = self._failures[client] = Bucket(FAILURES_PER_S, FAILURES_AT_ONCE, 0.0, now)
            if len(self._failures) > CLIENTS_MAX:
                self._failures.popitem(last=False)
        self._failures.move_to_end(client)
        bucket.fill(now)
        if bucket.tokens < 1.0:
            raise Refusal(
                429,
                "rate_limited",
                f"{client} came too often without a valid key",
                headers=retry_after(bucket.wait_s()),
            )
        bucket.take(1.0)


def common_name(certificate: Mapping[str, Any]) -> str | None:
    """The common name of a certificate's subject, as `SSLSocket.getpeercert` has it; None: none, or several."""
    found = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    return found[0] if len(found) == 1 else None


def _presented(headers: Mapping[str, str]) -> str | None:
    authorization = headers.get("Authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer" and key:
            return key.strip()
        expected = "expected `Authorization: Bearer KEY` or `X-API-Key: KEY`"
        raise Refusal(401, "unauthorized", f"no API key; {expected}", headers=CHALLENGE)
    return headers.get("X-API-Key") or None


def _check_known(ring: Ring) -> None:
    """Raise a 503, to be tried again, until the keys have been read once: till then, no key is unknown."""
    if not ring.known:
        raise Refusal(503, "not_ready", ring.problem or "API keys were not read yet", headers=retry_after(1))
