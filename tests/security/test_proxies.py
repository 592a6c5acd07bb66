"""The client behind trusted proxies is seen, and nobody else can pretend to be one."""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from eagleray.actors.edge import auth
from eagleray.actors.edge.audit import LINES_AT_ONCE, Audit
from eagleray.actors.edge.proxies import V2, BadHeader, Proxies, header_length, parse_address, read_header
from eagleray.cluster.api_keys import KeyStore
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.sections import EdgeConfig
from tests.edge_server import ServedEdge, edge_config, read_all, serve

WRONG = {"X-API-Key": "er_wrong"}


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[ServedEdge]:
    trusted = ["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"]
    with serve(edge_config(tmp_path, auth="required", trusted_proxies=trusted)) as served:
        yield served


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[ServedEdge]:
    with serve(edge_config(tmp_path, auth="required")) as served:
        yield served


def seen(caplog: pytest.LogCaptureFixture) -> str:
    """The client of the last line of the audit."""
    return str([record for record in caplog.records if record.message == "audit"][-1].client)  # type: ignore[attr-defined]


def v2(source: str, command: int = 1, more: bytes = b"") -> bytes:
    address = ipaddress.ip_address(source)
    other = ipaddress.ip_address("10.1.1.1" if address.version == 4 else "2001:db8::1")
    body = address.packed + other.packed + struct.pack(">HH", 4711, 443) + more
    family = 0x11 if address.version == 4 else 0x21
    return V2 + bytes([0x20 | command, family]) + struct.pack(">H", len(body)) + body


def behind(edge: ServedEdge, header: bytes, *, pieces: int = 1) -> bytes:
    request = b"GET /v1/streams HTTP/1.1\r\nHost: localhost\r\nX-API-Key: er_wrong\r\nConnection: close\r\n\r\n"
    size = -(-len(header) // pieces) or 1
    parts = [header[at : at + size] for at in range(0, len(header), size)] if pieces > 1 else []
    return edge.raw(*parts, request, pause_s=0.02) if parts else edge.raw(header + request)


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({}, "127.0.0.1"),
        ({"X-Forwarded-For": "203.0.113.7"}, "203.0.113.7"),
        ({"X-Forwarded-For": "6.6.6.6, 203.0.113.7"}, "203.0.113.7"),  # the first was the client's own invention
        ({"X-Forwarded-For": "203.0.113.7, 10.0.0.4, 10.9.9.9"}, "203.0.113.7"),
        ({"X-Forwarded-For": "10.0.0.4"}, "127.0.0.1"),
        ({"X-Forwarded-For": "203.0.113.7, nonsense"}, "127.0.0.1"),
        ({"X-Forwarded-For": ""}, "127.0.0.1"),
        ({"Forwarded": "for=203.0.113.7;proto=https"}, "203.0.113.7"),
        ({"Forwarded": 'for="[2001:db9::7]:4711", for=10.0.0.9'}, "2001:db9::7"),
        ({"Forwarded": "for=6.6.6.6, for=203.0.113.7:80"}, "203.0.113.7"),
        ({"Forwarded": "for=_hidden"}, "127.0.0.1"),
        ({"Forwarded": "for=203.0.113.7", "X-Forwarded-For": "203.0.113.7"}, "203.0.113.7"),
        ({"Forwarded": "for=6.6.6.6", "X-Forwarded-For": "203.0.113.7"}, "127.0.0.1"),  # one of them is forged
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_is(
    edge: ServedEdge, caplog: pytest.LogCaptureFixture, headers: dict[str, str], client: str
) -> None:
    caplog.set_level(logging.INFO)
    assert edge.request("GET", "/v1/streams", headers={**WRONG, **headers}).status == 401
    assert seen(caplog) == client


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n", "203.0.113.7"),
        (b"PROXY TCP6 2001:db9::7 2001:db8::1 4711 443\r\n", "2001:db9::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1"),
        (v2("203.0.113.7"), "203.0.113.7"),
        (v2("2001:db9::7"), "2001:db9::7"),
        (v2("::ffff:203.0.113.7"), "203.0.113.7"),
        (v2("203.0.113.7", more=b"\x03\x00\x04\x01\x02\x03\x04"), "203.0.113.7"),
        (v2("203.0.113.7", command=0), "127.0.0.1"),  # the proxy's own health check
        (b"", "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 5])
def test_a_trusted_proxys_header_names_the_client(
    edge: ServedEdge, caplog: pytest.LogCaptureFixture, header: bytes, client: str, pieces: int
) -> None:
    caplog.set_level(logging.INFO)
    answer = behind(edge, header, pieces=pieces)
    assert answer.startswith(b"HTTP/1.1 401")
    assert seen(caplog) == client


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 203.0.113.7\r\n",
        b"PROXY TCP4 2001:db9::7 10.0.0.1 1 2\r\n",
        b"PROXY TCP4 localhost 10.0.0.1 1 2\r\n",
        b"PROXY " + b"x" * 200,
        V2 + b"\x11\x11\x00\x0c" + bytes(12),
        V2 + b"\x21\x11\x00\x04" + bytes(4),
        V2 + b"\x21\x11\xff\xff",
    ],
)
def test_a_broken_header_of_a_proxy_ends_the_connection(edge: ServedEdge, header: bytes) -> None:
    assert behind(edge, header) == b""
    assert edge.request("GET", "/livez").status == 200


def test_who_is_no_trusted_proxy_is_believed_nothing(bare: ServedEdge, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    forged = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
    assert bare.request("GET", "/v1/streams", headers={**WRONG, **forged}).status == 401
    assert seen(caplog) == "127.0.0.1"
    assert b" 400 " in behind(bare, b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n")[:20]


def test_clients_that_keep_failing_wait_and_nobody_else_does(edge: ServedEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "FAILURES_AT_ONCE", 60.0)
    monkeypatch.setattr(auth, "FAILURES_PER_S", 0.1)
    good = KeyStore(edge.config.keys_file, SystemClock()).create("good", ["read"])

    def status(client: str, key: str) -> int:
        headers = {"X-API-Key": key, "X-Forwarded-For": client}
        return edge.request("GET", "/v1/streams", headers=headers).status

    assert [status("203.0.113.7", "er_wrong") for _ in range(70)] == [401] * 60 + [429] * 10
    assert status("203.0.113.8", "er_wrong") == 401  # another client behind the same proxy
    assert status("203.0.113.7", good) == 200  # what is valid is never held up


def test_the_audit_has_who_did_what(edge: ServedEdge, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    key = KeyStore(edge.config.keys_file, SystemClock()).create("boss", ["admin"])
    headers = {"X-API-Key": key, "X-Forwarded-For": "203.0.113.7", "Content-Type": "application/json"}
    deadline = SystemClock().now_us() + 5_000_000
    while edge.request("POST", "/v1/admin/pools/window", b'{"size": 1}', headers).status != 200:
        assert SystemClock().now_us() < deadline
    edge.request("POST", "/v1/sql", json.dumps({"query": "SELECT secret"}).encode(), headers)

    def found() -> list[tuple[str, str, str]]:
        lines = [line for line in caplog.records if line.message == "audit" and line.status == 200]  # type: ignore[attr-defined]
        return [(line.call, line.client, line.key) for line in lines]  # type: ignore[attr-defined]

    while len(found()) < 2:  # a line comes after its answer
        assert SystemClock().now_us() < deadline
    assert found() == [
        ("POST /v1/admin/pools/{pool}", "203.0.113.7", "boss"),
        ("POST /v1/sql", "203.0.113.7", "boss"),
    ]
    assert "secret" not in caplog.text and key not in caplog.text


def test_a_flood_of_refusals_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    audit = Audit(lambda: now[0])
    for _ in range(10_000):
        audit.note("GET /", 401, "203.0.113.7", None)
    assert len(caplog.records) == LINES_AT_ONCE
    now[0] += 1
    audit.note("GET /", 401, "203.0.113.7", None)
    assert caplog.records[-1].left_out == 9_900  # type: ignore[attr-defined]


def test_stalled_headers_of_a_proxy_end(tmp_path: Path) -> None:
    config = edge_config(tmp_path, trusted_proxies=["127.0.0.0/8"], header_timeout_s=0.4)
    with serve(config) as edge:
        with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as sock:
            sock.sendall(b"PRO")
            assert read_all(sock) == b""
        with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as sock:
            assert read_all(sock) == b""
        assert edge.request("GET", "/livez").status == 200


@pytest.mark.parametrize("size", [0, 1, 5, 6, 11, 12, 15])
def test_a_header_that_came_in_part_is_waited_for(size: int) -> None:
    assert header_length(V2[:size]) is None
    assert header_length(b"PROXY TCP4 1.2.3.4"[:size]) is None


def test_requests_are_told_from_headers() -> None:
    assert all(
        header_length(head) == 0 for head in (b"GET / HTTP/1.1", b"POST", b"PUT /", b"PROPFIND", b"\x16\x03\x01")
    )
    with pytest.raises(BadHeader):
        header_length(b"PROXY " + b"x" * 120)
    assert read_header(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n") == "1.2.3.4"


def test_addresses_are_read_in_every_form() -> None:
    forms = ("1.2.3.4", " 1.2.3.4 ", "1.2.3.4:80", '"1.2.3.4"', "::ffff:1.2.3.4", "[::ffff:1.2.3.4]:80")
    assert {str(parse_address(form)) for form in forms} == {"1.2.3.4"}
    assert str(parse_address("[2001:db8::1]:443")) == str(parse_address("2001:db8::1")) == "2001:db8::1"
    assert all(
        parse_address(text) is None for text in ("", "unknown", "_x", "1.2.3", "host.example:80", "[", "1::2::3")
    )
    assert Proxies(["10.0.0.0/8"]).trusts("::ffff:10.1.2.3") and not Proxies([]).trusts("10.0.0.1")


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="trusted_proxies"):
        EdgeConfig.model_validate({"trusted_proxies": ["proxy.example"]})
