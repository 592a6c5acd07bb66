"""pyiceberg's REST catalog with time limits: its own requests would wait for ever. Used by `catalog` alone."""

from __future__ import annotations

from typing import Any

from pyiceberg.catalog.rest import RestCatalog
from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter

CONNECT_S = 5.0
ANSWER_S = 30.0  # without a byte


class BoundedRestCatalog(RestCatalog):
    """Every request ends; the caller then reads back, as after any lost answer."""

    def _create_session(self) -> Session:
        session: Session = super()._create_session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Bounded())
        return session


class _Bounded(HTTPAdapter):
    def send(self, request: PreparedRequest, *args: Any, **more: Any) -> Response:
        more["timeout"] = more.get("timeout") or (CONNECT_S, ANSWER_S)
        return super().send(request, *args, **more)
