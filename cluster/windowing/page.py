"""Pages of a window's rows: in one order, cut after so many, gone on with where the last page ended.

The order is that of `merge`: window_start, window_end, group columns, nulls last. A cursor is the last row's place in
it, so windows that close or open between two pages neither repeat a row nor leave one out that was there all the time.
Called by the window workers for open rows, by the lake for final ones, and by the committer, which joins both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from eagleray.cluster.clock import iso
from eagleray.cluster.errors import BadCursor
from eagleray.cluster.windowing.definition import WindowSpec

Cursor = Sequence[Any]
"""The order's columns of one row: times and dates as integers, the rest as JSON has it."""


class Range(NamedTuple):
    """Which rows are wanted: window_start in [from, to), beyond the cursor, at most `limit` in order."""

    from_us: int | None
    to_us: int | None
    cursor: Cursor | None
    limit: int


def order(*specs: WindowSpec) -> list[str]:
    """The columns that rows are ordered by, of all definitions of a window."""
    return list(dict.fromkeys(name for spec in specs for name in spec.schema.names[: 2 + len(spec.group_by)]))


def together(tables: Sequence[pa.Table], specs: Sequence[WindowSpec]) -> pa.Table:
    """Rows by any of the definitions `specs`, with all columns of the order; null where a definition has no such."""
    fields = {spec.schema.field(name).name: spec.schema.field(name) for spec in specs for name in order(spec)}
    empty = pa.schema(fields.values()).empty_table()
    return pa.concat_tables([empty, *tables], promote_options="permissive")


def page(rows: pa.Table, keys: Sequence[str], wanted: Range, *, sort: bool = True) -> pa.Table:
    """The first `limit` of `rows` that are wanted, in order; raises BadCursor. `sort` False: they are in order."""
    chosen = _within(rows, wanted)
    if wanted.cursor is not None:
        chosen = chosen.filter(_beyond(chosen, keys, wanted.cursor))
    if sort:
        chosen = chosen.take(pc.sort_indices(chosen, sort_keys=[(key, "ascending") for key in keys]))
    return chosen.slice(0, wanted.limit)


def joined(final: pa.Table, still_open: pa.Table, keys: Sequence[str], limit: int) -> tuple[pa.Table, list[bool]]:
    """The first `limit` rows of two pages, in order, and which of them are final. Of the same window, final wins.

    Both pages are of the same range, and of more than `limit` rows where there are as many.
    """
    both = pa.concat_tables([final, still_open], promote_options="permissive")
    known = set(_places(final, keys))
    new = [place not in known for place in _places(still_open, keys)]
    kept = [True] * final.num_rows + new
    marked = both.append_column("final", pa.array([True] * final.num_rows + [False] * len(new)))
    marked = marked.filter(pa.array(kept, pa.bool_()))
    ordered = marked.take(pc.sort_indices(marked, sort_keys=[(key, "ascending") for key in keys])).slice(0, limit)
    return ordered.drop_columns("final"), ordered.column("final").to_pylist()


def last(rows: pa.Table, keys: Sequence[str]) -> list[Any]:
    """The cursor behind the last of `rows`."""
    return [_plain(rows.column(key).slice(rows.num_rows - 1)).to_pylist()[0] for key in keys]


def values(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows for JSON: times as ISO 8601 in UTC with `Z`, dates too, the rest as it is."""
    columns = [_texts(column) for column in rows.columns]
    return [dict(zip(rows.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _within(rows: pa.Table, wanted: Range) -> pa.Table:
    starts = rows.column("window_start").cast(pa.int64())
    if wanted.from_us is not None:
        kept = pc.greater_equal(starts, wanted.from_us)
        rows, starts = rows.filter(kept), starts.filter(kept)
    return rows if wanted.to_us is None else rows.filter(pc.less(starts, wanted.to_us))


def _beyond(rows: pa.Table, keys: Sequence[str], cursor: Cursor) -> Any:
    """Which rows come after the cursor, compared column by column; a null comes after every value."""
    if len(cursor) != len(keys):
        raise BadCursor(f"it has {len(cursor)} values, not {len(keys)}")
    beyond, equal = pa.scalar(False), pa.scalar(True)
    for key, value in zip(keys, cursor, strict=True):
        column = _plain(rows.column(key))
        is_null = pc.is_null(column)
        if value is None:
            greater, same = pa.scalar(False), is_null
        else:
            try:
                limit = pa.scalar(value, column.type)
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                raise BadCursor(f"{key} cannot be {value!r}") from None
            greater = pc.or_(is_null, pc.fill_null(pc.greater(column, limit), False))
            same = pc.fill_null(pc.equal(column, limit), False)
        beyond, equal = pc.or_(beyond, pc.and_(equal, greater)), pc.and_(equal, same)
    return beyond


def _places(rows: pa.Table, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    """What names a window of a group: its start and the group; a session's end may still move."""
    columns = [_plain(rows.column(key)).to_pylist() for key in keys if key != "window_end"]
    return list(zip(*columns, strict=True))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pt.is_timestamp(column.type):
        return column.cast(pa.int64())
    return column.cast(pa.int32()) if pt.is_date32(column.type) else column


def _texts(column: pa.ChunkedArray) -> list[Any]:
    if pt.is_date(column.type):
        return [None if day is None else day.isoformat() for day in column.to_pylist()]
    if not pt.is_timestamp(column.type):
        return list(column.to_pylist())
    return [None if at is None else iso(at) for at in column.cast(pa.int64()).to_pylist()]
