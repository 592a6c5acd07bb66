"""Wall-clock time, injected. The only module that may read the system clock; everything else receives a `Clock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of wall-clock time."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, UTC."""
        return time.time_ns() // 1000


class ManualClock:
    """A clock that moves only when told to; for tests."""

    def __init__(self, now_us: int = 0) -> None:
        """Start at `now_us` microseconds since the epoch."""
        self._now_us = now_us

    def now_us(self) -> int:
        """The time last set."""
        return self._now_us

    def advance(self, by_us: int) -> None:
        """Move forward by `by_us` microseconds."""
        self._now_us += by_us


def iso(time_us: int) -> str:
    """`time_us` (microseconds since the epoch) as ISO 8601 in UTC with `Z`; fractions only where there are any."""
    seconds, micros = divmod(time_us, 1_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{micros:06d}".rstrip("0") + "Z" if micros else f"{text}Z"
