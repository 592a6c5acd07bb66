"""Connections that are meant to break things: slow ones are cut off, broken ones get 4xx, and nobody else waits."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.running_platform import RunningPlatform

pytestmark = [pytest.mark.platform, pytest.mark.faults]
MIB = 1 << 20
SLOW_CLIENTS = 60
POST = b"POST /v1/streams/anything/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(autouse=True)
def _same_edge(platform: RunningPlatform) -> Iterator[None]:
    """Whatever came in, the edge did not die of it."""
    before = platform.pids("edge")
    yield
    assert platform.pids("edge") == before


def _connect(platform: RunningPlatform) -> socket.socket:
    place = urlsplit(platform.url)
    return socket.create_connection((place.hostname or "", place.port or 0), timeout=30)


def _read_all(connection: socket.socket) -> bytes:
    received = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not piece:
            return received
        received += piece


class Dribble(threading.Thread):
    """Sends a byte now and then on one connection until it is cut off; `answer` stays None if it never is."""

    def __init__(self, connection: socket.socket, start: bytes) -> None:
        super().__init__()
        self.connection, self.answer = connection, None
        self.byte = b"a" if start else b""
        connection.settimeout(0.5)
        connection.sendall(start)

    answer: bytes | None

    def run(self) -> None:
        deadline, received = time.monotonic() + 20, b""
        while time.monotonic() < deadline:
            try:
                piece = self.connection.recv(65536)
                received += piece
                if not piece:
                    break
            except TimeoutError:
                if not self._send():
                    break
            except OSError:
                break
        else:
            return
        self.answer = received

    def _send(self) -> bool:
        try:
            self.connection.sendall(self.byte)
        except OSError:
            return False
        return True


def _p99(platform: RunningPlatform, name: str) -> float:
    """Seconds of the second slowest of 100 requests."""
    took = []
    for number in range(100):
        event = {"id": f"{name} {number}", "time": "2026-01-01T00:00:00Z"}
        began = time.perf_counter()
        status, _ = platform.post("anything", json.dumps(event).encode())
        assert status == 200
        took.append(time.perf_counter() - began)
    return sorted(took)[98]


SLOW = {
    "headers": POST + b"X-Slow: ",
    "body": POST + b"Content-Length: 5000\r\n\r\n{",
    "nothing": b"",
}


@pytest.mark.parametrize("part", SLOW)
def test_slow_senders_are_cut_off_and_nobody_waits_for_them(platform: RunningPlatform, part: str) -> None:
    alone = _p99(platform, f"alone {part}")
    slow = [Dribble(_connect(platform), SLOW[part]) for _ in range(SLOW_CLIENTS)]
    for client in slow:
        client.start()
    beside = _p99(platform, f"beside {part}")
    for client in slow:
        client.join()
        client.connection.close()
    assert sum(client.answer is not None for client in slow) == SLOW_CLIENTS, "closed by a deadline, each of them"
    assert all(client.answer == b"" or client.answer.startswith(b"HTTP/1.1 408") for client in slow if client.answer)
    assert beside < max(10 * alone, 0.5), "far below the deadlines that the slow ones wait for"


BROKEN = {
    "a header of 64 KiB": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Big: " + b"a" * 65536 + b"\r\n\r\n",
    "ten thousand headers": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X-Many: a\r\n" * 10_000 + b"\r\n",
    "a request line of 64 KiB": b"GET /" + b"a" * 65536 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a chunk length that is no number": POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than it says": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}{}{}\r\n0\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n{}",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_requests_get_4xx_and_the_connection_ends(platform: RunningPlatform, name: str) -> None:
    with _connect(platform) as connection:
        try:
            connection.sendall(BROKEN[name])
        except OSError:  # cut off before it had said all
            pass
        answer = _read_all(connection)
    assert answer == b"" or re.match(rb"HTTP/1\.[01] 4", answer), answer[:200]


def test_sizes_above_the_limit_are_refused_declared_or_not(platform: RunningPlatform) -> None:
    with _connect(platform) as connection:
        connection.sendall(POST + b"Content-Length: 99999999999\r\n\r\n")
        assert _read_all(connection).startswith(b"HTTP/1.1 413")
    with _connect(platform) as connection:
        try:
            connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(40):
                connection.sendall(b"100000\r\n" + b" " * MIB + b"\r\n")
        except OSError:
            pass
        assert _read_all(connection)[:12] in (b"HTTP/1.1 413", b"")
