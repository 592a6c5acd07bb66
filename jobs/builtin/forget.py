"""`eagleray job run forget`: deletes a person's rows from every table of a stream, and from the tables' history.

By a field of the stream's events and its value: from events, late events and dead letters, from windows that are
grouped by the field, and from the tables that are named. Old snapshots go with the files that held the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.types as pt

from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import CommitFailed, ConfigError
from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.events.stream import Stream, load_streams
from eagleray.cluster.lake.expire import Retention
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.predicate import EVERYTHING, Compare, Predicate
from eagleray.cluster.lake.replace import Change
from eagleray.cluster.lake.scan import Pinned
from eagleray.cluster.lake.window_history import load_history
from eagleray.cluster.near_names import instead
from eagleray.cluster.windowing.definition import field_type
from eagleray.jobs.builtin.compact import chosen
from eagleray.jobs.builtin.expire import expire_until_done
from eagleray.jobs.builtin.forgotten import keep_hashes
from eagleray.jobs.model import Limits
from eagleray.jobs.publish.publish import REJECTED
from eagleray.jobs.publish.row_deletes import take_rows
from eagleray.jobs.publish.scratch_duckdb import desk
from eagleray.jobs.run.traces import forget_in_traces
from eagleray.sql.engine import identifier, literal

ATTEMPTS_MAX = 8  # commits of compaction and jobs may replace the same files meanwhile


@dataclass(frozen=True)
class ForgetOptions:
    """Delete the rows of a person, found by a field of a stream's events, from tables and their history."""

    stream: str = field(metadata={"help": "The stream."})
    key: str = field(metadata={"help": "The field of an event, such as user or actor.login."})
    value: str = field(metadata={"help": "Its value, as text."})
    outputs: tuple[str, ...] = field(
        default=(), metadata={"help": "Tables of jobs that hold it too, as NAMESPACE.TABLE=COLUMN."}
    )
    grace_us: int = field(
        default=0, metadata={"help": "Keep the replaced files for queries that still read them; default: 0s."}
    )


@dataclass(frozen=True)
class ForgetReport:
    """`deleted`: rows by table. `not_reached`: where the person's data still is, and until when."""

    deleted: tuple[str, ...]
    rows: int
    snapshots: int
    files: int
    not_reached: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A table and how its rows of the person are told: a SQL condition over `t`, and what prunes files."""

    table: str
    condition: str
    pruning: Predicate = EVERYTHING


def run(config: Config, options: ForgetOptions, clock: Clock | None = None) -> ForgetReport:
    """Forget; raises ConfigError for a stream, field or table that is not there. Again, it finds what came since."""
    stream = load_streams(config).get(options.stream)
    if stream is None:
        raise ConfigError(
            "--stream", f"no stream is called {options.stream!r}{instead(options.stream, config.streams)}"
        )
    lake = Lake.open(config, clock or SystemClock())
    rows: dict[str, int] = {}
    snapshots = files = 0
    left = []
    for place in places(lake, stream, options):
        # 1. what deduplication needs of it  2. out of the table as it is  3. out of its history
        if place.table == f"{stream.name}.events" and keep_hashes(lake, config, stream, place.condition, place.pruning):
            expire_until_done(lake, f"{stream.name}.forgotten", Retention(1, 0, options.grace_us))
            left.append(f"hashes of their ids, in {stream.name}.forgotten, until a run after dedup_horizon")
        rows[place.table] = delete_rows(lake, config, place)
        lake.drop_branch(place.table, REJECTED)
        gone = expire_until_done(lake, place.table, Retention(1, 0, options.grace_us))
        snapshots, files = snapshots + gone.snapshots, files + gone.files
        left += [f"{place.table}@{name}, until the branch or tag is dropped" for name in lake.branches(place.table)]
    # 4. out of the traces of job runs  5. what is not reached
    traces = forget_in_traces(config, options.value)
    rows |= {what: count for what, count in traces.changed.items() if count}
    left += [*traces.left, *_elsewhere(config, lake, stream, options)]
    if options.grace_us:
        left.append("replaced files, until the grace is over and `expire` has run")
    left.append(f"the event log, for {config.log.retention_hours:g} h; run again when windows open now have closed")
    return ForgetReport(
        tuple(f"{table}: {count}" for table, count in rows.items()), sum(rows.values()), snapshots, files, tuple(left)
    )


def _elsewhere(config: Config, lake: Lake, stream: Stream, options: ForgetOptions) -> Iterator[str]:
    """Copies that are beyond this job, in words."""
    own = {"events", "late", "dead_letters", "forgotten", *stream.windows}
    named = {text.partition("=")[0] for text in options.outputs}
    path = FieldPath.parse(options.key)
    for window, spec in stream.windows.items():
        if path not in spec.group_by and any(path == one.path for one in spec.aggregates):
            yield f"{stream.name}.{window}, whose aggregates read {path.column}, until retention.windows"
    ours = {f"{name}.{table}" for name in config.streams for table in (*own, *config.streams[name].windows)}
    if others := sorted(set(lake.tables()) - ours - named):
        yield f"tables of jobs that were not named with --outputs: {', '.join(others)}"
    yield "states in data_dir/state, until the windows open now have closed"
    yield "the platform's own logs, and backups made before"


def places(lake: Lake, stream: Stream, options: ForgetOptions) -> list[Place]:
    """Every table that can hold the person; raises ConfigError."""
    try:
        path = FieldPath.parse(options.key)
        kind = field_type(stream.events.arrow, path)
    except ValueError as error:
        raise ConfigError("--key", str(error)) from None
    if pt.is_nested(kind):
        raise ConfigError("--key", f"{path.column} is {kind}; expected a field with one value")
    value, name = options.value, stream.name
    events = f"t.{path.sql}"
    found = [
        Place(f"{name}.events", _equal(events, value), _pruning(path, kind, value)),
        Place(f"{name}.late", _in_json("t.event", path, value)),
        Place(f"{name}.dead_letters", _in_letter(path, value)),
    ]
    # Also by a definition of before, or of a window that was removed: its rows are still there.
    histories = load_history(lake, stream).windows
    grouped = (window for window, eras in histories.items() if any(path in era.spec.group_by for era in eras))
    found += [
        Place(f"{name}.{window}", _equal(f"t.{identifier(path.column)}", value), _column(path.column, kind, value))
        for window in grouped
    ]
    found += _outputs(lake, options)
    there = set(lake.tables())
    return [place for place in found if place.table in there]


def _outputs(lake: Lake, options: ForgetOptions) -> Iterator[Place]:
    for text in options.outputs:
        table, equals, column = text.partition("=")
        if not equals or not column:
            raise ConfigError("--outputs", f"expected NAMESPACE.TABLE=COLUMN, not {text!r}")
        chosen(lake, [table])
        if column not in (names := [one.name for one in lake.pin(table).columns]):
            raise ConfigError("--outputs", f"{table} has no column {column!r}; it has {', '.join(names)}")
        yield Place(table, _equal(f"t.{identifier(column)}", options.value))


def delete_rows(lake: Lake, config: Config, place: Place) -> int:
    """Take the rows out of the table, until there are none; returns how many there were."""
    rows = 0
    limits = Limits(memory_bytes=config.jobs.memory_max)
    for _ in range(ATTEMPTS_MAX):
        pinned: Pinned = lake.pin(place.table)
        with desk(config, limits, "jobs.memory_max") as on:
            taken = take_rows(lake, place.table, pinned, pinned.plan(place.pruning), on, place.condition)
        if not taken.removed:
            return rows
        try:
            lake.replace(place.table, Change(taken.removed, taken.added))
            rows += taken.rows
        except CommitFailed:
            continue  # compaction or a job replaced one of the files: look again
    raise CommitFailed(f"{place.table}: other jobs kept replacing the same files; run again")


def _equal(expression: str, value: str) -> str:
    return f"CAST({expression} AS VARCHAR) = {literal(value)}"


def _in_json(expression: str, path: FieldPath, value: str) -> str:
    return f"json_extract_string({expression}, {literal(_json_path(path))}) = {literal(value)}"


def _in_letter(path: FieldPath, value: str) -> str:
    """By the field where the original is JSON; where it is not, by the value anywhere in it."""
    text = "TRY(decode(t.original))"
    anywhere = f"contains(CAST(t.original AS VARCHAR), CAST(encode({literal(json.dumps(value))}) AS VARCHAR))"
    return f"CASE WHEN json_valid({text}) THEN {_in_json(text, path, value)} ELSE {anywhere} END"


def _json_path(path: FieldPath) -> str:
    return "$" + "".join("." + json.dumps(name, ensure_ascii=False) for name in path.names)


def _pruning(path: FieldPath, kind: pa.DataType, value: str) -> Predicate:
    return _column(path.column, kind, value) if len(path.names) == 1 else EVERYTHING


def _column(name: str, kind: pa.DataType, value: str) -> Predicate:
    if pt.is_string(kind):
        return Compare(name, "=", value)
    if pt.is_integer(kind) and value.lstrip("-").isdecimal():
        return Compare(name, "=", int(value))
    return EVERYTHING
