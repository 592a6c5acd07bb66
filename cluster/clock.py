"""Wall-clock time, injected. The only module that may read the system clock; everything else receives a `Clock`.

The wall clock can be set, by people, by NTP, by a battery that is empty. `elapsed_us` cannot: it counts from the
machine's boot, and while the machine is suspended as well (CLOCK_BOOTTIME), so that a laptop that wakes up is not taken
for a clock that was set.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from eagleray.cluster.file_lock import lock

_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


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

    def elapsed_us(self) -> int:
        """Microseconds since the machine's boot; nobody can set it."""
        return time.clock_gettime_ns(_SINCE_BOOT) // 1000


class ManualClock:
    """A clock that moves only when told to; for tests."""

    def __init__(self, now_us: int = 0) -> None:
        """Start at `now_us` microseconds since the epoch."""
        self._now_us = now_us
        self._elapsed_us = 0

    def now_us(self) -> int:
        """The time last set."""
        return self._now_us

    def elapsed_us(self) -> int:
        """How much time was let pass."""
        return self._elapsed_us

    def advance(self, by_us: int) -> None:
        """Let `by_us` microseconds pass; below 0, the clock is set back."""
        self._now_us += by_us
        self._elapsed_us += max(0, by_us)

    def step(self, by_us: int) -> None:
        """Set the clock forward by `by_us` microseconds, without any passing."""
        self._now_us += by_us


class SteadyClock:
    """Time that processes of one machine compare with one another; steps of the wall clock do not move it.

    It says where the wall clock stood when one of them first asked since the boot, and what has elapsed since.
    """

    def __init__(self, file: Path, clock: SystemClock | ManualClock | None = None) -> None:
        """`file` keeps where it stands, for all of them."""
        self._file = file
        self._clock = clock or SystemClock()
        self._offset_us: int | None = None

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, UTC, by the wall clock of then; raises OSError."""
        if self._offset_us is None:
            self._offset_us = self._agreed()
        return self._offset_us + self._clock.elapsed_us()

    def _agreed(self) -> int:
        mine = f"{boot()} {self._clock.now_us() - self._clock.elapsed_us()}"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a+") as file:
            lock(file)  # of several that ask first, one decides
            file.seek(0)
            found = file.read()
            if found.split(" ")[0] != boot():
                file.truncate(0)
                file.write(mine)
                found = mine
        return int(found.split(" ")[1])


def elapsed_us(clock: Clock) -> int:
    """What has elapsed on a clock that nobody can set; one that has none of that kind is taken at its word."""
    found: int = getattr(clock, "elapsed_us", clock.now_us)()
    return found


def boot() -> str:
    """What tells this boot of the machine from others; "" where that is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def iso(time_us: int) -> str:
    """`time_us` (microseconds since the epoch) as ISO 8601 in UTC with `Z`; fractions only where there are any."""
    seconds, micros = divmod(time_us, 1_000_000)
    text = datetime.fromtimestamp(seconds, UTC).isoformat()[:19]  # strftime writes the year 1 as 1, not 0001
    return f"{text}.{micros:06d}".rstrip("0") + "Z" if micros else f"{text}Z"
