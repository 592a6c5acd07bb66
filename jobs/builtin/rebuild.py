"""`eagleray job run rebuild`: computes rows of closed windows again from `events`, so that late events count in them.

Only windows that the stream has closed are touched: the others it still writes itself. For events that were not late
the rows are those of the stream, bit by bit, for both count with `cluster.windowing`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from eagleray.cluster.clock import iso
from eagleray.cluster.config import Config
from eagleray.cluster.errors import CommitFailed, ConfigError
from eagleray.cluster.events.stream import Stream, load_streams
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.predicate import EVERYTHING, All, Compare, Predicate
from eagleray.cluster.lake.progress import CLOSED
from eagleray.cluster.lake.replace import Change
from eagleray.cluster.lake.window_history import StreamHistory, load_history
from eagleray.cluster.near_names import instead
from eagleray.cluster.windowing.definition import WindowSpec
from eagleray.cluster.windowing.era import Era, History
from eagleray.cluster.windowing.merge import close, closing_times, finish, select
from eagleray.cluster.windowing.partial import A, B, times
from eagleray.cluster.windowing.recount import Recount
from eagleray.cluster.windowing.watermark import NEVER
from eagleray.jobs.builtin.retention import KEPT_FROM
from eagleray.jobs.model import Limits
from eagleray.jobs.publish.row_deletes import take_rows
from eagleray.jobs.publish.scratch_duckdb import desk
from eagleray.sql.engine import identifier

ATTEMPTS_MAX = 20  # the stream commits to the same table as windows close
BACKOFF_S = 0.25


@dataclass(frozen=True)
class RebuildOptions:
    """Compute windows of a stream that start in [start, end) again, from its events."""

    stream: str = field(metadata={"help": "The stream."})
    start: str = field(metadata={"help": "Windows that start at or after this time (ISO 8601)."})
    end: str = field(metadata={"help": "Windows that start before this time (ISO 8601)."})
    windows: tuple[str, ...] = field(default=(), metadata={"help": "Windows by name; default: all."})


@dataclass(frozen=True)
class RebuildReport:
    """Rows of windows: how many there were in the range, and are now."""

    windows: tuple[str, ...]
    rows_before: int
    rows_after: int


def run(config: Config, options: RebuildOptions) -> RebuildReport:
    """Rebuild; raises ConfigError for an unknown stream, window or time, CommitFailed where others came first."""
    stream = load_streams(config).get(options.stream)
    if stream is None:
        raise ConfigError(
            "--stream", f"no stream is called {options.stream!r}{instead(options.stream, config.streams)}"
        )
    from_us, to_us = (_instant(f"--{name}", getattr(options, name)) for name in ("start", "end"))
    names = list(options.windows or stream.windows)
    for name in names:
        if name not in stream.windows:
            raise ConfigError(
                "--windows", f"{stream.name} has no window {name!r}; it has {', '.join(stream.windows) or 'none'}"
            )
    lake = Lake.open(config)
    history = load_history(lake, stream)
    counts = [
        _rebuild(lake, config, stream, history, era, from_us, to_us)
        for name in names
        for era in _from_the_first(history.windows[name])
    ]
    return RebuildReport(tuple(names), sum(before for before, _ in counts), sum(after for _, after in counts))


def _from_the_first(history: History) -> History:
    """The eras, of which the first rules what was before it as well: the window was added, or its table made anew."""
    return (replace(history[0], from_us=NEVER), *history[1:]) if history else history


def _instant(option: str, text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
        return round(at.timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        raise ConfigError(option, f"expected ISO 8601, such as 2026-06-01T12:00:00Z, not {text!r}") from None


def _check_kept(lake: Lake, stream: Stream, from_us: int) -> None:
    """Raise ConfigError where events that windows from `from_us` on need were deleted by their age."""
    kept_us = int(lake.properties(f"{stream.name}.events").get(KEPT_FROM, 0))
    least_us = kept_us + stream.config.max_future  # an event is ingested at most so long before its time
    if kept_us and from_us < least_us:
        problem = f"events ingested before {iso(kept_us)} are gone (retention.events)"
        raise ConfigError("--start", f"{problem}: windows are whole from {iso(least_us)} on")


def _rebuild(
    lake: Lake, config: Config, stream: Stream, history: StreamHistory, era: Era, from_us: int, to_us: int
) -> tuple[int, int]:
    """Replace the rows of one era of a window, by its own definition; returns how many there were and are."""
    spec = era.spec
    from_us, to_us = max(from_us, era.from_us), min(to_us, era.until_us)
    if from_us >= to_us:
        return 0, 0
    table = f"{stream.name}.{spec.name}"
    closed_us = era.closed(lake.progress(table).get(CLOSED, NEVER))
    _check_kept(lake, stream, from_us)
    recount = Recount(stream, era, lake.pin(f"{stream.name}.events"), history.times)
    lateness_us = era.allowed_lateness_us
    if spec.kind == "session":
        rows = sessions(recount, lateness_us, closed_us, from_us, to_us)
    else:
        rows = aligned(recount, lateness_us, closed_us, from_us, to_us)
    files = lake.write(table, lake.named_now(table, rows))
    for attempt in range(1, ATTEMPTS_MAX + 1):
        pinned = lake.pin(table)
        pruning: Predicate = EVERYTHING
        with desk(config, Limits(memory_bytes=config.jobs.memory_max), "jobs.memory_max") as on:
            if spec.kind == "session":
                new = on.view("new", pinned, pinned.over(files)).sql_name
                condition = _within_sessions(spec, new)
            else:
                last_us = min(to_us, closed_us - spec.size_us - lateness_us + 1)
                condition, pruning = _starts_between(from_us, last_us)
            taken = take_rows(lake, table, pinned, pinned.plan(pruning), on, condition)
        if not taken.removed and not files:
            return 0, 0
        try:
            change = Change(taken.removed, [*taken.added, *files], base=pinned.snapshot_id, exclusive=True)
            lake.replace(table, change)
            return taken.rows, rows.num_rows
        except CommitFailed:
            if attempt == ATTEMPTS_MAX:
                raise
            time.sleep(BACKOFF_S)
    raise AssertionError("unreachable")


def aligned(recount: Recount, lateness_us: int, closed_us: int, from_us: int, to_us: int) -> pa.Table:
    """Rows of tumbling or hopping windows that start in [from, to) and are closed."""
    size_us = recount.layout.spec.size_us
    partials = recount.between(from_us, to_us + size_us)
    shift = size_us + lateness_us  # from a window's start to its closing time
    after_us, upto_us = from_us + shift - 1, min(to_us + shift - 1, closed_us)
    chosen = select(recount.layout, [partials], lateness_us, after_us, upto_us)
    return close(recount.layout, [chosen], lateness_us, after_us, upto_us).rows


def sessions(recount: Recount, lateness_us: int, closed_us: int, from_us: int, to_us: int) -> pa.Table:
    """Rows of the closed sessions that lie in [from, to), if only in part: late events may have joined some."""
    gap_us = recount.layout.spec.gap_us
    reach_us = max(8 * gap_us, 3_600_000_000)
    low, high = from_us - reach_us, to_us + reach_us
    while True:
        partials = recount.between(low, high)
        first, last = times(partials, A), times(partials, B)
        chosen = (first < to_us) & (last + gap_us > from_us)
        # A session at the edge of what was read may go on beyond it.
        early, late = (chosen & (first <= low + gap_us)).any(), (chosen & (last >= high - gap_us)).any()
        if not early and not late:
            break
        if reach_us > _EVER_US:
            break
        reach_us *= 4
        low, high = (from_us - reach_us if early else low), (to_us + reach_us if late else high)
    chosen &= closing_times(recount.layout, partials, lateness_us) <= closed_us
    rows, _ = finish(recount.layout, partials.filter(pa.array(np.asarray(chosen))))
    return rows


_EVER_US = 1 << 57  # more than four thousand years


def _starts_between(from_us: int, to_us: int) -> tuple[str, Predicate]:
    at = "epoch_us(t.window_start)"
    pruning = All((Compare("window_start", ">=", from_us), Compare("window_start", "<", to_us)))
    return f"{at} >= {from_us} AND {at} < {to_us}", pruning


def _within_sessions(spec: WindowSpec, new: str) -> str:
    """A session that was written lies within one of those computed now: joined ones replace their parts."""
    groups = (identifier(path.column) for path in spec.group_by)
    same = [f"n.{group} IS NOT DISTINCT FROM t.{group}" for group in groups]
    inside = ["n.window_start <= t.window_start", "n.window_end >= t.window_end"]
    return f"EXISTS (SELECT 1 FROM {new} AS n WHERE {' AND '.join([*same, *inside])})"
