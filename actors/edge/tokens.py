"""Tokens of an identity provider (JWT) as API keys: who is meant by a token, and what its claims let them do.

Called by auth for what is no key of ours. Signatures are checked against the issuer's public keys (JWKS), which are
kept, followed when they change and fetched again for a key that is not known. Only the algorithms of `edge.jwt` are
taken, all of them asymmetric: neither `none` nor a public key as the secret of an HMAC opens anything.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import Key, import_key

from eagleray.actors.edge.refusal import Refusal
from eagleray.cluster.api_keys import ApiKey
from eagleray.cluster.clock import Clock
from eagleray.cluster.sections import JwtConfig

logger = logging.getLogger(__name__)

KEYS_S = 300.0  # keys older than this are fetched again, while they go on
KEYS_STALE_S = 3600.0  # keys older than this are believed no longer, where the issuer cannot be reached
UNKNOWN_S = 10.0  # a key that is not known has them fetched again, this often at most
FILE_S = 1.0  # how often a file of keys is looked at
FETCH_TIMEOUT_S = 5.0
JWKS_BYTES_MAX = 1 << 20
TOKENS_MAX = 4096  # remembered, so that a signature is checked once and not with every request
SUBJECT_CHARS_MAX = 255
_KEY_TYPES = ("RSA", "EC", "OKP")
_SCOPE = re.compile(r"admin|read|dead_letters|write:\*|(?:write|read|dead_letters):[A-Za-z_][\w-]*")


class Tokens:
    """Reads tokens of one issuer, on one event loop."""

    def __init__(self, config: JwtConfig, clock: Clock) -> None:
        """Nothing is fetched before the first token."""
        self._config = config
        self._clock = clock
        self._slack_s = config.clock_slack / 1e6
        self._keys: dict[str | None, tuple[Key, str | None]] = {}  # by id: the key, and its algorithm if it has one
        self._fetched_s = self._tried_s = float("-inf")
        self._mark: tuple[int, int, int] | None = None  # of the file
        self._fetching: asyncio.Task[None] | None = None
        self._known: dict[str, tuple[ApiKey, float]] = {}  # token → who, and until when

    async def identify(self, token: str) -> ApiKey:
        """Who holds `token`; refuses with 401 what is not valid now, with 503 where the issuer's keys are not known."""
        now_s = self._clock.now_us() / 1e6
        await self._follow(now_s)
        if found := self._known.get(token):
            if now_s <= found[1]:
                return found[0]
            del self._known[token]
        header = _header(token)
        if header.get("alg") not in self._config.algorithms:
            raise _refused(f"its algorithm is not one of {', '.join(self._config.algorithms)}")
        key = await self._key(header.get("kid"), header["alg"], now_s)
        claims = self._claims(token, key, now_s)
        who = self._who(claims)
        if len(self._known) >= TOKENS_MAX:
            self._known.clear()
        self._known[token] = (who, float(claims["exp"]) + self._slack_s)
        return who

    def _claims(self, token: str, key: Key, now_s: float) -> Mapping[str, Any]:
        audience: dict[str, Any] = {"essential": True, "values": list(self._config.audiences)}
        rules = jwt.JWTClaimsRegistry(
            now=int(now_s),
            leeway=int(self._slack_s),
            iss={"essential": True, "value": self._config.issuer},
            aud=audience,  # type: ignore[arg-type]
            exp={"essential": True},
            sub={"essential": True},
        )
        try:
            claims = jwt.decode(token, key, algorithms=list(self._config.algorithms)).claims
            rules.validate(claims)
        except (JoseError, ValueError, TypeError) as error:
            raise _refused(str(error) or type(error).__name__) from None
        return claims

    def _who(self, claims: Mapping[str, Any]) -> ApiKey:
        subject = claims["sub"]
        if not (isinstance(subject, str) and 0 < len(subject) <= SUBJECT_CHARS_MAX and subject.isprintable()):
            raise _refused(f"its subject is not 1 to {SUBJECT_CHARS_MAX} printable characters")
        stated = claims.get(self._config.scopes_claim, "")
        words = stated.split() if isinstance(stated, str) else stated if isinstance(stated, list) else []
        scopes = frozenset(word for word in words if isinstance(word, str) and _SCOPE.fullmatch(word))
        return ApiKey(f"jwt:{subject}", scopes)  # no API key's name has a colon

    async def _key(self, name: object, algorithm: str, now_s: float) -> Key:
        found = self._find(name)
        if found is None and now_s >= self._tried_s + UNKNOWN_S and self._is_url:
            await self._fetch(now_s)
            found = self._find(name)
        if not self._keys or now_s > self._fetched_s + KEYS_STALE_S:
            detail = "the keys of the identity provider cannot be fetched; the edge's log says why"
            raise Refusal(503, "unavailable", detail, headers={"Retry-After": str(int(UNKNOWN_S))})
        if found is None:
            raise _refused("it is signed with a key that the issuer does not have")
        key, of = found
        if of is not None and of != algorithm:
            raise _refused(f"its key is for {of}")
        return key

    def _find(self, name: object) -> tuple[Key, str | None] | None:
        if name is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(name) if isinstance(name, str) else None

    @property
    def _is_url(self) -> bool:
        return "://" in self._config.jwks

    async def _follow(self, now_s: float) -> None:
        """Keep the keys up to date; the first time, wait for them."""
        if not self._is_url:
            if now_s >= self._tried_s + FILE_S:
                self._tried_s = now_s
                self._read_file(now_s)
        elif self._fetched_s == float("-inf"):
            if now_s >= self._tried_s + UNKNOWN_S or self._fetching is not None:
                await self._fetch(now_s)
        elif now_s >= max(self._fetched_s + KEYS_S, self._tried_s + UNKNOWN_S) and self._fetching is None:
            self._begin(now_s)  # beside the request, which goes by the keys that there are

    def _read_file(self, now_s: float) -> None:
        try:
            stat = Path(self._config.jwks).stat()
            mark = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if mark != self._mark:
                self._take(Path(self._config.jwks).read_bytes())
                self._mark = mark
            self._fetched_s = now_s
        except (OSError, ValueError) as error:
            logger.error("keys of the identity provider cannot be read: %s", error)

    def _begin(self, now_s: float) -> asyncio.Task[None]:
        if self._fetching is None:
            self._tried_s = now_s
            self._fetching = asyncio.get_running_loop().create_task(self._download(now_s))
        return self._fetching

    async def _fetch(self, now_s: float) -> None:
        await asyncio.shield(self._begin(now_s))  # who asked may go; others wait for the same answer

    async def _download(self, now_s: float) -> None:
        try:
            timeout = aiohttp.ClientTimeout(FETCH_TIMEOUT_S)
            async with aiohttp.ClientSession(timeout=timeout) as session:
                async with session.get(self._config.jwks, allow_redirects=False) as response:
                    if response.status != 200:
                        raise ValueError(f"HTTP {response.status}")
                    self._take(await _bounded(response))
            self._fetched_s = now_s
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            logger.error("keys of the identity provider cannot be fetched: %r", error)
        finally:
            self._fetching = None

    def _take(self, text: bytes) -> None:
        """Replace the keys; tokens are looked at anew. Raises ValueError."""
        document = json.loads(text)
        stated = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(stated, list):
            raise ValueError("not a JSON Web Key Set")
        public = [k for k in stated if isinstance(k, dict) and k.get("kty") in _KEY_TYPES and k.get("use") != "enc"]
        try:
            keys = [import_key(one) for one in public]
        except (JoseError, ValueError) as error:
            raise ValueError(f"a key cannot be used: {error}") from None
        self._keys = {one.get("kid"): (key, one.get("alg")) for key, one in zip(keys, public, strict=True)}
        self._known.clear()

    async def close(self) -> None:
        """End a fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    text = b""
    async for piece in response.content.iter_chunked(64 << 10):
        text += piece
        if len(text) > JWKS_BYTES_MAX:
            raise ValueError(f"more than {JWKS_BYTES_MAX} bytes")
    return text


def _header(token: str) -> dict[str, Any]:
    try:
        part = token.partition(".")[0]
        header = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _refused("it has no header")
    return header


def _refused(why: str) -> Refusal:
    challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return Refusal(401, "unauthorized", f"the token is not valid: {why}", headers=challenge)
