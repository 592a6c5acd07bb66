"""Starting, sharing a port and draining a running edge: FAULTS.md 32, as far as it is the edge's."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from pathlib import Path

import pytest

from eagleray.cluster.errors import ConfigError
from tests.edge_server import MemoryPlatform, ServedEdge, edge_config, read_all, serve

HEAD = b"POST /v1/streams/ui/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Sender(threading.Thread):
    """Sends numbered events over one connection at a time, until the edge is gone; remembers which were acked."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__()
        self.port, self.number = port, number
        self.acked: list[bytes] = []
        self.failed: list[int] = []

    def run(self) -> None:
        sequence = 0
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                while True:
                    sequence += 1
                    body = b'{"from":%d,"seq":%d}' % (self.number, sequence)
                    connection.request("POST", "/v1/streams/ui/events", body, {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status == 200:
                        self.acked.append(body)
                    else:
                        self.failed.append(answer.status)
            except ConnectionRefusedError:
                return
            except (OSError, http.client.HTTPException):
                continue
            finally:
                connection.close()


def test_drain_under_load_loses_no_acked_event(tmp_path: Path) -> None:
    platform = MemoryPlatform(delay_s=0.01)
    with serve(edge_config(tmp_path), platform) as edge:
        senders = [Sender(edge.port, number) for number in range(8)]
        for sender in senders:
            sender.start()
        while len(platform.taken) < 200:
            time.sleep(0.01)
        edge.drain()
        for sender in senders:
            sender.join()
    acked = [body for sender in senders for body in sender.acked]
    assert len(acked) >= 190
    assert set(acked) <= set(platform.taken)
    assert len(set(platform.taken)) == len(platform.taken)
    assert not any(sender.failed for sender in senders)


def test_drain_finishes_a_body_that_is_still_coming(tmp_path: Path) -> None:
    with serve(edge_config(tmp_path)) as edge, socket.create_connection(("127.0.0.1", edge.port)) as sock:
        sock.sendall(HEAD + b"Content-Length: 8\r\n\r\n{")
        time.sleep(0.1)
        draining = threading.Thread(target=edge.drain)
        draining.start()
        time.sleep(0.2)
        sock.sendall(b'"n": 1}')
        answer = read_all(sock)
        draining.join()
    assert answer.startswith(b"HTTP/1.1 200 OK") and b"Connection: close" in answer
    assert edge.platform.taken == [b'{"n": 1}']


def test_drain_does_not_wait_for_idle_connections(tmp_path: Path) -> None:
    with serve(edge_config(tmp_path, drain_timeout_s=3600)) as edge:
        fresh, used = (socket.create_connection(("127.0.0.1", edge.port), timeout=10) for _ in range(2))
        with fresh, used:
            used.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")
            assert used.recv(65536).startswith(b"HTTP/1.1 200")
            edge.drain()
            assert read_all(fresh) == read_all(used) == b""


def test_drain_gives_up_on_stuck_connections(tmp_path: Path) -> None:
    with serve(edge_config(tmp_path, drain_timeout_s=0.3)) as edge:
        with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as stuck:
            stuck.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
            time.sleep(0.1)
            edge.drain()
            assert not read_all(stuck).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", edge.port))


def test_several_processes_share_a_port_only_when_asked(tmp_path: Path) -> None:
    with serve(edge_config(tmp_path)) as first, pytest.raises(ConfigError, match=r"edge\.port"):
        with serve(edge_config(tmp_path), port=first.port):
            pass
    shared = edge_config(tmp_path, processes=2)
    with serve(shared) as one, serve(shared, port=one.port) as two:
        assert one.port == two.port
        answers = [one.post(b"{}").status for _ in range(40)]
        assert answers == [200] * 40
        assert len(one.platform.taken) + len(two.platform.taken) == 40
        assert one.platform.taken and two.platform.taken


def test_port_zero_takes_a_free_port_each_time(tmp_path: Path) -> None:
    with serve(edge_config(tmp_path)) as one, serve(edge_config(tmp_path)) as two:
        assert one.port != two.port
        assert isinstance(one, ServedEdge)
