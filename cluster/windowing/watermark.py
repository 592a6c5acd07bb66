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


def watermarks(
    times: Int64,
    offsets: Int64,
    advances: Sequence[tuple[int, int]],
    before_us: int,
    max_out_of_orderness_us: int,
) -> tuple[Int64, int]:
    """The watermark (µs) before each event, and after all of the chunk.

    `times` and `offsets` (n,) are the events' times and record offsets in log order; `advances` are control records in
    force, as (offset, target), in log order; `before_us` is the watermark before the chunk. An event's own time counts
    for later events only.
    """
    raised = np.empty(len(times) + 1, np.int64)
    raised[0] = before_us
    np.subtract(times, max_out_of_orderness_us, out=raised[1:])
    for offset, target_us in advances:
        follower = int(np.searchsorted(offsets, offset, side="right"))
        raised[follower] = max(int(raised[follower]), target_us)
    running = np.maximum.accumulate(raised)
    return running[:-1], int(running[-1])
