"""Tokens of an identity provider: what it signed for us, now, opens what its claims say; nothing else opens a thing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from eagleray.actors.edge.refusal import Refusal
from eagleray.actors.edge.tokens import KEYS_S, KEYS_STALE_S, TOKENS_MAX, UNKNOWN_S, Tokens
from eagleray.cluster.api_keys import KeyStore
from eagleray.cluster.clock import ManualClock, SystemClock
from eagleray.cluster.sections import EdgeConfig, JwtConfig
from tests.edge_server import ServedEdge, edge_config, serve

ISSUER, AUDIENCE = "https://id.example.com/", "eagleray"
RSA = RSAKey.generate_key(2048, {"kid": "rsa-1"})
EC = ECKey.generate_key("P-256", {"kid": "ec-1"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa-1"})  # under the same name
NOW = SystemClock().now_us() // 1_000_000


def key_set(*keys: Any) -> dict[str, Any]:
    return {"keys": [key.as_dict(private=False) for key in keys]}


def claims(**changes: Any) -> dict[str, Any]:
    stated = {"iss": ISSUER, "aud": AUDIENCE, "sub": "shop", "exp": NOW + 86_400, "iat": NOW - 10}
    stated |= {"scope": "write:ui read:ui"}
    return {name: value for name, value in {**stated, **changes}.items() if value is not None}


def token(key: Any = RSA, alg: str = "RS256", header: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode({"alg": alg, "kid": key.kid, **(header or {})}, claims(**changes), key, algorithms=[alg])


def raw(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def hmac_with_the_public_key() -> str:
    unsigned = raw({"alg": "HS256", "kid": "rsa-1"}, claims()).rsplit(".", 1)[0]
    signature = hmac.new(RSA.as_pem(private=False), unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedEdge]:
    directory = tmp_path_factory.mktemp("tokens")
    (directory / "jwks.json").write_text(json.dumps(key_set(RSA, EC)))
    settings = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(directory / "jwks.json")}
    with serve(edge_config(directory, auth="required", jwt=settings)) as served:
        yield served


def post(edge: ServedEdge, bearer: str, stream: str = "ui") -> tuple[int, Any]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {bearer}"}
    reply = edge.request("POST", f"/v1/streams/{stream}/events", b"{}", headers)
    return reply.status, reply.json


@pytest.mark.parametrize("made", [token(), token(EC, "ES256"), token(aud=["other", AUDIENCE])])
def test_a_token_opens_what_its_claims_say_beside_keys(edge: ServedEdge, made: str) -> None:
    assert post(edge, made)[0] == 200
    assert edge.platform.submissions[-1].source == "jwt:shop"
    assert post(edge, made, "service")[0] == 403
    assert edge.request("GET", "/v1/streams", headers={"X-API-Key": made}).status == 200
    headers = {"Authorization": f"Bearer {made}"}
    assert edge.request("POST", "/v1/admin/pools/window", b'{"size": 1}', headers).status == 403
    key = KeyStore(edge.config.keys_file, SystemClock()).create(f"k{time.monotonic_ns()}", ["write:service"])
    deadline = time.monotonic() + 5
    while post(edge, key, "service")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


REFUSED = {
    "expired": token(exp=NOW - 31),
    "without an end": token(exp=None),
    "not yet valid": token(nbf=NOW + 43_200),
    "issued in the future": token(iat=NOW + 43_200),
    "another issuer": token(iss="https://evil.example.com/"),
    "no issuer": token(iss=None),
    "an issuer like ours": token(iss=ISSUER.rstrip("/")),
    "another audience": token(aud="billing"),
    "no audience": token(aud=None),
    "no subject": token(sub=None),
    "an odd subject": token(sub="a\nb"),
    "a subject that is a number": token(sub=7),
    "signed by a stranger under our key's name": token(STRANGER),
    "a key nobody has": token(RSAKey.generate_key(2048, {"kid": "other"})),
    "an algorithm that is not allowed": token(RSA, "RS512"),
    "a key of another kind": raw({"alg": "ES256", "kid": "rsa-1"}, claims(), b"x" * 64),
    "none": raw({"alg": "none"}, claims()),
    "None": raw({"alg": "None", "kid": "rsa-1"}, claims()),
    "none with a key's name": raw({"alg": "none", "kid": "rsa-1"}, claims()),
    "no algorithm": raw({"kid": "rsa-1"}, claims()),
    "the public key as a secret": hmac_with_the_public_key(),
    "a key that it brings along": token(STRANGER, header={"jwk": STRANGER.as_dict(private=False)}),
    "a header that is no object": ".".join((base64.urlsafe_b64encode(b"[1]").decode(), "e30", "")),
    "no base64": "a.b.c",
    "empty parts": "..",
    "a critical header that nobody knows": raw({"alg": "RS256", "kid": "rsa-1", "crit": ["x"], "x": 1}, claims()),
    "cut short": token()[:-20],
    "changed": token().replace(token().split(".")[1], raw({}, claims(scope="admin")).split(".")[1]),
}  # fmt: skip


@pytest.mark.parametrize("made", REFUSED.values(), ids=REFUSED)
def test_a_token_that_is_not_valid_opens_nothing(edge: ServedEdge, made: str) -> None:
    before = len(edge.platform.submissions)
    status, answer = post(edge, made)
    assert (status, answer["error"]) == (401, "unauthorized"), answer
    assert len(edge.platform.submissions) == before


@pytest.mark.parametrize(
    ("claim", "status"),
    [
        ("write:*", 200),
        (["write:ui", "other"], 200),
        ("openid profile write:ui", 200),
        ("", 403),
        (None, 403),
        (["write", 7, None, {}], 403),
        ("write:ui:more", 403),
        ({"write:ui": True}, 403),
    ],
)
def test_scopes_are_those_that_there_are(edge: ServedEdge, claim: Any, status: int) -> None:
    assert post(edge, token(scope=claim))[0] == status


def test_clocks_may_differ_by_the_stated_slack(edge: ServedEdge) -> None:
    assert post(edge, token(exp=NOW + 2 - 25))[0] == 200 or time.time() - NOW > 25  # noqa: TID251
    assert post(edge, token(iat=NOW + 15, nbf=NOW + 15))[0] == 200


class Issuer:
    """A server of keys, counted."""

    def __init__(self) -> None:
        self.keys = key_set(RSA)
        self.status = 200
        self.asked = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                body = json.dumps(issuer.keys).encode()
                self.send_response(issuer.status)
                if issuer.status == 302:
                    self.send_header("Location", f"http://127.0.0.1:{issuer.port}/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.close()


def config(jwks: str, **more: Any) -> JwtConfig:
    return JwtConfig.model_validate({"issuer": ISSUER, "audience": AUDIENCE, "jwks": jwks, **more})


def test_keys_are_fetched_once_kept_and_followed_when_they_change(issuer: Issuer) -> None:
    clock = ManualClock(NOW * 1_000_000)

    async def run() -> None:
        tokens = Tokens(config(f"http://127.0.0.1:{issuer.port}/keys"), clock)
        for _ in range(20):
            assert (await tokens.identify(token())).name == "jwt:shop"
        await asyncio.gather(*(tokens.identify(token(sub=f"s{n}")) for n in range(20)))
        assert issuer.asked == 1
        with pytest.raises(Refusal) as unknown:  # asked for again, but not with every token
            await tokens.identify(token(EC, "ES256"))
        assert unknown.value.status == 401 and issuer.asked == 1
        issuer.keys = key_set(EC)
        clock.advance(int(UNKNOWN_S * 1e6))
        assert (await tokens.identify(token(EC, "ES256"))).name == "jwt:shop"
        assert issuer.asked == 2
        with pytest.raises(Refusal):  # the old key went, and with it what it had signed
            await tokens.identify(token())
        clock.advance(int(KEYS_S * 1e6))
        later = token(EC, "ES256", exp=NOW + 10_000)
        await tokens.identify(later)  # does not wait for the keys that are fetched beside it
        await tokens.close()

    asyncio.run(run())


def test_an_issuer_that_cannot_be_reached_is_lived_with_for_an_hour(issuer: Issuer) -> None:
    clock = ManualClock(NOW * 1_000_000)

    async def run() -> None:
        tokens = Tokens(config(f"http://127.0.0.1:{issuer.port}/keys"), clock)
        issuer.status = 500
        with pytest.raises(Refusal) as away:
            await tokens.identify(token())
        assert away.value.status == 503
        issuer.status = 302  # followed nowhere
        clock.advance(int(UNKNOWN_S * 1e6))
        with pytest.raises(Refusal) as away:
            await tokens.identify(token())
        assert away.value.status == 503
        issuer.status = 200
        clock.advance(int(UNKNOWN_S * 1e6))
        await tokens.identify(token())
        issuer.status = 500
        clock.advance(int(KEYS_STALE_S * 0.9 * 1e6))
        await tokens.identify(token(exp=NOW + 100_000))
        clock.advance(int(KEYS_STALE_S * 0.2 * 1e6))
        with pytest.raises(Refusal) as away:
            await tokens.identify(token(exp=NOW + 100_000, sub="new"))
        assert away.value.status == 503
        await tokens.close()

    asyncio.run(run())


def test_a_token_that_was_valid_ends_with_its_time_and_with_its_key(tmp_path: Path) -> None:
    file, clock = tmp_path / "jwks.json", ManualClock(NOW * 1_000_000)
    file.write_text(json.dumps(key_set(RSA)))

    async def run() -> None:
        tokens = Tokens(config(str(file)), clock)
        made = token(exp=NOW + 100)
        await tokens.identify(made)
        clock.advance(129_000_000)
        await tokens.identify(made)  # within the slack
        clock.advance(2_000_000)
        with pytest.raises(Refusal):
            await tokens.identify(made)
        kept = token(exp=NOW + 10_000)
        await tokens.identify(kept)
        file.write_text("no JSON")  # half written: what was read last goes on
        clock.advance(2_000_000)
        await tokens.identify(kept)
        file.write_text(json.dumps(key_set(EC)))
        clock.advance(2_000_000)
        with pytest.raises(Refusal):
            await tokens.identify(kept)
        for n in range(3):
            await tokens.identify(token(EC, "ES256", sub=f"s{n}", exp=NOW + 10_000))
        assert len(tokens._known) == 3 < TOKENS_MAX

    asyncio.run(run())


def test_only_public_keys_for_signatures_are_taken(tmp_path: Path) -> None:
    secret = OctKey.import_key("s" * 32, {"kid": "secret"})
    for_encryption = RSAKey.generate_key(2048, {"kid": "enc"})
    of_another = RSAKey.generate_key(2048, {"kid": "rs512"})
    file = tmp_path / "jwks.json"
    stated = {"enc": {"use": "enc"}, "rs512": {"alg": "RS512"}}
    public = [{**key, **stated.get(key["kid"], {})} for key in key_set(for_encryption, of_another, RSA)["keys"]]
    keys = KeySet([secret]).as_dict(private=True)["keys"] + public
    file.write_text(json.dumps({"keys": keys}))

    async def run() -> None:
        tokens = Tokens(config(str(file), algorithms=["RS256", "Ed25519"]), ManualClock(NOW * 1_000_000))
        assert (await tokens.identify(token())).scopes == {"write:ui", "read:ui"}
        for bad in (token(for_encryption), token(of_another), token(secret, "HS256")):
            with pytest.raises(Refusal):
                await tokens.identify(bad)

    asyncio.run(run())


def test_edwards_keys_work_where_they_are_allowed(tmp_path: Path) -> None:
    edwards = OKPKey.generate_key("Ed25519", {"kid": "ed"})
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(key_set(edwards)))
    made = token(edwards, "Ed25519")
    asyncio.run(Tokens(config(str(file), algorithms=["Ed25519"]), SystemClock()).identify(made))
    with pytest.raises(Refusal):
        asyncio.run(Tokens(config(str(file)), SystemClock()).identify(made))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"jwks": "http://id.example.com/keys"}, "https"),
        ({"jwks": "http://127.0.0.1@evil.example/keys"}, "https"),
        ({"jwks": "ftp://id.example.com/keys"}, "https"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"audience": []}, "audience"),
        ({"issuer": ""}, "issuer"),
    ],
)
def test_settings_that_would_open_a_door_are_refused(changes: dict[str, Any], what: str) -> None:
    stated = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": "https://id.example.com/keys", **changes}
    with pytest.raises(ValueError, match=what):
        EdgeConfig.model_validate({"jwt": stated})


def test_tokens_beside_no_authentication_make_no_sense() -> None:
    stated = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": "https://id.example.com/keys"}
    with pytest.raises(ValueError, match="auth: off"):
        EdgeConfig.model_validate({"auth": "off", "jwt": stated})
