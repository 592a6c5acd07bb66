"""`eagleray job run retention`: deletes what is older than the settings keep it, from tables and traces of job runs.

Files whose rows are all too old go as wholes, unread; those that straddle the limit are rewritten without the old rows.
A table that is partitioned by day has few of these. Old snapshots go with them, so that the rows are not there in the
tables' history either. Run by the timetable; without an entry there, daily (`jobs.schedule.timetable`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eagleray.cluster.clock import Clock, SystemClock, iso
from eagleray.cluster.config import Config
from eagleray.cluster.errors import CommitFailed
from eagleray.cluster.lake.expire import Retention
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.predicate import Compare
from eagleray.cluster.lake.replace import Change
from eagleray.jobs.builtin.expire import expire_until_done
from eagleray.jobs.builtin.forget import Place, delete_rows
from eagleray.jobs.run.history import History
from eagleray.jobs.run.traces import drop_history, drop_logs, drop_samples

KEPT_FROM = "eagleray.kept_from_us"
"""Property of `events`: whatever was ingested before may be gone; windows of before cannot be counted again."""

ATTEMPTS_MAX = 8


@dataclass(frozen=True)
class RetentionOptions:
    """Delete what is older than retention settings keep it."""


@dataclass(frozen=True)
class RetentionReport:
    """What went: rows by table, and traces of job runs."""

    tables: tuple[str, ...]
    runs: int
    samples: int
    logs: int


def run(config: Config, options: RetentionOptions, clock: Clock | None = None) -> RetentionReport:
    """Delete; raises CommitFailed where other jobs kept replacing the same files."""
    clock = clock or SystemClock()
    now_us = clock.now_us()
    lake = Lake.open(config, clock)
    there = set(lake.tables())
    gone = []
    for table, column, before_us in _limits(config, now_us):
        if table in there and (rows := _drop(lake, config, table, column, before_us)):
            gone.append(f"{table}: {rows}")
    kept = config.jobs.retention
    history = History.open(config, clock)
    try:
        runs = drop_history(history, now_us - kept.history) if kept.history else 0
        samples = drop_samples(history, now_us - kept.samples) if kept.samples else 0
    finally:
        history.close()
    return RetentionReport(tuple(gone), runs, samples, drop_logs(config, now_us - kept.logs) if kept.logs else 0)


def _limits(config: Config, now_us: int) -> Iterator[tuple[str, str, int]]:
    """Table, the column that tells a row's age, and before when it goes."""
    for name, stream in config.streams.items():
        kept = stream.retention
        for table, age_us in (("events", kept.events), ("dead_letters", kept.dead_letters), ("late", kept.late)):
            if age_us:
                yield f"{name}.{table}", "_ingested_at", now_us - age_us
        if kept.windows:
            yield from ((f"{name}.{window}", "window_end", now_us - kept.windows) for window in stream.windows)


def _drop(lake: Lake, config: Config, table: str, column: str, before_us: int) -> int:
    events = table.endswith(".events")
    rows = 0
    for attempt in range(1, ATTEMPTS_MAX + 1):
        # 1. whole files, unread
        old = lake.pin(table).older(column, before_us)
        if not old:
            break
        try:
            lake.replace(table, Change(old, properties={KEPT_FROM: str(before_us)} if events else {}))
            rows += sum(file.record_count for file in old)
        except CommitFailed:
            if attempt == ATTEMPTS_MAX:
                raise
    # 2. the rows of others  3. the history of both
    older = Compare(column, "<", before_us)
    if not lake.pin(table).plan(older).files:
        rest = 0
    else:
        if events:  # before the rows go, so that nobody counts with what is left of them
            lake.replace(table, Change(properties={KEPT_FROM: str(before_us)}, compaction=True))
        limit = f"TIMESTAMPTZ '{iso(before_us)}'"
        rest = delete_rows(lake, config, Place(table, f"t.{column} < {limit}", older))
    if rows + rest:
        readers_us = config.lake.replaced_files_kept
        expire_until_done(lake, table, Retention(1, readers_us, readers_us))
    return rows + rest
