"""Wall-clock time for records, bounded: a clock that was set forward refuses appends instead of poisoning the log.

Ingestion times never go back, so one that is 34 days ahead would freeze them, and with them retention and the
deduplication horizon, for 34 days. An appender compares the wall clock with the one that nobody can set. What holds:

- ahead by more than SLACK_US of what has elapsed: ClockAhead, until the clock is right again or `eagleray up` starts
  anew, which takes the clock as it finds it
- within that it is followed: NTP slews by at most 500 ppm, steps are small
- set back: recorded times stand still until the clock has caught up. Ids are remembered and records kept for longer
  meanwhile, never shorter. Set forward again to where it was, it is ahead of nothing

Workers start from what `up` found (`Anchor`), so that one that is restarted after a step does not begin from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from eagleray.cluster.clock import Clock, boot, elapsed_us, iso
from eagleray.cluster.errors import ClockAhead

SLACK_US = 60_000_000  # more than any step of NTP on a machine that runs; far less than any horizon
_DRIFT = 1000  # the wall clock may gain a thousandth of what elapses


@dataclass(frozen=True)
class Anchor:
    """The wall clock less what had elapsed since the boot, at an instant of this boot."""

    boot: str
    offset_us: int
    elapsed_us: int

    @classmethod
    def now(cls, clock: Clock) -> Anchor:
        """As it is."""
        elapsed = elapsed_us(clock)
        return cls(boot(), clock.now_us() - elapsed, elapsed)


class IngestClock:
    """The time that records get. Appenders of several threads may share one."""

    def __init__(self, clock: Clock, anchor: Anchor | None = None) -> None:
        """Go on from `anchor`, if it is of this boot."""
        self._clock = clock
        self._anchor = anchor if anchor is not None and anchor.boot == boot() else Anchor.now(clock)

    def now_us(self) -> int:
        """Microseconds since the epoch, by the wall clock; raises ClockAhead."""
        wall_us, elapsed = self._clock.now_us(), elapsed_us(self._clock)
        anchor = self._anchor
        ahead_us = wall_us - elapsed - anchor.offset_us
        may_gain_us = max(0, elapsed - anchor.elapsed_us) // _DRIFT
        if ahead_us > SLACK_US + may_gain_us:
            problem = (
                f"this machine's clock ({iso(wall_us)}) is {ahead_us / 1e6:,.0f} s ahead of the time that has passed"
            )
            raise ClockAhead(f"{problem}: set it right, or restart `eagleray up` if it is right; nothing was acked")
        self._anchor = Anchor(anchor.boot, anchor.offset_us + max(0, min(ahead_us, may_gain_us)), elapsed)
        return wall_us
