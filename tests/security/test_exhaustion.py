"""What exhausts an edge: answers that nobody reads, uploads that stall, events that are all wrong. Each is bounded."""

from __future__ import annotations

import http.client
import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eagleray.actors.edge.backend_protocol import Body
from eagleray.actors.edge.in_flight import STALL_S, UPLOAD_RATE_MIN, InFlight
from eagleray.cluster.access import TableAccess
from eagleray.cluster.api_keys import KeyStore
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.errors import Overloaded
from tests.edge_server import MemoryPlatform, ServedEdge, edge_config, read_all, serve

MIB = 1 << 20
QUERY = b'{"query": "SELECT everything"}'
HEAD = b"POST /v1/sql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ASK = HEAD + b"Content-Length: %d\r\n\r\n" % len(QUERY)


class LongPlatform(MemoryPlatform):
    """Answers every query with `size` bytes, and counts what was fetched and dropped."""

    size = 200 * MIB
    fetched = dropped = 0

    async def sql(self, query: str, arrow: bool, access: TableAccess) -> Body:
        async def more(at: int) -> bytes:
            self.fetched += 1
            return b"x" * min(256 << 10, self.size - at)

        def drop() -> None:
            self.dropped += 1

        return Body(self.size, b"x" * (256 << 10), more, drop)


def unread(edge: ServedEdge, head: bytes = ASK, body: bytes = QUERY) -> socket.socket:
    """A connection that asks and never reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", edge.port))
    sock.sendall(head + body)
    return sock


def until(holds: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_answers_that_nobody_reads_cost_a_piece_each_and_are_given_up(tmp_path: Path) -> None:
    platform = LongPlatform()
    with serve(edge_config(tmp_path, answer_timeout_s=1.5), platform) as edge:
        before = resident()
        socks = [unread(edge) for _ in range(16)]  # 3.1 GiB of answers
        until(lambda: edge.edge._app.answers.waiting.used == 16 * (512 << 10))  # type: ignore[union-attr]
        time.sleep(0.5)
        assert resident() - before < 150 * MIB
        assert platform.fetched < 16 * 60  # what buffers of the system take, which is bounded
        assert edge.request("GET", "/v1/streams").status == 200  # others are served
        until(lambda: platform.dropped == 16)
        until(lambda: edge.edge._app.answers.waiting.used == 0)  # type: ignore[union-attr]
        for sock in socks:
            assert len(read_all(sock)) < platform.size
            sock.close()


def test_an_answer_that_is_read_arrives_whole_however_long_it_is(tmp_path: Path) -> None:
    platform = LongPlatform()
    platform.size = size = 30 * MIB + 17
    with serve(edge_config(tmp_path), platform) as edge:
        connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=30)
        for _ in range(2):  # and the connection goes on
            connection.request("POST", "/v1/sql", QUERY, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.getheader("Content-Length") == str(size)
            assert answer.read() == b"x" * size
        connection.close()
        until(lambda: platform.dropped == 2)


def test_the_room_for_answers_is_bounded_and_a_key_has_half_of_it(tmp_path: Path) -> None:
    config = edge_config(tmp_path, auth="required", answer_bytes_max=2 * MIB, answer_timeout_s=60)
    store = KeyStore(config.keys_file, SystemClock())
    greedy, other = store.create("greedy", ["read"]), store.create("other", ["read"])
    with serve(config, LongPlatform()) as edge:
        ask = ASK.replace(b"Host:", b"X-API-Key: %s\r\nHost:" % greedy.encode())
        socks = [unread(edge, ask) for _ in range(2)]
        until(lambda: edge.edge._app.answers.waiting.used == MIB)  # type: ignore[union-attr]
        headers = {"Content-Type": "application/json", "X-API-Key": greedy}
        refused = edge.request("POST", "/v1/sql", QUERY, headers)
        assert (refused.status, refused.json["error"]) == (429, "overloaded")
        assert "answer_bytes_max" in refused.json["detail"]
        socks += [unread(edge, ask.replace(greedy.encode(), other.encode())) for _ in range(2)]
        until(lambda: edge.edge._app.answers.waiting.used == 2 * MIB)  # type: ignore[union-attr]
        assert edge.request("POST", "/v1/sql", QUERY, {**headers, "X-API-Key": other}).status == 429
        for sock in socks:
            sock.close()
        until(lambda: edge.edge._app.answers.waiting.used == 0)  # type: ignore[union-attr]


def test_short_answers_that_nobody_reads_end_with_their_connection(tmp_path: Path) -> None:
    with serve(edge_config(tmp_path, answer_timeout_s=0.5)) as edge:
        sock = unread(edge, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000, b"")
        until(lambda: len(edge.edge._http.connections) == 1)  # type: ignore[union-attr]
        until(lambda: not edge.edge._http.connections)  # type: ignore[union-attr]
        sock.close()


def test_windows_are_read_in_pages(tmp_path: Path) -> None:
    platform = MemoryPlatform(window_rows=25_000)
    path = "/v1/streams/ui/windows/per_user"
    with serve(edge_config(tmp_path), platform) as edge:
        first = edge.request("GET", path)
        assert len(first.json["rows"]) == 10_000 and len(first.body) < 3 * MIB
        rows, cursor, pages = first.json["rows"], first.json["next"], 1
        while cursor:
            page = edge.request("GET", f"{path}?cursor={cursor}&limit=7000").json
            rows, cursor, pages = rows + page["rows"], page.get("next"), pages + 1
        assert [row["n"] for row in rows] == list(range(3, 25_003)) and pages == 4
        for query, code in (
            ("limit=0", "bad_limit"),
            ("limit=10001", "bad_limit"),
            ("limit=x", "bad_limit"),
            ("limit=-1", "bad_limit"),
            ("cursor=%21%21", "bad_cursor"),
            ("cursor=eyJhIjoxfQ", "bad_cursor"),
            ("cursor=W1tdXQ", "bad_cursor"),
        ):
            reply = edge.request("GET", f"{path}?{query}")
            assert (reply.status, reply.json["error"]) == (400, code)


def upload(edge: ServedEdge, key: str | None, sent: int, declared: int = 8 * MIB) -> socket.socket:
    """A POST of which `sent` bytes come, and no more."""
    sock = socket.create_connection(("127.0.0.1", edge.port))
    lock = f"X-API-Key: {key}\r\n" if key else ""
    head = f"POST /v1/streams/ui/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{lock}"
    sock.sendall(f"{head}Content-Length: {declared}\r\n\r\n".encode() + b" " * sent)
    return sock


def test_stalled_uploads_of_one_key_leave_room_for_all_others(tmp_path: Path) -> None:
    config = edge_config(tmp_path, auth="required")
    store = KeyStore(config.keys_file, SystemClock())
    stalling, other = store.create("stalling", ["write:ui"]), store.create("other", ["write:ui"])
    with serve(config) as edge:
        socks = [upload(edge, stalling, 8 * MIB - 1) for _ in range(8)]
        until(lambda: edge.edge.in_flight_bytes > 30 * MIB)
        time.sleep(0.3)
        assert edge.edge.in_flight_bytes <= 32 * MIB  # edge.in_flight_key_bytes_max
        for _ in range(4):
            headers = {"Content-Type": "application/json", "X-API-Key": other}
            body = b"[" + b"{}".rjust(4 * MIB) + b"]"
            assert edge.request("POST", "/v1/streams/ui/events", body, headers).status == 200
        for sock in socks:
            sock.close()
        until(lambda: edge.edge.in_flight_bytes == 0)


def test_stalled_uploads_give_way_where_everyone_shares_the_room(tmp_path: Path) -> None:
    with serve(edge_config(tmp_path)) as edge:
        socks = [upload(edge, None, 8 * MIB - 1) for _ in range(8)]
        until(lambda: edge.edge.in_flight_bytes >= 8 * (8 * MIB - 1))
        time.sleep(STALL_S + 0.2)
        assert edge.post(b"{}".rjust(7 * MIB)).status == 200
        gone = [sock for sock in socks if edge_closed(sock)]
        assert len(gone) == 1  # no more than were in the way
        for sock in socks:
            sock.close()


def edge_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        answer = sock.recv(4096)
    except BlockingIOError:
        return False
    assert answer.startswith(b"HTTP/1.1 408") and b"stalled" in answer
    return True


class Ticks:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Iterator[Ticks]:
    yield Ticks()


def test_an_upload_that_trickles_is_stalled_and_one_that_flows_is_not(ticks: Ticks) -> None:
    flight = InFlight(1000 * MIB, 1000 * MIB, monotonic=ticks)
    trickling, flowing = flight.lease("a"), flight.lease("a")
    for lease in (trickling, flowing):
        lease.uploading(lambda: None)
        lease.arrived(8 * MIB)  # a quick start earns no more than STALL_S
    for _ in range(10):
        ticks.now += STALL_S / 4
        trickling.arrived(1000)
        flowing.arrived(int(UPLOAD_RATE_MIN * STALL_S / 4) + 1)
    assert trickling.is_stalled(ticks.now) and not flowing.is_stalled(ticks.now)


def test_only_as_many_uploads_give_way_as_are_in_the_way_and_only_of_the_key_that_is_full(ticks: Ticks) -> None:
    flight = InFlight(100, 60, monotonic=ticks)
    ended: list[str] = []
    leases = {}
    for name, key, size in (("a1", "a", 30), ("a2", "a", 20), ("b1", "b", 40)):
        leases[name] = flight.lease(key)
        leases[name].uploading(lambda name=name: ended.append(name))  # type: ignore[misc]
        leases[name].arrived(size)
    more = flight.lease("a")
    more.take(10)
    with pytest.raises(Overloaded, match="in_flight_bytes_max"):
        more.take(1)  # nobody stalls
    ticks.now += STALL_S + 1
    other = flight.lease("b")
    other.take(15)  # all is full: the largest goes, whoever's it is
    assert ended == ["b1"] and flight.used == 75
    more.take(15)  # the key is full: its own go
    assert ended == ["b1", "a1"] and flight.used == 60
    for lease in (*leases.values(), more, other):
        lease.__exit__(None, None, None)
    assert flight.used == 0 and not flight._by_key and not flight._uploads


def test_a_key_is_charged_for_its_events_before_they_are_judged(tmp_path: Path) -> None:
    config = edge_config(tmp_path, auth="required")
    key = KeyStore(config.keys_file, SystemClock()).create("slow", ["write:ui"], rate=10)
    platform = MemoryPlatform(delay_s=1.0)
    headers = {"Content-Type": "application/json", "X-API-Key": key}
    with serve(config, platform) as edge:
        sock = upload(edge, key, 0, declared=len(body := b"[" + b",".join([b"{}"] * 1000) + b"]"))
        sock.sendall(body)
        until(lambda: platform.batches)  # its thousand events are being judged
        refused = edge.request("POST", "/v1/streams/ui/events", b"{}", headers)
        assert (refused.status, refused.json["error"]) == (429, "rate_limited")
        assert int(refused.headers["Retry-After"]) > 60
        sock.close()


def test_a_key_whose_events_are_all_rejected_is_held_to_a_rate_and_others_are_not(tmp_path: Path) -> None:
    config = edge_config(tmp_path, auth="required", dead_letters_rate=100)
    store = KeyStore(config.keys_file, SystemClock())
    wrong, good = store.create("wrong", ["write:ui"]), store.create("good", ["write:ui"])

    with serve(config) as edge:

        def post(key: str, body: bytes) -> tuple[int, Any]:
            headers = {"Content-Type": "application/json", "X-API-Key": key}
            reply = edge.request("POST", "/v1/streams/ui/events", body, headers)
            return reply.status, reply.json

        status, answer = post(wrong, json.dumps([1] * 7000).encode())
        assert status == 200 and len(answer["rejected"]) == 7000  # what was taken has its verdicts
        before = len(edge.platform.submissions)
        status, answer = post(wrong, b"{}")
        assert (status, answer["error"]) == (429, "rate_limited") and "edge.dead_letters_rate" in answer["detail"]
        assert post(good, b"{}")[0] == 200
        assert len(edge.platform.submissions) == before + 1
