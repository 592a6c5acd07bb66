"""The watermark of one partition, in log order. Neighbours: partition.py feeds it, assign.py judges lateness by it.

Promise: the watermark before each event depends on the log alone, never on how the log was cut into chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from eagleray.cluster.lake.progress import NEVER as NEVER_CLOSED

Int64 = npt.NDArray[np.int64]

NEVER = NEVER_CLOSED
"""A watermark, or a closing time, before every event. Leaves room to subtract sizes without overflow."""

FOREVER = -NEVER
"""After every event."""


def bounded_times(times: Int64, ingested_at_us: Int64, clock_slack_us: int | Int64) -> Int64:
    """The times (n,) by which events move the watermark: their own, but no later than their ingestion plus the slack.

    So one device whose clock is ahead makes nobody else late: its event counts in its own window, which closes when
    time has come that far. The ingestion time is the one that the log recorded: a replay computes the same.
    """
    if not len(times) or int(times.max()) <= int(ingested_at_us[0]) + int(np.min(clock_slack_us)):
        return times  # ingestion times never decrease: nothing is ahead of its own
    bounded: Int64 = ingested_at_us + clock_slack_us
    return np.minimum(times, bounded, out=bounded)


def watermarks(
    times: Int64,
    offsets: Int64,
    advances: Sequence[tuple[int, int]],
    before_us: int,
    max_out_of_orderness_us: int | Int64,
) -> tuple[Int64, int]:
    """The watermark (µs) before each event, and after all of the chunk.

    `times` (n,) are those of `bounded_times` and `offsets` (n,) the record offsets, in log order; `advances` are
    control records in force, as (offset, target), in log order; `before_us` is the watermark before the chunk. An
    event's own time counts for later events only. `max_out_of_orderness_us` may differ from event to event (n,).
    """
    raised = np.empty(len(times) + 1, np.int64)
    raised[0] = before_us
    np.subtract(times, max_out_of_orderness_us, out=raised[1:])
    for offset, target_us in advances:
        follower = int(np.searchsorted(offsets, offset, side="right"))
        raised[follower] = max(int(raised[follower]), target_us)
    running = np.maximum.accumulate(raised)
    return running[:-1], int(running[-1])
