"""Who the client is where trusted proxies stand before the edge: PROXY protocol, `Forwarded`, `X-Forwarded-For`.

Used by `doorway` (the PROXY header of a connection) and by auth and audit (headers of a request). What is not said by a
proxy in `edge.trusted_proxies` counts for nothing: anybody can send a header.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence

from aiohttp import web

V1 = b"PROXY "
V1_BYTES_MAX = 107  # with its line end, as the protocol says
V2 = b"\r\n\r\n\x00\r\nQUIT\n"
V2_HEAD = 16
V2_BYTES_MAX = 2048  # addresses and what else a proxy tells
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BadHeader(Exception):
    """A PROXY header that does not follow the protocol."""


class Proxies:
    """The proxies that are believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks`: addresses and CIDR blocks."""
        self._networks: list[_Network] = [ipaddress.ip_network(network, strict=False) for network in networks]

    def trusts(self, address: str) -> bool:
        """Whether what comes from `address` is believed."""
        if not self._networks:
            return False
        found = parse_address(address)
        return found is not None and any(found in network for network in self._networks)

    def client_of(self, request: web.BaseRequest) -> str:
        """The address of who sent the request: the last that no trusted proxy has, else the connection's."""
        peer = peer_of(request)
        if not self.trusts(peer):
            return peer
        named = {client for way in _ways(request) if (client := self._first_stranger(way)) is not None}
        # A proxy sets one of the two headers, and passes the other on as the client wrote it: believe none of both.
        return named.pop() if len(named) == 1 else peer

    def _first_stranger(self, way: Sequence[str]) -> str | None:
        """Walking back from the edge; None where there is none, or the way gets lost before one is found."""
        for hop in reversed(way):
            address = parse_address(hop)
            if address is None:
                return None
            if not self.trusts(str(address)):
                return str(address)
        return None


def peer_of(request: web.BaseRequest) -> str:
    """Who the connection is from: as its PROXY header says, where a trusted proxy sent one."""
    told = getattr(request.protocol, "client", None)
    if told:
        return str(told)
    name = request.transport.get_extra_info("peername") if request.transport is not None else None
    address = parse_address(name[0]) if name else None
    return str(address) if address is not None else "unknown"


def _ways(request: web.BaseRequest) -> Iterable[list[str]]:
    if "X-Forwarded-For" in request.headers:
        yield [hop for value in request.headers.getall("X-Forwarded-For") for hop in value.split(",")]
    if "Forwarded" in request.headers:
        yield [hop.get("for", "") for hop in request.forwarded]


def parse_address(text: str) -> _Address | None:
    """An address with or without brackets and port, an IPv4 one in IPv6 as IPv4; None: it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def header_length(head: bytes) -> int | None:
    """How long the PROXY header is that a connection begins with: 0: there is none; None: more has to come.

    `head` are the first bytes, V1_BYTES_MAX are always enough. Raises BadHeader.
    """
    if head.startswith(V1):
        end = head.find(b"\r\n", 0, V1_BYTES_MAX)
        if end < 0 and len(head) >= V1_BYTES_MAX:
            raise BadHeader("no line end within 107 bytes")
        return None if end < 0 else end + 2
    if head.startswith(V2):
        if len(head) < V2_HEAD:
            return None
        length = V2_HEAD + int(struct.unpack_from(">H", head, 14)[0])
        if length > V2_BYTES_MAX:
            raise BadHeader(f"a header of {length} bytes")
        return length
    return None if V1.startswith(head) or V2.startswith(head) else 0


def read_header(header: bytes) -> str | None:
    """The client's address in a whole PROXY header; None: the proxy itself asks (a health check), or does not know.

    Raises BadHeader.
    """
    return _read_v1(header) if header.startswith(V1) else _read_v2(header)


def _read_v1(header: bytes) -> str | None:
    words = header[:-2].decode("ascii", "replace").split(" ")
    if words[1:2] == ["UNKNOWN"]:
        return None
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise BadHeader("expected PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT")
    try:
        kind = ipaddress.IPv4Address if words[1] == "TCP4" else ipaddress.IPv6Address
        return str(parse_address(str(kind(words[2]))))
    except ValueError:
        raise BadHeader(f"{words[2]!r} is no address") from None


def _read_v2(header: bytes) -> str | None:
    version, command, family = header[12] >> 4, header[12] & 15, header[13] >> 4
    if version != 2 or command > 1:
        raise BadHeader("not version 2")
    size = {1: 4, 2: 16}.get(family)
    if command == 0 or size is None:
        return None
    if len(header) < V2_HEAD + 2 * size + 4:
        raise BadHeader("shorter than its addresses")
    address = ipaddress.ip_address(header[V2_HEAD : V2_HEAD + size])
    return str(parse_address(str(address)))
