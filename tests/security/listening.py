"""The listening sockets of a process tree, and whether each keeps strangers out. Used by tests/security."""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

LISTEN = "0A"
PROBES = (  # a harmless method of each of Ray's gRPC services
    "/ray.rpc.NodeInfoGcsService/CheckAlive",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ReporterService/HealthCheck",
    "/ray.rpc.RayletDriver/Init",
)


@dataclass(frozen=True)
class Listening:
    """One listening TCP socket of process `pid`."""

    pid: int
    command: str
    address: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.address).is_loopback


def listening(pids: Iterable[int]) -> Iterator[Listening]:
    """The listening TCP sockets of the processes `pids`."""
    holders = {inode: pid for pid in pids for inode in _sockets(pid)}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == LISTEN and cells[9] in holders:
                pid = holders[cells[9]]
                host, _, port = cells[1].partition(":")
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                command = Path(words[0]).name + " ".join(["", *words[1:3]])[:100]
                yield Listening(pid, command, _address(host), int(port, 16))


def refuses_strangers(port: int) -> str | None:
    """None where the server at `port` answers nothing to somebody without a token; else what it answered."""
    answer = _http(port)
    if answer is not None:
        return None if answer in (401, 403) else f"HTTP {answer}"
    codes = {method: _grpc(port, method) for method in PROBES}
    wrong = {method: code for method, code in codes.items() if code != grpc.StatusCode.UNAUTHENTICATED}
    # A service that a server does not have is unknown to it before it asks who calls.
    offered = {method: code for method, code in wrong.items() if code != grpc.StatusCode.UNIMPLEMENTED}
    return None if not offered and len(wrong) < len(PROBES) else f"gRPC {codes}"


def _sockets(pid: int) -> Iterator[str]:
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):
                yield match[1]
    except OSError:
        return


def _address(text: str) -> str:
    raw = bytes.fromhex(text)
    words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    found = ipaddress.ip_address(words)
    return str(getattr(found, "ipv4_mapped", None) or found)


def _http(port: int) -> int | None:
    """The status of an HTTP server's answer; None where no HTTP/1.1 is spoken."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except (TimeoutError, OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _grpc(port: int, method: str) -> grpc.StatusCode | None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=3)
        except grpc.RpcError as error:
            return error.code()
    return None
