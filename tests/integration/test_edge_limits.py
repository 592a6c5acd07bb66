"""Hostile and clumsy senders against a running edge: FAULTS.md 39, 44 and 45, and every limit of the configuration."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.edge_server import ServedEdge, edge_config, read_all, serve

LIMITS = {"header_timeout_s": 0.4, "body_timeout_s": 0.4, "body_bytes_max": 100_000, "inflated_bytes_max": 1_000_000}
HEAD = b"POST /v1/streams/ui/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[ServedEdge]:
    with serve(edge_config(tmp_path, **LIMITS)) as served:
        yield served
        assert served.edge.stats()[f"edge_in_flight_bytes{{process={served.edge.process}}}"] == 0


def test_body_over_the_limit_is_413_by_its_length_and_while_reading(edge: ServedEdge) -> None:
    assert edge.post(b" " * 100_001).json["error"] == "too_large"
    chunk = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    answer = edge.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 11)
    assert answer.startswith(b"HTTP/1.1 413") and b"too_large" in answer
    assert edge.post(b"{}".rjust(100_000)).status == 200


def test_huge_declared_length_is_refused_before_it_is_sent(edge: ServedEdge) -> None:
    answer = edge.raw(HEAD + b"Content-Length: 99999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413") and b"Connection: close" in answer


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_inflated_limit_is_exact(edge: ServedEdge, coding: str) -> None:
    squeeze = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.ZstdCompressor().compress}[coding]
    assert edge.post(squeeze(b"{}".rjust(1_000_000)), Content_Encoding=coding).status == 200
    refused = edge.post(squeeze(b"{}".rjust(1_000_001)), Content_Encoding=coding)
    assert (refused.status, refused.json["error"]) == (413, "too_large")


def test_many_empty_members_are_refused(edge: ServedEdge) -> None:
    assert edge.post(gzip.compress(b"", 1) * 4000, Content_Encoding="gzip").json["error"] == "malformed_body"


def test_events_over_the_limit_are_413(tmp_path: Path) -> None:
    with serve(edge_config(tmp_path, events_max=3)) as edge:
        within, over = b'[{"a":[1,2,3,4]},{"b":"[,,,\\","},3]', b"[1,2,3,4]"
        assert edge.post(within).status == 200
        refused = edge.post(over)
        assert (refused.status, refused.json["error"]) == (413, "too_many_events")
        assert edge.post(b'{"a":1,"b":2,"c":3,"d":4,"e":5}').status == 200
        lines = b"\n\n{}\n{}\r\n\r\n{}\n \n\n"
        assert edge.post(lines, "application/x-ndjson").status == 200
        assert edge.post(lines + b"{}", "application/x-ndjson").json["error"] == "too_many_events"


def test_bytes_in_flight_are_bounded_and_given_back(tmp_path: Path) -> None:
    with serve(edge_config(tmp_path, in_flight_bytes_max=1000)) as edge:
        edge.platform.delay_s = 0.5
        alone: list[int] = []
        larger_than_all = threading.Thread(target=lambda: alone.append(edge.post(b"{}".rjust(2000)).status))
        larger_than_all.start()
        while not edge.platform.batches:
            time.sleep(0.01)
        refused = edge.post(b"{}")
        assert (refused.status, refused.json["error"]) == (429, "overloaded")
        assert refused.headers["Retry-After"] == "1" and "edge.in_flight_bytes_max" in refused.json["detail"]
        larger_than_all.join()
        assert alone == [200]
        assert edge.post(b"{}").status == 200


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, HEAD + b"X-Slow: 1\r\n"])
def test_slow_headers_are_closed_by_the_deadline(edge: ServedEdge, sent: bytes) -> None:
    answer = edge.raw(sent)
    assert answer.startswith(b"HTTP/1.1 408") and b"header_timeout" in answer


def test_dribbled_headers_are_closed_by_the_deadline(edge: ServedEdge) -> None:
    answer = edge.raw(*[bytes([byte]) for byte in HEAD], pause_s=0.05)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408")


def test_slow_second_request_on_a_connection_is_closed_too(edge: ServedEdge) -> None:
    answer = edge.raw(HEAD + b"Content-Length: 2\r\n\r\n{}", HEAD, pause_s=0.1)
    assert answer.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in answer


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n"])
def test_slow_bodies_are_closed_by_the_deadline(edge: ServedEdge, framing: bytes) -> None:
    answer = edge.raw(HEAD + framing, b"{", b"}", pause_s=0.1)
    assert answer.startswith(b"HTTP/1.1 408") and b"body_timeout" in answer
    assert edge.platform.submissions == []


def test_others_are_served_while_slow_senders_hold_connections(edge: ServedEdge) -> None:
    slow = [socket.create_connection(("127.0.0.1", edge.port), timeout=10) for _ in range(200)]
    try:
        for sock in slow:
            sock.sendall(HEAD)
        assert all(edge.post(b"{}").status == 200 for _ in range(20))
        assert all(read_all(sock).startswith(b"HTTP/1.1 408") for sock in slow)
    finally:
        for sock in slow:
            sock.close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"X-Big: " + b"x" * 10_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"431"),
        (HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: -1\r\n\r\n{}", b"400"),
        (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (HEAD + b"No colon\r\n\r\n", b"400"),
    ],
)
def test_what_is_not_http_is_4xx_and_closed(edge: ServedEdge, request_: bytes, status: bytes) -> None:
    answer = edge.raw(request_)
    assert answer[:12] in (b"HTTP/1.0 " + status, b"HTTP/1.1 " + status), answer
    assert b'{"error":' in answer
    assert edge.platform.submissions == []


def test_chunk_that_breaks_after_the_headers_were_read_is_400(edge: ServedEdge) -> None:
    answer = edge.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"zz\r\n}\r\n0\r\n\r\n", pause_s=0.1)
    assert answer.startswith(b"HTTP/1.1 400") and b'{"error":"malformed_body"' in answer
    assert edge.platform.submissions == []


def test_sender_that_leaves_in_the_middle_stores_nothing(edge: ServedEdge) -> None:
    with socket.create_connection(("127.0.0.1", edge.port)) as sock:
        sock.sendall(HEAD + b"Content-Length: 100\r\n\r\n[{},")
    assert edge.post(b"{}").status == 200
    assert len(edge.platform.submissions) == 1


def bomb(coding: str) -> bytes:
    zeros = b"\0" * (1 << 20)
    if coding == "zstd":
        squeeze: Any = zstandard.ZstdCompressor().compressobj()
    else:
        squeeze = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    return b"".join(squeeze.compress(zeros) for _ in range(512)) + bytes(squeeze.flush())


SERVER = """
import asyncio, sys
from pathlib import Path
import uvloop
from eagleray.actors.edge.server import Edge
from tests.edge_server import MemoryPlatform, edge_config

async def main():
    edge = Edge(edge_config(Path(sys.argv[1])), MemoryPlatform())
    print(await edge.start(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await edge.drain()

uvloop.run(main())
"""


def peak_rss_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def test_bombs_are_413_and_memory_stays_bounded(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        served = ServedEdge(None, None, int(process.stdout.readline()), None)  # type: ignore[arg-type]
        assert served.post(b"{}").status == 200
        before = peak_rss_bytes(process.pid)
        for coding in ("gzip", "deflate", "zstd"):
            packed = bomb(coding)
            assert len(packed) < 600_000
            for _ in range(3):
                reply = served.post(packed, Content_Encoding=coding)
                assert (reply.status, reply.json["error"]) == (413, "too_large")
        # one body at its limit of 64 MiB, and what the allocator keeps
        assert peak_rss_bytes(process.pid) - before < 100 << 20
        process.communicate("")
    assert process.returncode == 0
