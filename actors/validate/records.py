"""What was judged becomes log entries: an EVENTS record for each partition that has events, a REJECTS record besides.

Called by `worker`. Rows keep their order within a partition, so that the order of a key's events is kept.
"""

from __future__ import annotations

from itertools import count

import numpy as np
import pyarrow as pa

from cluster.events.judge import Judged
from cluster.events.stream import REJECT_SCHEMA
from cluster.log.protocol import Entry, Kind

# Threads cost more than they give here: 4 partitions of 125 rows take 132 µs without them, 900 µs with.
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_PLAIN = pa.ipc.IpcWriteOptions()
_COMPRESS_FROM = 8192  # bytes; below, headers outweigh what is saved
FIRST_ATTEMPT = 1


def encode(batch: pa.RecordBatch) -> memoryview:
    """The batch as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    options = _COMPRESSED if batch.nbytes >= _COMPRESS_FROM else _PLAIN
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue())


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
        entries = [Entry(partition, Kind.EVENTS, part.num_rows, encode(part)) for partition, part in parts]
        if judged.rejects:
            beside = parts[0][0] if parts else next(self._turn) % self._partitions  # one file less to sync
            entries.append(Entry(beside, Kind.REJECTS, len(judged.rejects), encode(_rejects(judged))))
        return entries


def _rejects(judged: Judged) -> pa.RecordBatch:
    rejections, sources = zip(*judged.rejects, strict=True)
    columns = [
        pa.array([rejection.original for rejection in rejections], pa.binary()),
        pa.array([rejection.reason for rejection in rejections], pa.string()),
        pa.array([rejection.detail for rejection in rejections], pa.string()),
        pa.array(sources, pa.string()),
        pa.array([FIRST_ATTEMPT] * len(rejections), pa.int32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=REJECT_SCHEMA)
