"""Which traced events wait in windows that are not final: their contexts by event time. Used by `partition`, `worker`.

Empty, and nothing to look at, where nothing is traced. Bounded: PER_PERIOD contexts for each of PERIODS_MAX periods of
event time, the newest; a period is as long as the stream's shortest window moves on. What is left out has no span for
the closing of its windows, and nothing else depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from eagleray.cluster.telemetry.tracing import PARENTS_MAX
from eagleray.cluster.windowing.assign import lateness_us, starts_within
from eagleray.cluster.windowing.definition import WindowSpec
from eagleray.cluster.windowing.era import Era

PER_PERIOD = PARENTS_MAX
PERIODS_MAX = 64
PERIOD_US_MIN = 1_000_000


class Counted(NamedTuple):
    """Events from `first_us` to `last_us` that were counted in the trace of `context`."""

    context: str
    first_us: int
    last_us: int


class TracedEvents:
    """One thread adds, any may ask: `_periods` is replaced as a whole."""

    def __init__(self, eras: Iterable[Era]) -> None:
        """`eras`: of all windows of the stream."""
        self._period_us = max(PERIOD_US_MIN, min((_moves_on_us(era.spec) for era in eras), default=PERIOD_US_MIN))
        self._periods: Mapping[int, tuple[Counted, ...]] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._periods)

    def add(self, contexts: Sequence[str], first_us: int, last_us: int) -> None:
        """Events from `first_us` to `last_us` were counted in the spans `contexts`."""
        period = last_us // self._period_us
        before = self._periods.get(period, ())
        more = (Counted(context, first_us, last_us) for context in contexts[: PER_PERIOD - len(before)])
        found = {**self._periods, period: (*before, *more)}
        while len(found) > PERIODS_MAX:
            del found[min(found)]
        self._periods = found

    def closing(self, era: Era, after_us: int, upto_us: int) -> list[str]:
        """Contexts of events that windows with a closing time in (after, upto] may count; of sessions, their last."""
        from_us, until_us = _counted_within(era, after_us, upto_us)
        return [
            one.context
            for period in self._periods.values()
            for one in period
            if one.first_us < until_us and from_us <= one.last_us
        ]


def _counted_within(era: Era, after_us: int, upto_us: int) -> tuple[int, int]:
    """The times [from, until) of events that windows with a closing time in (after, upto] count."""
    spec = era.spec
    if spec.kind == "session":
        wait_us = spec.gap_us + lateness_us(spec, era.allowed_lateness_us)
        return after_us - wait_us + 1, upto_us - wait_us + 1
    first, last = starts_within(spec, era.allowed_lateness_us, after_us, upto_us)
    return first, last + spec.size_us


def _moves_on_us(spec: WindowSpec) -> int:
    return spec.gap_us if spec.kind == "session" else spec.every_us
