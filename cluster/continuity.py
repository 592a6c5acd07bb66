"""Do a stream's log and its tables belong together? Asked by `up` before anything is served, and by `recover`.

The tables remember the log's identity and how far they have read it. A log that is gone, another one, an older copy, or
one that grew on from an older copy would take events at offsets that the tables have passed: acked, and never stored.
So the platform starts only where all of this holds, for every partition of every stream:

1. the log has the identity that the tables name last
2. it ends at or beyond every table's progress
3. it begins at or before the progress of `events`: nothing between them is missing
4. the last record that `events` has read is still the same record
5. ids and keys are hashed with the seed of before: with another one, nothing that was sent would be recognised
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from eagleray.cluster.config import Config
from eagleray.cluster.errors import LogCorrupt, LogMismatch
from eagleray.cluster.events.seeded_hash import RESTORE_SEED, hash_seed, seed_fingerprint, seed_place, seed_problem
from eagleray.cluster.events.stream import Stream
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.progress import MARKS, decode
from eagleray.cluster.log import lineage
from eagleray.cluster.log.lineage import Life, Lineage
from eagleray.cluster.log.protocol import Bounds, Epoch, EventLog, Kind, draw_identity, partition_key

PLACED = ("dead_letters", "late", "events")
"""Tables whose progress is by offset; `events` last, for it must not overtake the others."""

READ_BYTES = 8 << 20

_WAY_OUT = "put the right log back, or run `eagleray recover`, which begins a new epoch from the tables"


@dataclass(frozen=True)
class Standing:
    """What the tables of a stream say, and the log that is there."""

    stream: str
    lineage: Lineage
    behind: tuple[str, ...]  # tables that do not know the newest epoch: a recovery was interrupted
    progress: Mapping[str, Mapping[str, int]]  # by table
    marks: Mapping[str, int]
    log: Epoch | None
    seed: str  # that the tables name; "" for none
    damage: LogCorrupt | None = None  # the log cannot be read

    @property
    def begun(self) -> bool:
        """Whether any table has read anything."""
        return any(self.progress.values())

    def at(self, table: str, partition: int) -> int:
        """Where a table stands."""
        return self.progress.get(table, {}).get(partition_key(partition), 0)


@dataclass(frozen=True)
class Bound:
    """The log of each stream, by stream the properties that its tables have to have, and the seed's fingerprint."""

    epochs: dict[str, Epoch] = field(default_factory=dict)
    said: dict[str, dict[str, str]] = field(default_factory=dict)
    seed: str = ""


def bind(config: Config, lake: Lake, log: EventLog, streams: Mapping[str, Stream]) -> Bound:
    """Find the log of every stream, and make those of new streams; before `Lake.ensure` makes their tables.

    Raises LogMismatch that says for each stream what is wrong and what to do. A damaged log is no reason to keep the
    other streams from starting: its own requests are refused.
    """
    found = Bound()
    problems = []
    lives: dict[str, Lineage] = {}
    for name, stream in streams.items():
        standing = look(lake, log, stream)
        if problem := wrong(config, log, standing):
            lost = _seed_wrong(config, standing)
            problems.append(f"stream {name}: {problem}; {RESTORE_SEED if lost else _WAY_OUT}")
            continue
        epochs = standing.lineage or (_first(log, standing),)
        damaged = standing.damage is not None
        found.epochs[name] = epochs[-1].epoch if damaged else standing.log or log.epoch(name) or epochs[-1].epoch
        lives[name] = epochs
    if problems:
        raise LogMismatch("\n".join(problems))
    found.said.update({name: said(config, epochs) for name, epochs in lives.items()})
    return replace(found, seed=seed_fingerprint(config))


def said(config: Config, epochs: Lineage) -> dict[str, str]:
    """What the tables of a stream say of its logs."""
    hash_seed(config)  # drawn now, where there is none
    return {lineage.PROPERTY: lineage.encode(epochs), lineage.SEED_PROPERTY: seed_fingerprint(config)}


def _first(log: EventLog, standing: Standing) -> Life:
    """The first epoch of a stream whose tables know none: the log's that is there, or a new one's."""
    if standing.log is None:
        log.begin(standing.stream, Epoch(draw_identity()))
        log.activate(standing.stream)
    epoch = standing.log or log.epoch(standing.stream)
    assert epoch is not None
    return Life(epoch.log, epoch.bases)


def look(lake: Lake, log: EventLog, stream: Stream) -> Standing:
    """What tables and log say; raises LogUnavailable."""
    tables = {table: lake.properties(f"{stream.name}.{table}") for table in (*PLACED, *stream.windows)}
    lineages = {table: lineage.decode(properties) for table, properties in tables.items()}
    newest = max(lineages.values(), key=len)
    behind = tuple(table for table, known in lineages.items() if known and known != newest)
    progress = {table: decode(tables[table]) for table in PLACED}
    marks = decode(tables["events"], MARKS)
    try:
        epoch, damage = log.epoch(stream.name), None
    except LogCorrupt as error:
        epoch, damage = None, error
    seed = next((found for table in tables.values() if (found := table.get(lineage.SEED_PROPERTY))), "")
    return Standing(stream.name, newest, behind, progress, marks, epoch, seed, damage)


def wrong(config: Config, log: EventLog, standing: Standing) -> str | None:
    """What is wrong between log and tables, as a sentence without its end; None if they belong together."""
    name, place = standing.stream, where(config, standing.stream)
    if problem := _seed_wrong(config, standing):
        return problem
    if standing.damage is not None:
        return None if standing.lineage else f"its log is damaged ({standing.damage})"
    behind = [table for table in standing.behind if table in PLACED]
    if behind:
        return f"a recovery was interrupted: {name}.{behind[0]} does not know the log that other tables know"
    if standing.log is None:
        if not standing.begun and not standing.lineage:
            return None
        read = f"{name}.events has read up to {_positions(standing)}"
        if moved := _elsewhere(config, name):
            return f"{place} is not there yet, and {read}{moved}"
        return f"its log is gone: {place} is not there, and {read}"
    if standing.lineage and (problem := _other(place, standing)):
        return problem
    try:
        checks = (_partition(log, standing, partition) for partition in range(log.partitions))
        return next((f"{place} {problem}" for problem in checks if problem), None)
    except LogCorrupt:
        return None  # its own reads and appends will say so


def _seed_wrong(config: Config, standing: Standing) -> str | None:
    problem = seed_problem(config, standing.seed) if standing.seed else None
    return f"{seed_place(config)} {problem}" if problem else None


@dataclass(frozen=True)
class Left:
    """A stream that the configuration no longer has: `events` were acked and are not in its tables."""

    stream: str
    place: str
    events: int

    def __str__(self) -> str:
        """What is there and what to do, in one line."""
        return (
            f"stream {self.stream} is not in the configuration any more, and {self.events:,} acked events in its log"
            f" ({self.place}) are not in {self.stream}.events: they are kept. To store them, put the stream back and"
            f" start once; to give them up with its tables, run `eagleray table drop {self.stream} --yes`"
        )


def left_behind(config: Config, lake: Lake, log: EventLog) -> list[Left]:
    """Streams that left the configuration before everything that was acked was stored; raises LogUnavailable."""
    found = []
    for table in lake.tables():
        name, _, last = table.partition(".")
        properties = lake.properties(table) if last == "events" and name not in config.streams else {}
        if lineage.PROPERTY not in properties:
            continue
        try:
            events = waiting(log, name, decode(properties))
        except LogCorrupt:
            continue  # it is not served, and `recover` says what is wrong with it
        if events:
            found.append(Left(name, where(config, name), events))
    return found


def waiting(log: EventLog, stream: str, progress: Mapping[str, int]) -> int:
    """Acked events beyond what a table with this `progress` has read; raises LogUnavailable, LogCorrupt."""
    return sum(_waiting(log, stream, partition, progress) for partition in range(log.partitions))


def _waiting(log: EventLog, stream: str, partition: int, progress: Mapping[str, int]) -> int:
    """Events of a partition beyond what the table has read."""
    bounds = log.bounds(stream, partition)
    at, events = max(bounds.first, progress.get(partition_key(partition), 0)), 0
    while at < bounds.end and (records := log.read(stream, partition, at, READ_BYTES)):
        events += sum(record.rows for record in records if record.kind == Kind.EVENTS)
        at = records[-1].offset + 1
    return events


def gone(lake: Lake, stream: Stream) -> list[str]:
    """Tables of `stream` that are not there, though others of its are: somebody dropped them."""
    names = [f"{stream.name}.{table}" for table in (*PLACED, *stream.windows)]
    missing = [name for name in names if lake.find(name) is None]
    return missing if len(missing) < len(names) else []


def where(config: Config, stream: str) -> str:
    """The log of a stream, for messages."""
    if config.log.backend == "kafka":
        return f"the log of {stream} in Kafka"
    return str(config.log_dir / stream / "records.db") if config.log.backend == "embedded" else config.log.backend


def _elsewhere(config: Config, stream: str) -> str:
    """Where the log may be that the tables were written from, if `log.backend` was changed."""
    if config.log.backend == "kafka" and (file := config.log_dir / stream / "records.db").exists():
        return f" in another log, in {file} it seems: `eagleray recover` carries over what the tables do not have"
    if config.log.backend == "embedded" and config.log.brokers:
        return " in another log, in Kafka it seems: `eagleray recover` carries over what the tables do not have"
    return ""


def _other(place: str, standing: Standing) -> str | None:
    assert standing.log is not None
    if standing.log.log == standing.lineage[-1].log:
        return None
    known = [life.log for life in standing.lineage]
    what = "an earlier log of this stream" if standing.log.log in known else "another log"
    return f"{place} is {what} ({standing.log.log}), and the tables were written from {known[-1]}"


def _partition(log: EventLog, standing: Standing, partition: int) -> str | None:
    bounds, name = log.bounds(standing.stream, partition), standing.stream
    for table in PLACED:
        at = standing.at(table, partition)
        if at > bounds.end:
            held = f"ends at offset {bounds.end} in partition {partition}"
            return f"{held}, and {name}.{table} has read up to {at}: it is an older copy"
    at = standing.at("events", partition)
    if at < bounds.first:
        gap = f"begins at offset {bounds.first} in partition {partition}, and {name}.events has read up to {at}"
        causes = "deleted before the table had them, or the table was dropped, or is of another catalog?"
        return f"{gap}: the {bounds.first - at} records between are in neither ({causes})"
    if differs(log, standing, partition, bounds):
        other = f"holds another record {at - 1} in partition {partition} than {name}.events has read"
        return f"{other}: it is an older copy that took new events"
    return None


def differs(log: EventLog, standing: Standing, partition: int, bounds: Bounds) -> bool:
    """Whether the last record that `events` has read is another one in the log now."""
    at, mark = standing.at("events", partition), standing.marks.get(partition_key(partition))
    if mark is None or not bounds.first < at <= bounds.end:
        return False
    return lineage.mark(log.read(standing.stream, partition, at - 1, 1)[0]) != mark


def _positions(standing: Standing) -> str:
    at = standing.progress["events"]
    return "offset " + ", ".join(str(at[key]) for key in sorted(at)) if at else "nothing"
