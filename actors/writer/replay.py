"""Where deduplication has to start over when no saved state is left, and a log that ends where the table does.

After a restart a writer goes on exactly where its table stands; the identifiers before that point come from saved runs,
and what is missing of them from the log.
"""

from __future__ import annotations

from eagleray.cluster.log.protocol import Bounds, Readable, Record

HORIZONS = 2
"""How many horizons are replayed without saved state. One is not enough: whether a horizon's first event was stored,
or was a duplicate itself, depends on the horizon before."""


class LogUpTo:
    """A view of a log's partitions that holds nothing at or above `end`: replaying it can never run too far."""

    def __init__(self, log: Readable, end: int) -> None:
        """`end`: the offset at which the view stops."""
        self._log = log
        self._end = end

    def read(self, stream: str, partition: int, offset: int, max_bytes: int) -> list[Record]:
        """As Readable.read."""
        if offset >= self._end:
            return []
        found = self._log.read(stream, partition, offset, max_bytes)
        return [record for record in found if record.offset < self._end]

    def bounds(self, stream: str, partition: int) -> Bounds:
        """As Readable.bounds."""
        first, end = self._log.bounds(stream, partition)
        return Bounds(min(first, self._end), min(end, self._end))


def replay_start(log: Readable, stream: str, partition: int, upto: int, horizon_us: int) -> int:
    """The offset from which identifiers matter for records at `upto` and later; found by bisection over the times."""
    first, end = log.bounds(stream, partition)
    if first >= min(upto, end):
        return upto
    last_us = _time(log, stream, partition, min(upto, end) - 1)
    low, high = first, min(upto, end) - 1  # the time at `high` is never before the start
    while low < high:
        middle = (low + high) // 2
        if _time(log, stream, partition, middle) < last_us - HORIZONS * horizon_us:
            low = middle + 1
        else:
            high = middle
    return low


def _time(log: Readable, stream: str, partition: int, offset: int) -> int:
    return log.read(stream, partition, offset, 1)[0].ingested_at_us
