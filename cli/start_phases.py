"""What a start is doing, for who waits: a line on stderr as each phase begins, and how long each took."""

from __future__ import annotations

import os
import sys
import time

from eagleray.cluster.clock import SystemClock
from eagleray.cluster.descendants import start_ticks


class Phases:
    """Times are seconds since the process began, Python's own start included."""

    def __init__(self) -> None:
        """No phase yet."""
        self.quiet = False  # only what goes wrong is said
        self._rows: list[tuple[str, float]] = [("Python", 0.0)]

    def begin(self, phase: str) -> None:
        """The phase before is over; say what is done now."""
        self._rows.append((phase, _age_s()))
        if not self.quiet:
            self.say(phase)

    def say(self, text: str) -> None:
        """A line on stderr."""
        print(f"{_age_s():6.1f} s  {text}", file=sys.stderr, flush=True)

    def mark(self, what: str, at_us: int) -> None:
        """Note that something was done at `at_us` of the machine's clock, without a line."""
        self._rows.append((what, _age_s() - (SystemClock().now_us() - at_us) / 1e6))

    def table(self) -> str:
        """A line for each phase: when it began, how long it took, what it was."""
        rows = sorted(self._rows, key=lambda row: row[1])
        ends = [at for _, at in rows[1:]] + [rows[-1][1]]
        lines = (f"{at:6.2f} s  +{end - at:5.2f}  {what}" for (what, at), end in zip(rows, ends, strict=True))
        return "\n".join(lines)


def _age_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks() / os.sysconf("SC_CLK_TCK")
