"""What `forget` keeps of events that it removes: where they were, and the hash of their ids, for as long as ids matter.

Without it, a retry of a forgotten event would be stored anew wherever saved ids are lost (`cluster.seen_ids`), for what
is judged then is what the tables hold. A hash has the seed of the data directory in it; the id cannot be read from it.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from eagleray.cluster.config import Config
from eagleray.cluster.errors import CommitFailed
from eagleray.cluster.events.event_identity import texts_of
from eagleray.cluster.events.seeded_hash import DIGEST_BYTES, digests
from eagleray.cluster.events.stream import Stream
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.predicate import Predicate
from eagleray.cluster.lake.replace import Change
from eagleray.cluster.seen_ids import FORGOTTEN, field_of, tables_seed
from eagleray.jobs.model import Limits
from eagleray.jobs.publish.scratch_duckdb import desk

ATTEMPTS_MAX = 8
HORIZONS = 2  # one matters; what is still in the log may have been ingested some time before what `events` has


def keep_hashes(lake: Lake, config: Config, stream: Stream, condition: str, pruning: Predicate) -> int:
    """Remember the rows of `events` that `condition` is true for, before they go; returns how many these are.

    What is older than the horizon leaves `<stream>.forgotten`. Raises CommitFailed where others kept replacing it.
    """
    table = f"{stream.name}.forgotten"
    pinned = lake.pin(f"{stream.name}.events")
    newest_us = pinned.upper_bound("_ingested_at")
    if newest_us is None:
        return 0
    since_us = newest_us - HORIZONS * stream.config.dedup_horizon
    with desk(config, Limits(memory_bytes=config.jobs.memory_max), "jobs.memory_max") as on:
        view = on.view("old", pinned, pinned.plan(pruning))
        wanted = f"WHERE ({condition}) AND epoch_us(t._ingested_at) >= {since_us}"
        seed = tables_seed(lake, stream)
        found = [_hashed(batch, stream, seed) for batch in on.stream(view, wanted)]
    rows = pa.concat_tables([FORGOTTEN.empty_table(), *found])
    if not rows.num_rows and lake.find(table) is None:
        return 0
    lake.ensure_output(table, FORGOTTEN)
    for _ in range(ATTEMPTS_MAX):
        old = lake.pin(table).plan()
        kept = [pa.table(batch).cast(FORGOTTEN) for batch in old.batches(FORGOTTEN.names)]
        known = pa.concat_tables([FORGOTTEN.empty_table(), *kept])
        known = known.filter(pc.greater_equal(known.column("_ingested_at").cast(pa.int64()), since_us))
        whole = pa.concat_tables([known, rows])
        try:
            added = lake.write(table, whole) if whole.num_rows else []
            if added or old.data_files:
                lake.replace(table, Change(old.data_files, added))
            return int(rows.num_rows)
        except CommitFailed:
            continue
    raise CommitFailed(f"{table}: others kept replacing the same files; nothing but that is wrong, run again")


def _hashed(batch: pa.RecordBatch, stream: Stream, seed: int) -> pa.Table:
    rows = pa.table(batch)
    ids: pa.Array = pa.nulls(rows.num_rows, pa.binary(DIGEST_BYTES))
    if stream.id is not None:
        texts = texts_of(field_of(rows, stream.id.names))
        found = [None if text is None else digests([text], seed)[0] for text in texts]
        ids = pa.array(found, pa.binary(DIGEST_BYTES))
    columns = [ids, *(rows.column(name) for name in FORGOTTEN.names[1:])]
    return pa.table(dict(zip(FORGOTTEN.names, columns, strict=True))).cast(FORGOTTEN)
