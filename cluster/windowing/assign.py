"""Which windows an event belongs to, and which of them it is too late for. Pure arithmetic on arrays of microseconds.

Tumbling and hopping windows are cut into panes: stretches of time within which every event has the same windows. A
window is a union of panes, so an event is counted once, in its pane, and windows are put together when they close.
There are at most two panes per hop (boundaries at n·every and n·every + size mod every), whatever the sizes. An event
that is late for its first windows, but not for all, counts `since` a later window only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eagleray.cluster.windowing.definition import WindowSpec
from eagleray.cluster.windowing.watermark import FOREVER, NEVER, Int64


class Panes(NamedTuple):
    """Where events count, arrays (n,) of µs; window starts are multiples of `every_us`.

    An event counts in the windows that start in [since, last]; where since > last, in none. It misses those that start
    in [first, since) up to last; where first > last it has none in the spec's era.
    """

    pane: Int64
    first: Int64
    since: Int64
    last: Int64


def lateness_us(spec: WindowSpec, allowed_lateness_us: int) -> int:
    """How long after its end a window closes: allowed lateness, and for sessions one more gap (see session.py)."""
    return allowed_lateness_us + spec.gap_us


def panes(spec: WindowSpec, times: Int64, before: Int64, allowed_lateness_us: int) -> Panes:
    """Panes of events at `times` with the watermarks `before` them, for a tumbling or hopping window."""
    size, every = spec.size_us, spec.every_us
    last = times // every * every
    odd = size % every
    pane = last if odd == 0 else np.where(times - last < odd, last, last + odd)
    first = last if size == every else first_start(spec, times)
    if spec.from_us > NEVER:
        first = np.maximum(first, spec.from_us)
    if spec.until_us < FOREVER:
        last = np.minimum(last, spec.last_start_us)
        if not spec.overlapping:
            last = np.where(times < spec.until_us, last, NEVER)
    # Late where start + size + lateness ≤ watermark: the first start that is not late is the next multiple above.
    since = np.maximum(first, ((before - size - allowed_lateness_us) // every + 1) * every)
    return Panes(pane, first, since, last)


def first_start(spec: WindowSpec, times: Int64) -> Int64:
    """The start of the earliest window that holds each of `times` (times of events, or starts of panes)."""
    return ((times - spec.size_us) // spec.every_us + 1) * spec.every_us


def starts_within(spec: WindowSpec, allowed_lateness_us: int, after_us: int, upto_us: int) -> tuple[int, int]:
    """The first and the last start of tumbling or hopping windows whose closing time is in (after, upto]."""
    shift = spec.size_us + allowed_lateness_us
    first = ((after_us - shift) // spec.every_us + 1) * spec.every_us
    last = (upto_us - shift) // spec.every_us * spec.every_us
    return first, min(last, spec.last_start_us) if spec.until_us < FOREVER else last


def missed_windows(spec: WindowSpec, found: Panes) -> tuple[Int64, Int64]:
    """The windows that events came too late for, as (index of the event, window start), in order of both."""
    until = np.minimum(found.since, found.last + spec.every_us)
    counts = np.maximum(until - found.first, 0) // spec.every_us
    rows = np.repeat(np.arange(len(counts)), counts)
    step = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, found.first[rows] + step * spec.every_us
