"""Speaks HTTP to a running platform: one connection, one request at a time. Used by every sub-command that needs one.

`Client.deliver` is the law for sending events: it retries what may succeed later, never what cannot, and raises unless
the platform has answered.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from eagleray.cluster.backoff import backoff_s
from eagleray.cluster.errors import ConfigError, EaglerayError

RETRIED = frozenset({429, 502, 503, 504})
"""Answers after which the same request may succeed."""

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.1, 10.0
RETRY_AFTER_MAX_S = 60.0


class Unreachable(EaglerayError):
    """Nothing answered, or the answer was lost: whether the request took effect is not known."""


class Refused(EaglerayError):
    """The platform answered with an error; `code` and `detail` are its own words."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        """`status` is the HTTP status."""
        super().__init__(f"HTTP {status} {code}: {detail}" if code else f"HTTP {status}: {detail}")
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as received."""

    status: int
    body: bytes
    retry_after_s: float | None = None

    def json(self) -> Any:
        """The body's value; raises Refused unless the status is 2xx and the body is JSON."""
        try:
            value = json.loads(self.body)
        except ValueError:
            raise Refused(self.status, "", self.body[:200].decode(errors="replace").strip() or "no body") from None
        if not 200 <= self.status < 300:
            fault = value if isinstance(value, dict) else {}
            raise Refused(self.status, str(fault.get("error", "")), str(fault.get("detail", value)))
        return value


@dataclass(frozen=True)
class Retries:
    """How often and how long to try again: `Retry-After` where there is one, doubled pauses with jitter otherwise."""

    most: int = 10

    def pause_s(self, attempt: int, reply: Reply | None) -> float:
        """Seconds to wait after failed `attempt` (from 0)."""
        if reply is not None and reply.retry_after_s is not None:
            return min(reply.retry_after_s, RETRY_AFTER_MAX_S)
        return backoff_s(BACKOFF_FIRST_S, attempt + 1, most_s=BACKOFF_MAX_S)


@dataclass
class Client:
    """One connection to the platform at `url`, kept alive between requests; not safe for several threads."""

    url: str
    key: str | None = None
    timeout_s: float = 30.0
    context: ssl.SSLContext | None = None  # of https; None: the system's authorities
    retried: int = 0  # attempts after the first, since the client was made
    _connection: http.client.HTTPConnection | None = field(default=None, repr=False)

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one request and read the whole answer; raises Unreachable."""
        sent = {"User-Agent": "eagleray", **(headers or {})}
        if self.key:
            sent["Authorization"] = f"Bearer {self.key}"
        try:
            connection = self._connection = self._connection or self._connect()
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            reply = Reply(response.status, response.read(), _seconds(response.headers.get("Retry-After")))
        except ConnectionRefusedError as error:
            self.close()
            raise Unreachable(f"{self.url}: nothing listens there; `eagleray up` starts a platform") from error
        except ssl.SSLCertVerificationError as error:
            self.close()
            hint = "name its authority with --ca" if "local issuer" in str(error) or "self" in str(error) else ""
            said = f"{error.verify_message}; {hint}" if hint else error.verify_message
            raise Unreachable(f"{self.url}: its certificate is not trusted: {said}") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(f"{self.url}: {error or type(error).__name__}") from error
        if response.will_close:
            self.close()
        return reply

    def get(self, path: str) -> Any:
        """The JSON at `path`; raises Unreachable, Refused."""
        return self.request("GET", path).json()

    def post(self, path: str, value: Any) -> Any:
        """Post `value` as JSON and return the JSON answer; raises Unreachable, Refused."""
        return self.request("POST", path, json.dumps(value).encode(), {"Content-Type": "application/json"}).json()

    def deliver(self, path: str, body: bytes, headers: Mapping[str, str], retries: Retries) -> Any:
        """Post `body` until it is answered for good and return the JSON; raises Unreachable, Refused.

        The headers should carry an `Idempotency-Key`: an attempt whose answer was lost may have been stored.
        """
        for attempt in range(retries.most + 1):
            last = attempt == retries.most
            reply = None
            try:
                reply = self.request("POST", path, body, headers)
                if reply.status not in RETRIED or last:
                    return reply.json()
            except Unreachable:
                if last:
                    raise
            time.sleep(retries.pause_s(attempt, reply))
            self.retried += 1
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("--url", f"expected http://HOST:PORT, found {self.url!r}")
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=self.timeout_s)
        context = self.context or ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=self.timeout_s, context=context)


def _seconds(text: str | None) -> float | None:
    """Seconds of a Retry-After header; the HTTP-date form, which the platform never sends, counts as absent."""
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None
