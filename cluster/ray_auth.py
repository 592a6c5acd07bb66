"""Keeps strangers out of Ray: whoever reaches an open Ray runs code as its user (CVE-2023-48022).

Ray's processes listen on every address of the machine, whatever they are told. So each session of ours gets a fresh
token in a file that its owner alone can read; only the file's path is in the environment of Ray's processes, and the
token itself is in no argument, log or variable. A cluster of somebody else's is joined with their token, and one that
asks for none is refused. Called by `ray_session`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
TOKEN_FILE = "token"
PROBE_S = 5.0
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # asks for nothing and changes nothing


def make_token(directory: Path) -> Mapping[str, str]:
    """Write a fresh token into `directory`; the variables that Ray's processes need to use it."""
    file = directory / TOKEN_FILE
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(secrets.token_hex(32))
    return {MODE: "token", TOKEN_PATH: str(file)}


def use_token(variables: Mapping[str, str]) -> None:
    """Make this process, and those it starts, use the token that `variables` name, in place of any other."""
    os.environ.pop(TOKEN, None)  # it would win over the file
    os.environ.update(variables)
    _read_again()


def drop_token(variables: Mapping[str, str]) -> None:
    """Stop using the token that `variables` name, whose file is about to go."""
    if os.environ.get(TOKEN_PATH) == variables[TOKEN_PATH]:
        del os.environ[MODE], os.environ[TOKEN_PATH]
        _read_again()


def use_own_token() -> None:
    """Use the token that this user has for Ray (by environment or in ~/.ray), where there is one.

    Ray itself turns tokens on for the head of a cluster and not for those that join it.
    """
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    if MODE not in os.environ and AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        os.environ[MODE] = "token"
    _read_again()


def admits_strangers(gcs_address: str) -> bool:
    """Whether the cluster whose GCS is at `gcs_address` (host:port) answers somebody without a token."""
    import grpc

    with grpc.insecure_channel(gcs_address) as channel:
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=PROBE_S)
        except grpc.RpcError as error:
            # A GCS behind TLS refuses the plain channel (UNAVAILABLE): strangers are kept out as well.
            return error.code() not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
    return True


def serves_strangers(url: str) -> bool:
    """Whether one of Ray's HTTP servers answers `url` to somebody without a token; False where nothing answers."""
    try:
        with urlopen(url, timeout=PROBE_S):
            return True
    except HTTPError as error:
        with error:
            return error.code not in (401, 403)
    except (URLError, TimeoutError, ConnectionError):
        return False


@contextmanager
def own_variables() -> Iterator[None]:
    """Put this process's variables for Ray's tokens back as they were after the block."""
    before = {name: os.environ.get(name) for name in (MODE, TOKEN, TOKEN_PATH)}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Ray reads its settings once, when it is imported."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
