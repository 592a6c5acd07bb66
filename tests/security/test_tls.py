"""TLS at the edge: certificates are followed when they change, those of clients are keys, clients check the edge."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eagleray.cli.up import check
from eagleray.cluster.api_keys import KeyStore
from eagleray.cluster.certificates import LOOK_S, Certificates
from eagleray.cluster.client.http import Client, Unreachable
from eagleray.cluster.client.target import find_target, platform_file
from eagleray.cluster.client.trust import trust, trust_own
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.owner_key import ensure_owner_key
from tests.certificates import Pair, make, write
from tests.edge_server import ServedEdge, edge_config, serve

PATH = "/v1/streams/ui/events"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make(tmp_path_factory.mktemp("ca"), "authority", ca=True)


@pytest.fixture
def server(tmp_path: Path, authority: Pair) -> Pair:
    return make(tmp_path, "edge", authority)


@pytest.fixture
def edge(tmp_path: Path, server: Pair, authority: Pair) -> Iterator[ServedEdge]:
    with serve(config(tmp_path, server, client_ca=authority.cert)) as served:
        yield served


def config(directory: Path, server: Pair, auth: str = "required", **tls: Any) -> Config:
    files = {"cert": server.cert, "key": server.key, **tls}
    return edge_config(directory, auth=auth, tls=files)


def connection(edge: ServedEdge, authority: Pair, client: Pair | None = None) -> http.client.HTTPSConnection:
    context = trust(authority.cert, client.both if client else None)
    return http.client.HTTPSConnection("127.0.0.1", edge.port, timeout=10, context=context)


def ask(
    open_: http.client.HTTPSConnection,
    method: str = "GET",
    path: str = "/livez",
    body: bytes | None = None,
    **headers: str,
) -> tuple[int, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    open_.request(method, path, body, {"Content-Type": "application/json", **named})
    answer = open_.getresponse()
    return answer.status, json.loads(answer.read())


def test_a_key_over_tls_does_what_it_does_without_and_the_connection_is_kept(edge: ServedEdge, authority: Pair) -> None:
    key = KeyStore(edge.config.keys_file, SystemClock()).create("k", ["write:ui"])
    open_ = connection(edge, authority)
    open_.connect()
    sock = open_.sock
    for _ in range(5):
        assert ask(open_, "POST", PATH, b'{"n": 1}', X_API_Key=key)[0] == 200
        assert open_.sock is sock  # HTTP/1.1 keep-alive
    big = json.dumps([{"text": "x" * 1000}] * 2000).encode()
    assert ask(open_, "POST", PATH, big, X_API_Key=key)[1]["accepted"] == 2000
    assert ask(open_, "POST", PATH, b"{}")[0] == 401
    open_.close()


def test_plain_http_at_a_tls_port_gets_nothing(edge: ServedEdge) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as sock:
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            answer = sock.recv(4096)
        except ConnectionResetError:
            answer = b""
    assert b"HTTP" not in answer


def test_openssl_finds_the_certificate_and_no_version_below_the_least(
    tmp_path: Path, server: Pair, authority: Pair
) -> None:
    def s_client(port: int, *options: str) -> str:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(authority.cert), *options]
        request = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=30)
        return done.stdout + done.stderr

    with serve(config(tmp_path, server, min_version=1.3)) as edge:
        found = s_client(edge.port, "-tls1_3", "-ign_eof", "-alpn", "h2,http/1.1")
        assert "Verify return code: 0 (ok)" in found and "TLSv1.3" in found
        assert "ALPN protocol: http/1.1" in found and "HTTP/1.1 200 OK" in found
        for version in ("-tls1_2", "-tls1_1"):
            assert "HTTP/1.1" not in s_client(edge.port, version)
    with serve(config(tmp_path, server)) as edge:
        assert "TLSv1.2" in s_client(edge.port, "-tls1_2", "-ign_eof")
        assert "HTTP/1.1" not in s_client(edge.port, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")


def test_a_certificate_that_changes_is_used_for_new_connections_and_drops_none(
    tmp_path: Path, edge: ServedEdge, server: Pair, authority: Pair
) -> None:
    old = connection(edge, authority)
    assert ask(old)[0] == 200
    before = old.sock.getpeercert(True)
    other = tmp_path / "other"
    other.mkdir()
    renewed = make(other, "renewed", authority)
    server.cert.write_bytes(renewed.cert.read_bytes())  # half of it: certificate and key are no pair
    time.sleep(LOOK_S + 0.1)
    between = connection(edge, authority)
    assert ask(between)[0] == 200 and between.sock.getpeercert(True) == before
    between.close()
    write(renewed, as_=server)
    time.sleep(LOOK_S + 0.1)
    new = connection(edge, authority)
    assert ask(new)[0] == 200
    assert new.sock.getpeercert(True) != before
    assert ask(old)[0] == 200 and old.sock.getpeercert(True) == before
    old.close()
    new.close()


def test_sessions_of_an_older_certificate_or_authority_are_not_resumed(tmp_path: Path, authority: Pair) -> None:
    ticks = [0.0]
    server = make(tmp_path, "edge", authority)
    certificates = Certificates("eagleray.yaml", config(tmp_path, server).edge.tls, lambda: ticks[0])  # type: ignore[arg-type]
    first = certificates.context()
    ticks[0] += 2
    assert certificates.context() is first
    write(make(tmp_path, "next", authority), as_=server)
    assert certificates.context() is first  # it is not looked at with every connection
    ticks[0] += 2
    assert certificates.context() is not first


def test_a_client_certificate_is_the_key_of_its_name(tmp_path: Path, edge: ServedEdge, authority: Pair) -> None:
    store = KeyStore(edge.config.keys_file, SystemClock())
    store.create("checkout", ["write:ui"])
    reader = store.create("reader", ["read"])
    mine = connection(edge, authority, make(tmp_path, "checkout", authority))
    assert ask(mine, "POST", PATH, b"{}")[0] == 200
    assert edge.platform.submissions[-1].source == "checkout"
    assert ask(mine, "GET", "/v1/streams")[0] == 403  # its scopes, no more
    assert ask(mine, "GET", "/v1/streams", X_API_Key=reader)[0] == 200  # a key that is shown decides
    assert ask(mine, "POST", PATH, b"{}", X_API_Key="er_wrong")[0] == 401
    store.revoke("checkout")
    deadline = time.monotonic() + 5
    while ask(mine, "POST", PATH, b"{}")[0] != 401:
        assert time.monotonic() < deadline
    mine.close()
    unknown = connection(edge, authority, make(tmp_path, "unknown", authority))
    status, answer = ask(unknown, "POST", PATH, b"{}")
    assert status == 401 and "unknown" in answer["detail"]
    unknown.close()
    bare = connection(edge, authority)
    assert ask(bare, "GET", "/v1/streams", X_API_Key=reader)[0] == 200
    assert ask(bare, "POST", PATH, b"{}")[0] == 401
    bare.close()


@pytest.mark.parametrize("how", ["stranger", "expired", "itself"])
def test_a_client_certificate_that_the_authority_does_not_vouch_for_ends_the_handshake(
    tmp_path: Path, edge: ServedEdge, authority: Pair, how: str
) -> None:
    KeyStore(edge.config.keys_file, SystemClock()).create("checkout", ["write:ui"])
    signer = {"stranger": make(tmp_path, "stranger", ca=True), "expired": authority, "itself": None}[how]
    forged = make(tmp_path, "checkout", signer, expired=how == "expired")
    open_ = connection(edge, authority, forged)
    with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
        ask(open_, "POST", PATH, b"{}")
    open_.close()
    assert edge.platform.submissions == []


def test_where_certificates_are_required_nobody_gets_in_without(tmp_path: Path, server: Pair, authority: Pair) -> None:
    with serve(config(tmp_path, server, client_ca=authority.cert, client_auth="required")) as edge:
        bare = connection(edge, authority)
        with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
            ask(bare)
        bare.close()
        known = connection(edge, authority, make(tmp_path, "anyone", authority))
        assert ask(known)[0] == 200
        known.close()


def test_handshakes_that_stall_hold_up_nobody_and_end(tmp_path: Path, server: Pair, authority: Pair) -> None:
    settings = config(tmp_path, server)
    quick = settings.model_copy(update={"edge": settings.edge.model_copy(update={"header_timeout_s": 0.5})})
    with serve(quick) as edge:
        stalled = [socket.create_connection(("127.0.0.1", edge.port), timeout=10) for _ in range(50)]
        open_ = connection(edge, authority)
        assert ask(open_)[0] == 200
        open_.close()
        for sock in stalled:
            assert sock.recv(100) == b""
            sock.close()


def test_wrong_files_are_named_before_anything_starts(tmp_path: Path, server: Pair, authority: Pair) -> None:
    other = make(tmp_path, "other", authority)
    text = "streams: {ui: {schema: ui.json, time: time}}\nedge: {tls: {cert: %s, key: %s%s}}\n"
    file = tmp_path / "eagleray.yaml"
    for cert, key, more, place in (
        ("missing.pem", "edge.key", "", r"edge\.tls\.cert: no such file"),
        ("edge.pem", "other.key", "", r"edge\.tls\.cert: cannot be used"),
        ("edge.key", "edge.key", "", r"edge\.tls\.cert: cannot be used"),
        ("edge.pem", "edge.key", ", client_ca: edge.key", r"edge\.tls\.client_ca: cannot be used"),
        ("edge.pem", "edge.key", ", min_version: 1.1", r"edge\.tls\.min_version"),
    ):
        file.write_text(text % (cert, key, more))
        with pytest.raises(ConfigError, match=place):
            check(load_config(file, environ={}))
    assert other.cert.exists()


def test_commands_know_the_projects_own_platform_and_check_all_others(
    tmp_path: Path, server: Pair, authority: Pair
) -> None:
    file = tmp_path / "eagleray.yaml"
    file.write_text("data_dir: .\nedge: {port: 0, tls: {cert: edge.pem, key: edge.key}}\n")
    settings = config(tmp_path, server)
    ensure_owner_key(settings, SystemClock())
    stranger = make(tmp_path, "stranger", ca=True)
    with serve(settings) as edge:
        url = f"https://127.0.0.1:{edge.port}"
        platform_file(tmp_path).write_text(json.dumps({"url": url, "pid": 1}))
        with find_target(None, None, file).client() as own:
            assert own.url == url and [one["name"] for one in own.get("/v1/streams")["streams"]] == ["service", "ui"]
        key = own.key
        assert key is not None
        with find_target(url, key, file, ca=authority.cert).client() as named:
            named.get("/v1/streams")
        for context in (None, trust(stranger.cert, None), trust_own(stranger.cert, None)):
            with Client(url, key, 10, context) as client, pytest.raises(Unreachable, match="not trusted"):
                client.get("/v1/streams")
        elsewhere = Client(f"https://localhost.localdomain:{edge.port}", key, 10, trust(authority.cert, None))
        with elsewhere, pytest.raises(Unreachable):
            elsewhere.get("/v1/streams")
        command = [sys.executable, "-m", "eagleray", "send", "-", "--stream", "ui", "--url", url, "--key", key]
        sent = subprocess.run(
            [*command, "--ca", str(authority.cert)], input='{"n": 1}', capture_output=True, text=True, cwd=tmp_path
        )
        assert (sent.returncode, sent.stdout.split(",")[0]) == (0, "accepted 1"), sent.stderr
        assert edge.platform.taken == [b'{"n": 1}']
    with pytest.raises(ConfigError, match="--ca"):
        find_target(url, None, file, ca=tmp_path / "nothing.pem")
