"""What was judged becomes log entries: an EVENTS record for each partition that has events, a REJECTS record besides.

Called by `worker`. Rows keep their order within a partition, so that the order of a key's events is kept.
"""

from __future__ import annotations

from itertools import count

import numpy as np
import pyarrow as pa

from eagleray.cluster.events.judge import Judged
from eagleray.cluster.events.stream import REJECT_SCHEMA
from eagleray.cluster.log.protocol import Entry, Kind
from eagleray.cluster.log.record import encode_batch


def split(batch: pa.RecordBatch, partition_of: np.ndarray) -> list[tuple[int, pa.RecordBatch]]:
    """The rows of each partition that has any, in order; `partition_of` is (rows,) integers."""
    if batch.num_rows == 0:
        return []
    counts = np.bincount(partition_of)
    present = np.flatnonzero(counts)
    if len(present) == 1:
        return [(int(present[0]), batch)]
    ordered = batch.take(pa.array(np.argsort(partition_of, kind="stable")))
    ends = np.cumsum(counts)
    return [(int(p), ordered.slice(int(ends[p] - counts[p]), int(counts[p]))) for p in present]


class Records:
    """Makes log entries of judged batches."""

    def __init__(self, partitions: int) -> None:
        """`partitions` of the log."""
        self._partitions = partitions
        self._turn = count()

    def entries(self, judged: Judged) -> list[Entry]:
        """Entries for one append; empty where nothing was accepted or rejected."""
        partition_of = (judged.partition_hash % np.uint64(self._partitions)).astype(np.int64)
        parts = split(judged.batch, partition_of)
        entries = [Entry(partition, Kind.EVENTS, part.num_rows, encode_batch(part)) for partition, part in parts]
        if judged.rejects:
            beside = parts[0][0] if parts else next(self._turn) % self._partitions  # one file less to sync
            entries.append(Entry(beside, Kind.REJECTS, len(judged.rejects), encode_batch(_rejects(judged))))
        return entries


def _rejects(judged: Judged) -> pa.RecordBatch:
    rejections, submissions = zip(*judged.rejects, strict=True)
    columns = [
        pa.array([rejection.original for rejection in rejections], pa.binary()),
        pa.array([rejection.reason for rejection in rejections], pa.string()),
        pa.array([rejection.detail for rejection in rejections], pa.string()),
        pa.array([submission.source for submission in submissions], pa.string()),
        pa.array([submission.attempt for submission in submissions], pa.int32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=REJECT_SCHEMA)
