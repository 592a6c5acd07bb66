"""Windows, sessions and lateness once more in plain Python, from their definitions, sharing no code with the product.

Slow and obvious on purpose: what the platform's tables must agree with. Times are microseconds since the epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Key = Hashable
Span = tuple[int, int]


def parse_us(text: str) -> int:
    """RFC 3339 → microseconds, without floating point; a time without zone is UTC."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


@dataclass(frozen=True)
class Sliding:
    """A tumbling (every = size) or hopping window: [n·every, n·every + size)."""

    size_us: int
    every_us: int

    def spans(self, time_us: int) -> list[Span]:
        """Every window that an event belongs to."""
        last = time_us // self.every_us * self.every_us
        starts = range(last, time_us - self.size_us, -self.every_us)
        return [(start, start + self.size_us) for start in sorted(starts)]


def group(events: Iterable[tuple[int, Key, Any]], window: Sliding) -> dict[tuple[Span, Key], list[Any]]:
    """(time, key, value) → values by window and key."""
    found: dict[tuple[Span, Key], list[Any]] = defaultdict(list)
    for time_us, key, value in events:
        for span in window.spans(time_us):
            found[span, key].append(value)
    return dict(found)


def sessions(events: Iterable[tuple[int, Key, Any]], gap_us: int) -> dict[tuple[Span, Key], list[Any]]:
    """(time, key, value) → values by session and key: events at most `gap_us` apart; the end is the last + gap."""
    by_key: dict[Key, list[tuple[int, Any]]] = defaultdict(list)
    for time_us, key, value in events:
        by_key[key].append((time_us, value))
    found: dict[tuple[Span, Key], list[Any]] = {}
    for key, timed in by_key.items():
        timed.sort(key=lambda pair: pair[0])
        opened = 0
        for index in range(1, len(timed) + 1):
            if index == len(timed) or timed[index][0] - timed[index - 1][0] > gap_us:
                span = (timed[opened][0], timed[index - 1][0] + gap_us)
                found[span, key] = [value for _, value in timed[opened:index]]
                opened = index
    return found


@dataclass
class Watermarks:
    """The watermark of each partition, as events go by in log order."""

    max_out_of_orderness_us: int
    allowed_lateness_us: int

    def __post_init__(self) -> None:
        self._at: dict[int, int] = {}

    def late(self, partition: int, end_us: int) -> bool:
        """Whether a window with this end is closed to the partition's next event."""
        at = self._at.get(partition)
        return at is not None and at >= end_us + self.allowed_lateness_us

    def saw(self, partition: int, time_us: int) -> None:
        """An event went by; it counts for those after it."""
        self._at[partition] = max(
            self._at.get(partition, time_us - self.max_out_of_orderness_us), time_us - self.max_out_of_orderness_us
        )


@dataclass(frozen=True)
class Judged:
    """An event with the windows that it missed."""

    partition: int
    time_us: int
    event: Any
    counted: list[Span]  # sliding windows it counts for
    missed: list[Span]


def judge(
    events: Sequence[tuple[int, int, Any]], spans: Callable[[int], list[Span]], watermarks: Watermarks
) -> list[Judged]:
    """(partition, time, event) in log order → which windows each event made and which it missed."""
    judged = []
    for partition, time_us, event in events:
        counted: list[Span] = []
        missed: list[Span] = []
        for span in spans(time_us):
            (missed if watermarks.late(partition, span[1]) else counted).append(span)
        judged.append(Judged(partition, time_us, event, counted, missed))
        watermarks.saw(partition, time_us)
    return judged
