"""What was judged becomes log entries: an EVENTS record for each partition that has events, a REJECTS record besides.

Called by `worker`. Rows keep their order within a partition, so that the order of a key's events is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import pyarrow as pa

from eagleray.cluster.events.judge import Judged
from eagleray.cluster.events.stream import REJECT_SCHEMA
from eagleray.cluster.log.protocol import RECORD_BYTES_MAX, Entry, Kind
from eagleray.cluster.log.record import encoded


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

    def entries(self, judged: Judged, bytes_max: int = RECORD_BYTES_MAX, traces: Sequence[str] = ()) -> list[Entry]:
        """Entries for one append, no payload above `bytes_max`; empty where nothing was accepted or rejected.

        `traces` are the contexts that the batch is part of. Raises RecordTooLarge where a single event does not fit.
        """
        partition_of = (judged.partition_hash % np.uint64(self._partitions)).astype(np.int64)
        parts = split(judged.batch, partition_of)
        entries = [
            Entry(partition, Kind.EVENTS, rows, payload)
            for partition, part in parts
            for rows, payload in encoded(part, bytes_max, traces)
        ]
        if judged.rejects:
            beside = parts[0][0] if parts else next(self._turn) % self._partitions  # one file less to sync
            pieces = encoded(_rejects(judged, bytes_max // 2), bytes_max, traces)
            entries += [Entry(beside, Kind.REJECTS, rows, payload) for rows, payload in pieces]
        return entries


def _rejects(judged: Judged, original_bytes_max: int) -> pa.RecordBatch:
    """Of an original that no record can hold, the beginning is kept."""
    rejections, submissions = zip(*judged.rejects, strict=True)
    cut = f"; the first {original_bytes_max} bytes are kept"
    whole = [len(rejection.original) <= original_bytes_max for rejection in rejections]
    details = [one.detail if fits else one.detail + cut for one, fits in zip(rejections, whole, strict=True)]
    columns = [
        pa.array([rejection.original[:original_bytes_max] for rejection in rejections], pa.binary()),
        pa.array([rejection.reason for rejection in rejections], pa.string()),
        pa.array(details, pa.string()),
        pa.array([submission.source for submission in submissions], pa.string()),
        pa.array([submission.attempt for submission in submissions], pa.int32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=REJECT_SCHEMA)
