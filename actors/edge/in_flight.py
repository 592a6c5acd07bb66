"""Bytes in flight: what an edge holds of bodies from first byte to ack; bounded by edge.in_flight_bytes_max."""

from __future__ import annotations

from types import TracebackType

from eagleray.cluster.errors import Overloaded


class InFlight:
    """The bytes held by all requests of this process, for one event loop."""

    def __init__(self, bytes_max: int) -> None:
        """`bytes_max` bounds the sum; a request that is alone may exceed it, or it could never be served."""
        self.bytes_max = bytes_max
        self.used = 0

    def lease(self) -> Lease:
        """A request's share, empty at first; gives everything back on exit."""
        return Lease(self)


class Lease:
    """One request's share."""

    __slots__ = ("_all", "held")

    def __init__(self, all_: InFlight) -> None:
        self._all = all_
        self.held = 0

    def __enter__(self) -> Lease:
        """The lease itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give everything back."""
        self._all.used -= self.held
        self.held = 0

    def take(self, size: int) -> None:
        """Hold `size` more bytes; raises Overloaded when others hold too much for that."""
        used = self._all.used
        if used + size > self._all.bytes_max and used > self.held:
            raise Overloaded("edge.in_flight_bytes_max")
        self._all.used = used + size
        self.held += size
