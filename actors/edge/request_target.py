"""The request line's target: `/path` as nearly always, or `http://host/path` as clients of proxies send it (RFC 9112).

Called by `app` before a route is looked for.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from eagleray.actors.edge.refusal import Refusal


def origin_form(request: web.BaseRequest) -> web.BaseRequest:
    """The request as if it had named the path alone; the host that it names counts, and the Host header does not."""
    raw = request.raw_path
    if not raw[:8].lower().startswith(("http://", "https://")):
        return request
    try:
        parts = urlsplit(raw)
        parts.port  # noqa: B018  # raises where it is none
    except ValueError:
        parts = urlsplit("")
    if not parts.hostname:
        raise Refusal(400, "bad_target", f"the request line names {raw[:80]!r}; expected a path, or http://HOST/PATH")
    headers = CIMultiDict(request.headers)
    headers["Host"] = parts.netloc.rpartition("@")[2]
    path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    try:
        return request.clone(rel_url=URL(path, encoded=True), headers=headers)
    except ValueError:  # a header that is not UTF-8
        raise Refusal(400, "bad_target", "the headers are not text; send them so, or name the path alone") from None
