"""SCRAM-SHA-256 (RFC 5802, RFC 7677): who holds a password proves it without sending it. The server's side.

`cluster.api_keys` makes a verifier with every key, `sql.postgres` checks clients against it. What is stored is of no
use to log in with, and an API key has 256 random bits, so it cannot be guessed from it either.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass

MECHANISM = "SCRAM-SHA-256"
ITERATIONS = 4096  # RFC 7677's least; more would protect passwords that can be guessed, and cost every login
_SALT_BYTES = 16
_NONCE_BYTES = 18


class BadProof(Exception):
    """The client does not hold the password, or what it sent is no SCRAM."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server keeps of a password."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes

    @property
    def text(self) -> str:
        """In the form that Postgres stores: `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`."""
        salt, stored, server = (b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key))
        return f"{MECHANISM}${self.iterations}:{salt}${stored}:{server}"

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """The verifier of a `text`; raises ValueError."""
        mechanism, first, second = text.split("$")
        iterations, salt = first.split(":")
        stored, server = second.split(":")
        if mechanism != MECHANISM:
            raise ValueError(f"{mechanism} is not {MECHANISM}")
        return cls(b64decode(salt), int(iterations), b64decode(stored), b64decode(server))


def new_verifier(password: str) -> Verifier:
    """A verifier with a fresh salt. `password` is ASCII, as API keys are: nothing is normalised."""
    salt = secrets.token_bytes(_SALT_BYTES)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    client_key = _hmac(salted, b"Client Key")
    return Verifier(salt, ITERATIONS, hashlib.sha256(client_key).digest(), _hmac(salted, b"Server Key"))


def decoy(name: str, secret: bytes) -> Verifier:
    """What an unknown name is checked against: nobody passes, and it looks the same at every try."""
    salt = _hmac(secret, name.encode())[:_SALT_BYTES]
    return Verifier(salt, ITERATIONS, secrets.token_bytes(32), secrets.token_bytes(32))


class Exchange:
    """One login: `challenge` answers the client's first message, `confirm` its last."""

    def __init__(self, verifier: Verifier) -> None:
        """Against `verifier`."""
        self._verifier = verifier
        self._transcript = ""
        self._nonce = ""
        self._header = ""

    def challenge(self, message: bytes) -> bytes:
        """The server's first message; raises BadProof."""
        flag, _, rest = _text(message).partition(",")
        authorised, _, bare = rest.partition(",")
        if flag not in ("n", "y"):
            raise BadProof("channel binding is not offered")
        attributes = _attributes(bare)
        self._header = f"{flag},{authorised},"
        self._nonce = attributes["r"] + secrets.token_urlsafe(_NONCE_BYTES)
        salt = b64encode(self._verifier.salt).decode()
        first = f"r={self._nonce},s={salt},i={self._verifier.iterations}"
        self._transcript = f"{bare},{first}"
        return first.encode()

    def confirm(self, message: bytes) -> bytes:
        """The server's last message, by which the client knows the server; raises BadProof."""
        text = _text(message)
        attributes = _attributes(text)
        if attributes["r"] != self._nonce or _decoded(attributes["c"]) != self._header.encode():
            raise BadProof("the exchange was changed on its way")
        transcript = f"{self._transcript},{text.rpartition(',p=')[0]}".encode()
        signature = _hmac(self._verifier.stored_key, transcript)
        proof = _decoded(attributes["p"])
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=False))
        if len(proof) != len(signature) or not hmac.compare_digest(
            hashlib.sha256(client_key).digest(), self._verifier.stored_key
        ):
            raise BadProof("the proof is wrong")
        return b"v=" + b64encode(_hmac(self._verifier.server_key, transcript))


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise BadProof("a message is not UTF-8") from None


def _attributes(text: str) -> dict[str, str]:
    found = {part[:1]: part[2:] for part in text.split(",") if part[1:2] == "="}
    if "m" in found or "r" not in found:
        raise BadProof("a message is not SCRAM")
    return _Attributes(found)


class _Attributes(dict[str, str]):
    def __missing__(self, name: str) -> str:
        raise BadProof(f"a message lacks {name}=")


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise BadProof("a message is not base64") from None


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
