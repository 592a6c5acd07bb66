"""Keeps web pages out where authentication is off: a browser carries any page's requests to this machine.

A page of another origin may send what a form could send (a POST without a type, or as text), and one that has its own
name point at 127.0.0.1 (DNS rebinding) counts as the same origin and may read. So, without keys, a request must name
this machine as its `Host`, must not come from another origin, and a POST must have a type that no form can have: a
browser then asks first, and is refused. With keys none of this is needed: no page has the key. Called by auth.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from eagleray.actors.edge.refusal import Refusal

_OWN_SITES = ("same-origin", "none")  # "same-site" would be another port of this machine


def check_same_site(method: str, headers: Mapping[str, str], types: Mapping[str, object]) -> None:
    """Refuse with 403 what another site may have sent, with 415 a POST whose type is none of `types`."""
    host = headers.get("Host", "")
    if not _is_loopback(_name(f"//{host}")):
        raise Refusal(403, "foreign_host", f"Host {host[:80]!r} is not this machine; expected 127.0.0.1 or localhost")
    origin = headers.get("Origin")
    if origin is not None and not _same(origin, host):
        raise Refusal(403, "foreign_origin", f"Origin {origin[:80]!r} is not the platform's own")
    site = headers.get("Sec-Fetch-Site")
    if site is not None and site.lower() not in _OWN_SITES:
        raise Refusal(
            403, "foreign_origin", f"Sec-Fetch-Site {site[:20]!r}: requests from pages of other sites are refused"
        )
    if method == "POST":
        value = headers.get("Content-Type", "")
        if value.partition(";")[0].strip().lower() not in types:
            detail = f"Content-Type {value[:80]!r}; expected application/json or application/x-ndjson"
            raise Refusal(415, "unsupported_media_type", detail)


def _same(origin: str, host: str) -> bool:
    """Whether a page of `origin` was served by the platform that `host` names."""
    return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    if name == "localhost":  # never by a resolver: names that lead here are what rebinding is made of
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
