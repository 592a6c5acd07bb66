"""How far a job has read its inputs, and which rows arrived since. Plain JSON values, kept in the output table.

By offset and not by snapshot: a stream commits every two seconds and keeps a hundred snapshots, and compaction moves
rows between files (docs/adr/0009-inputs-are-derived-and-positions-are-offsets.md). What grows by appending has a
position; every other input of an incremental job is read whole, as reference data.
"""

from __future__ import annotations

from collections.abc import Mapping

from eagleray.cluster.lake.predicate import EVERYTHING, All, Any, Compare, In, Predicate
from eagleray.cluster.lake.progress import CLOSED
from eagleray.cluster.lake.scan import Pinned

NUMBER_PROPERTY = "eagleray.run_number"
"""The greatest `_run_number` that a job has given in the table; it never falls."""

NUMBERED_PROPERTY = "eagleray.numbered"
"""`no` where the last run's mode gives its rows no numbers: a column `_run_number` is then the user's own."""

Position = Mapping[str, int]
"""How far a table was read, by what it grows along.

A stream's events, late events and dead letters: `p<n>` → offset of the first record of log partition n that was not
read. A window's table: `window_end` → the latest end that was read, in microseconds since the epoch. A table that jobs
append to: `_run_number` → the latest that was read.
"""

WINDOW_END = "window_end"
RUN_NUMBER = "_run_number"
_START = "window_start"
_EXPECTED = "expected a stream's table, or the output of a job of mode append or incremental"
_PARTITION, _OFFSET = "_partition", "_offset"


def grows(pinned: Pinned) -> bool:
    """Whether the table grows by appending, in an order that a position can name."""
    return _partitioned(pinned) or _ordered_by(pinned) is not None


def position(pinned: Pinned) -> Position:
    """How far the table reaches at its pinned snapshot; raises ValueError for a table that does not grow."""
    if _partitioned(pinned):
        return {key: offset for key, offset in pinned.progress.items() if key.startswith("p")}
    column = _required(pinned)
    latest = pinned.upper_bound(column)
    return {} if latest is None else {column: latest}


def positions(inputs: Mapping[str, Pinned]) -> dict[str, Position]:
    """The positions of those inputs that grow; raises ValueError where none does."""
    found = {name: position(pinned) for name, pinned in inputs.items() if grows(pinned)}
    if not found:
        raise ValueError(f"none of {', '.join(inputs)} is appended to; {_EXPECTED}")
    return found


def arrived(pinned: Pinned, since: Position | None) -> Predicate:
    """The rows that came after `since`; None: all. Raises ValueError for a table that does not grow."""
    if _partitioned(pinned):
        return _after_offsets(since) if since else EVERYTHING
    column = _required(pinned)
    return Compare(column, ">", since[column]) if since and column in since else EVERYTHING


def _after_offsets(since: Position) -> Predicate:
    """Rows beyond the offset of their partition; all rows of a partition that `since` does not have."""
    seen = {int(key[1:]): offset for key, offset in sorted(since.items())}
    beyond = [
        All((Compare(_PARTITION, "=", number), Compare(_OFFSET, ">=", offset))) for number, offset in seen.items()
    ]
    holes = tuple(number for number in range(max(seen)) if number not in seen)
    others: list[Predicate] = [In(_PARTITION, holes)] if holes else []
    return Any((*beyond, *others, Compare(_PARTITION, ">", max(seen))))


def _partitioned(pinned: Pinned) -> bool:
    """A table that a stream's writers commit to; a copy of its columns in a job's output is none."""
    names = {column.name for column in pinned.columns}
    if not names.issuperset((_PARTITION, _OFFSET)) or RUN_NUMBER in names:
        return False  # a stream's tables have no such column
    return pinned.snapshot_id is None or any(key.startswith("p") for key in pinned.progress)


def _ordered_by(pinned: Pinned) -> str | None:
    """The column whose greatest value says how far a table is that grows in its order."""
    names = {column.name for column in pinned.columns}
    numbered = NUMBER_PROPERTY in pinned.properties and pinned.properties.get(NUMBERED_PROPERTY) != "no"
    if RUN_NUMBER in names and (numbered or pinned.snapshot_id is None):
        return RUN_NUMBER
    if names.issuperset((_START, WINDOW_END)) and (pinned.snapshot_id is None or CLOSED in pinned.progress):
        return WINDOW_END
    return None


def _required(pinned: Pinned) -> str:
    column = _ordered_by(pinned)
    if column is None:
        raise ValueError(f"{pinned.name} is not appended to, so nothing says what arrived in it; {_EXPECTED}")
    return column
