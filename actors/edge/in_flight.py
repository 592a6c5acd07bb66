"""Bytes in flight: what an edge holds of bodies from first byte to ack, and of answers that wait to be read.

Bounded in all and for each key, so that one key cannot take the room of all others. What a sender has not finished
sending holds room too, byte by byte as it comes; where others need that room, uploads that have stalled give way.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType

from eagleray.cluster.errors import Overloaded

UPLOAD_RATE_MIN = 256 << 10  # bytes/s: a slower upload keeps its room only while nobody else needs it
STALL_S = 2.0  # of silence, or of less than that rate


class InFlight:
    """The bytes held by all requests of this process, for one event loop."""

    def __init__(
        self,
        bytes_max: int,
        key_bytes_max: int,
        setting: str = "edge.in_flight_bytes_max",
        key_setting: str = "edge.in_flight_key_bytes_max",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`bytes_max` bounds the sum, `key_bytes_max` that of each key; the settings are where they come from.

        A request that is alone may exceed either, or it could never be served.
        """
        self.bytes_max = bytes_max
        self.used = 0
        self._key_bytes_max = key_bytes_max
        self._setting, self._key_setting = setting, key_setting
        self._monotonic = monotonic
        self._by_key: defaultdict[str, int] = defaultdict(int)  # Invariant: no key that holds nothing
        self._uploads: set[Lease] = set()

    def lease(self, key: str | None = None) -> Lease:
        """A request's share, empty at first; gives everything back on exit. `key` None: everyone, without a bound."""
        return Lease(self, key)

    def _take(self, lease: Lease, size: int) -> None:
        if self.used + size > self.bytes_max and self.used > lease.held:
            self._make_room(self.used + size - self.bytes_max, lease, None)
            if self.used + size > self.bytes_max and self.used > lease.held:
                raise Overloaded(self._setting)
        if lease.key is not None:
            share = self._by_key[lease.key]
            if share + size > self._key_bytes_max and share > lease.held:
                self._make_room(share + size - self._key_bytes_max, lease, lease.key)
                share = self._by_key[lease.key]
                if share + size > self._key_bytes_max and share > lease.held:
                    raise Overloaded(self._key_setting)
            self._by_key[lease.key] = share + size
        self.used += size
        lease.held += size

    def _give_back(self, lease: Lease) -> None:
        self.used -= lease.held
        if lease.key is not None:
            self._by_key[lease.key] -= lease.held
            if not self._by_key[lease.key]:
                del self._by_key[lease.key]
        lease.held = 0

    def _make_room(self, size: int, for_: Lease, key: str | None) -> None:
        """End stalled uploads, the largest first, until `size` bytes are free; of `key` alone if it is given."""
        now = self._monotonic()
        stalled = [u for u in self._uploads if u.is_stalled(now) and u is not for_ and key in (None, u.key)]
        for upload in sorted(stalled, key=lambda upload: upload.held, reverse=True):
            if size <= 0:
                return
            size -= upload.held
            upload.give_way()


class Lease:
    """One request's share."""

    __slots__ = ("_all", "_credit_until", "_give_way", "gave_way", "held", "key")

    def __init__(self, all_: InFlight, key: str | None) -> None:
        self._all = all_
        self.key = key
        self.held = 0
        self.gave_way = False
        self._give_way: Callable[[], None] | None = None
        self._credit_until = 0.0

    def __enter__(self) -> Lease:
        """The lease itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give everything back."""
        self.uploaded()
        self._all._give_back(self)

    def take(self, size: int) -> None:
        """Hold `size` more bytes; raises Overloaded when others, or others of the key, hold too much for that."""
        self._all._take(self, size)

    def uploading(self, give_way: Callable[[], None]) -> None:
        """The sender sets the pace from here on; `give_way` ends the upload where it stalls and others need room."""
        self._give_way = give_way
        self._credit_until = self._all._monotonic() + STALL_S
        self._all._uploads.add(self)

    def arrived(self, size: int) -> None:
        """`size` bytes came."""
        self.take(size)
        now = self._all._monotonic()
        begin = max(self._credit_until, now - STALL_S)
        self._credit_until = min(begin + size / UPLOAD_RATE_MIN, now + STALL_S)

    def uploaded(self) -> None:
        """All is there."""
        self._all._uploads.discard(self)
        self._give_way = None

    def is_stalled(self, now: float) -> bool:
        """Whether too little came of late."""
        return now > self._credit_until

    def give_way(self) -> None:
        """Give everything back, and end the upload."""
        give_way, self.gave_way = self._give_way, True
        self.uploaded()
        self._all._give_back(self)
        if give_way is not None:
            give_way()
