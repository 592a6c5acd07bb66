"""From partial aggregates to rows: which windows close, merged over all partitions, finished and put in order.

`select` runs where the partials are, `close` and `open_rows` where they are merged. Promise: the rows depend on the set
of events alone; they are ordered by window_start, window_end and group, nulls last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eagleray.cluster.windowing.assign import lateness_us, starts_within
from eagleray.cluster.windowing.group_codes import whole
from eagleray.cluster.windowing.partial import A, B, Layout, times
from eagleray.cluster.windowing.sessions import group_hashes, open_sessions
from eagleray.cluster.windowing.watermark import FOREVER, NEVER, Int64

AFTER = b"after"  # table metadata: windows with a closing time at or below were in the lake already


class Closed(NamedTuple):
    """What closing a window gives."""

    rows: pa.Table  # WindowSpec.schema, in order
    overflows: int  # results that are null because they do not fit their type
    still_open: bytes  # sessions only: see session.open_sessions


def closing_times(layout: Layout, table: pa.Table, allowed_lateness_us: int) -> Int64:
    """When each row of partial aggregates closes: with the last window that needs it, or with its fragment alone."""
    spec, late = layout.spec, lateness_us(layout.spec, allowed_lateness_us)
    if spec.kind == "session":
        return times(table, B) + spec.gap_us + late
    return times(table, B) // spec.every_us * spec.every_us + spec.size_us + late


def select(
    layout: Layout, tables: Sequence[pa.Table], allowed_lateness_us: int, after_us: int, upto_us: int | None
) -> pa.Table:
    """Partial aggregates of the windows with a closing time in (after, upto], one row per window and group.

    For sessions: of every fragment that may be connected to a session that closes by `upto`. None: all windows.
    """
    upto_us = -NEVER if upto_us is None else upto_us
    if layout.spec.kind == "session":
        reach = upto_us - lateness_us(layout.spec, allowed_lateness_us)  # last event + gap of what closes now
        chosen = [table.filter(pa.array(times(table, A) <= reach)) for table in tables]
    else:
        chosen = [_expand(layout, table, allowed_lateness_us, after_us, upto_us) for table in tables]
    return layout.merge(chosen).replace_schema_metadata({AFTER: str(after_us).encode()})


def _expand(layout: Layout, table: pa.Table, allowed_lateness_us: int, after_us: int, upto_us: int) -> pa.Table:
    spec = layout.spec
    first, last = starts_within(spec, allowed_lateness_us, after_us, upto_us)
    low = np.maximum(times(table, A), first)
    high = np.minimum(times(table, B) // spec.every_us * spec.every_us, last)
    counts = np.maximum((high - low) // spec.every_us + 1, 0)
    rows = np.repeat(np.arange(len(counts)), counts)
    step = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = pa.array(low[rows] + step * spec.every_us)
    chosen = table.take(pa.array(rows))
    return chosen.set_column(0, A, starts).set_column(1, B, starts)


def close(
    layout: Layout, partials: Sequence[pa.Table], allowed_lateness_us: int, after_us: int, upto_us: int
) -> Closed:
    """The final rows of all windows with a closing time in (after, upto], from every partition's `select`."""
    merged = layout.merge([table.replace_schema_metadata(None) for table in partials])
    packed = b""
    if layout.spec.kind == "session":
        closing = closing_times(layout, merged, allowed_lateness_us)
        # Only a session that began early enough can have a fragment that looks closed.
        begun = closing_times(layout, merged.set_column(1, B, merged.column(A)), allowed_lateness_us) <= upto_us
        packed = _open_ones(layout, merged, begun & (closing > upto_us))
        merged = merged.filter(pa.array((closing > after_us) & (closing <= upto_us)))
    rows, overflows = finish(layout, merged)
    return Closed(rows, overflows, packed)


def _open_ones(layout: Layout, merged: pa.Table, still_open: npt.NDArray[np.bool_]) -> bytes:
    left = merged.filter(pa.array(still_open))
    return open_sessions(group_hashes(layout.groups(left), left.num_rows), times(left, A))


def finish(layout: Layout, merged: pa.Table) -> tuple[pa.Table, int]:
    """Merged partial aggregates as rows of WindowSpec.schema, in order, and the number of overflows."""
    spec = layout.spec
    starts, lasts = times(merged, A), times(merged, B)
    ends = lasts + spec.gap_us if spec.kind == "session" else starts + spec.size_us
    if spec.until_us < FOREVER and not spec.overlapping:  # true of sessions too: their sizes are 0
        ends = np.minimum(ends, spec.until_us)
    results = [one.finish(state) for one, state in zip(layout.reducers, layout.states(merged), strict=True)]
    groups = [whole(merged.column(f"g{i}")) for i in range(len(spec.group_by))]
    columns = [pa.array(starts), pa.array(ends), *groups, *(result for result, _ in results)]
    cast = [column.cast(field.type) for column, field in zip(columns, spec.schema, strict=True)]
    rows = pa.table(cast, schema=spec.schema)
    names = spec.schema.names[: 2 + len(groups)]
    order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in names])
    return rows.take(order), sum(count for _, count in results)


def open_rows(
    layout: Layout, partials: Sequence[pa.Table], allowed_lateness_us: int, from_us: int | None, to_us: int | None
) -> pa.Table:
    """Rows of the open windows that start in [from, to), in order, from every partition's `select`."""
    after = max((int((table.schema.metadata or {}).get(AFTER, NEVER)) for table in partials), default=NEVER)
    merged = layout.merge([table.replace_schema_metadata(None) for table in partials])
    starts = times(merged, A)
    wanted = (starts >= (NEVER if from_us is None else from_us)) & (starts < (-NEVER if to_us is None else to_us))
    wanted &= closing_times(layout, merged, allowed_lateness_us) > after
    return finish(layout, merged.filter(pa.array(wanted)))[0]
