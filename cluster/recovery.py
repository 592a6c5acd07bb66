"""Begins a new epoch of a stream's log from its tables: `eagleray recover`, where the two no longer belong together.

The order of one recovery. Whatever kills it, the next one completes it:
1. a new log is made aside, its bases above every offset ever given  2. what an old log still holds and the tables do
not have is carried over, with its ingestion times  3. the tables move on to the bases and name the new log, `events`
last  4. the new log takes the old one's place; the old one is kept under another name

What was carried over is judged by its ids as ever: what the tables have within the horizon is not stored again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eagleray.cluster.clock import Clock
from eagleray.cluster.config import Config
from eagleray.cluster.continuity import PLACED, Standing, differs, look, said, wrong
from eagleray.cluster.errors import ConfigError, LogCorrupt, LogUnavailable, OffsetOutOfRange
from eagleray.cluster.events.stream import Stream
from eagleray.cluster.lake.lake import Beside, Lake
from eagleray.cluster.lake.predicate import Compare
from eagleray.cluster.log import lineage
from eagleray.cluster.log.backends import open_elsewhere
from eagleray.cluster.log.lineage import Life, Lineage
from eagleray.cluster.log.protocol import Bounds, Epoch, EventLog, Kind, Record, draw_identity, partition_key
from eagleray.cluster.log.stream_file import StreamFile

READ_BYTES = 8 << 20


@dataclass(frozen=True)
class Recovered:
    """What was done for a stream. `events`, `rejects`: carried over. `damaged`: records that could not be read.

    `lost`: records that had left the log before the tables had them.
    """

    stream: str
    log: str
    problem: str
    bases: Mapping[str, int]
    events: int = 0
    rejects: int = 0
    damaged: int = 0
    lost: int = 0


class Source:
    """An old log of one stream, to be read."""

    def __init__(self, log: str, read: EventLog | StreamFile, stream: str, name: str) -> None:
        """`log` is its identity, `name` is for messages."""
        self.log = log
        self.name = name
        self.damaged = 0
        self.lost = 0
        self._read = read
        self._stream = stream

    def bounds(self, partition: int) -> Bounds:
        """What it holds; nothing where that cannot be read."""
        try:
            if isinstance(self._read, StreamFile):
                return self._read.bounds(partition)
            return self._read.bounds(self._stream, partition)
        except LogCorrupt:
            return Bounds(0, 0)

    def records(self, partition: int, start: int) -> Iterator[list[Record]]:
        """All records from `start` on that can be read; the others are counted as damaged."""
        first, end = self.bounds(partition)
        at = max(start, first)
        while at < end:
            try:
                if isinstance(self._read, StreamFile):
                    found = self._read.read(partition, at, READ_BYTES)
                else:
                    found = self._read.read(self._stream, partition, at, READ_BYTES)
            except (LogCorrupt, OffsetOutOfRange):
                found = []
            if found:
                yield found
                at = found[-1].offset + 1
            else:
                self.damaged += 1
                at += 1


class Recovery:
    """Recovers the streams of a project that is stopped; the caller holds its lock."""

    def __init__(self, config: Config, lake: Lake, log: EventLog, streams: Mapping[str, Stream], clock: Clock) -> None:
        """`log` is open without epochs: whatever is there may be looked at."""
        self._config, self._lake, self._log, self._streams, self._clock = config, lake, log, streams, clock

    def recover(self, name: str, files: Sequence[Path] = (), always: bool = False) -> Recovered | None:
        """Begin a new epoch of the stream `name`; None if log and tables belong together, unless `always`.

        `files` are other old logs of the stream, from a backup for one. Raises ConfigError for a file that is none,
        LogUnavailable, and what commits raise; called again, it goes on.
        """
        stream = self._streams[name]
        standing = look(self._lake, self._log, stream)
        begun = self._begun(standing)
        problem = wrong(self._config, self._log, standing) or ("its log is damaged" if standing.damage else "")
        if begun is None and not problem and not always and not files:
            return None
        if begun is None:
            done, life = self._begin(standing, files, problem)
            epochs: Lineage = (*standing.lineage, life)
        else:
            done, epochs = Recovered(name, begun[-1].log, "a recovery was interrupted", begun[-1].bases), begun
        # 3. the tables
        for table in PLACED:
            self._move(standing, table, epochs)
        # 4. the place
        self._log.activate(name)
        return done

    def _begun(self, standing: Standing) -> Lineage | None:
        """The epochs of an interrupted recovery that a table knows already."""
        try:
            aside = self._log.begun(standing.stream)
        except (LogUnavailable, LogCorrupt):
            return None  # half made: no table knows it
        if aside is None or not standing.lineage or standing.lineage[-1].log != aside.log:
            return None
        return standing.lineage

    def _begin(self, standing: Standing, files: Sequence[Path], problem: str) -> tuple[Recovered, Life]:
        with ExitStack() as stack:
            return self._carried(standing, self._sources(standing, files, stack), problem)

    def _carried(self, standing: Standing, sources: Sequence[Source], problem: str) -> tuple[Recovered, Life]:
        partitions = range(self._log.partitions)
        seen: dict[int, list[int]] = {p: [standing.at(table, p) for table in PLACED] for p in partitions}
        for partition in partitions:
            seen[partition] += [life.bases.get(partition_key(partition), 0) for life in standing.lineage]
            seen[partition] += [source.bounds(partition).end for source in sources]
        bases = {partition_key(p): lineage.next_base(offsets) for p, offsets in seen.items()}
        after = {partition_key(p): standing.at("events", p) for p in partitions}
        identity = draw_identity()
        # 1. the new log
        self._log.begin(standing.stream, Epoch(identity, bases), self._newest_us(standing))
        # 2. what the tables do not have
        counts = {Kind.EVENTS: 0, Kind.REJECTS: 0}
        carried: dict[str, dict[str, int]] = {}
        for source in sources:
            carried[source.log] = {}
            for partition in partitions:
                end = self._carry(standing, source, partition, counts)
                carried[source.log][partition_key(partition)] = end
        damaged = sum(source.damaged for source in sources)
        lost = sum(source.lost for source in sources)
        numbers = (counts[Kind.EVENTS], counts[Kind.REJECTS], damaged, lost)
        return Recovered(standing.stream, identity, problem, bases, *numbers), Life(identity, bases, after, carried)

    def _sources(self, standing: Standing, files: Sequence[Path], stack: ExitStack) -> list[Source]:
        """The old logs of this stream that are there; those of others are left alone. `stack` closes what is opened."""
        known = {life.log for life in standing.lineage}
        found: list[Source] = []
        if standing.log is not None and (standing.log.log in known or not standing.lineage):
            found.append(Source(standing.log.log, self._log, standing.stream, "the log"))
        found += self._elsewhere(standing, stack)
        for path in files:
            if not path.is_file():
                raise ConfigError("--log", f"{path} is not a file; expected the records.db of an old log")
            file = StreamFile(path, str(path), self._clock, self._config.log.append_timeout_s)
            epoch = file.epoch()
            if epoch is None or (standing.lineage and epoch.log not in known):
                raise ConfigError("--log", f"{path} is not a log of the stream {standing.stream}")
            if epoch.log not in {source.log for source in found}:
                found.append(Source(epoch.log, file, standing.stream, str(path)))
        return found

    def _elsewhere(self, standing: Standing, stack: ExitStack) -> list[Source]:
        """The newest log that the tables were written from, where `log.backend` was another one then."""
        if not standing.lineage:
            return []
        newest = standing.lineage[-1]
        if standing.log is not None and standing.log.log == newest.log:
            return []
        log = open_elsewhere(self._config, standing.stream, newest.epoch, self._clock)
        if log is None:
            return []
        stack.callback(log.close)
        return [Source(newest.log, log, standing.stream, "the log of the back end before")]

    def _newest_us(self, standing: Standing) -> int:
        """The newest ingestion time that anybody knows of: time goes on from there in the new log."""
        known = [0]
        for table in PLACED:
            name = f"{standing.stream}.{table}"
            if self._lake.find(name) is not None:
                known.append(self._lake.pin(name).upper_bound("_ingested_at") or 0)
        return max(known)

    # ── what is carried over ───────────────────────────────────────────────────────────────────────────────────────

    def _carry(self, standing: Standing, source: Source, partition: int, counts: dict[Kind, int]) -> int:
        """Carry over what the tables miss of a partition; returns up to which offset of the source that is."""
        events_from, rejects_from = self._starts(standing, source, partition)
        end = min(events_from, rejects_from)
        if standing.lineage and source.log == standing.lineage[-1].log:
            source.lost += max(0, source.bounds(partition).first - end)
        for records in source.records(partition, end):
            kept = [
                record
                for record in records
                if (record.kind == Kind.EVENTS and record.offset >= events_from)
                or (record.kind == Kind.REJECTS and record.offset >= rejects_from)
            ]
            if kept:
                self._log.carry(standing.stream, partition, kept)
            for record in kept:
                counts[record.kind] += record.rows
            end = records[-1].offset + 1
        return end

    def _starts(self, standing: Standing, source: Source, partition: int) -> tuple[int, int]:
        """From which offsets of a source on the tables miss (events, rejects)."""
        key = partition_key(partition)
        known = [life.log for life in standing.lineage]
        if known and source.log != known[-1]:
            later = standing.lineage[known.index(source.log) + 1]
            ends = [later.after.get(key, 0)]
            ends += [life.carried.get(source.log, {}).get(key, 0) for life in standing.lineage]
            return max(ends), max(ends)
        at, letters = standing.at("events", partition), standing.at("dead_letters", partition)
        bounds = source.bounds(partition)
        if at > bounds.end or self._differs(standing, source, partition, bounds):
            branch = self._branch(standing, source, partition, min(at, bounds.end))
            return branch, branch
        return at, max(at, letters)

    def _differs(self, standing: Standing, source: Source, partition: int, bounds: Bounds) -> bool:
        if standing.log is None or standing.log.log != source.log:
            return False
        try:
            return differs(self._log, standing, partition, bounds)
        except LogCorrupt:
            return False

    def _branch(self, standing: Standing, source: Source, partition: int, upto: int) -> int:
        """Where an older copy took new events: the first offset below `upto` that is not what the tables have read.

        A record is the same if the rows that the tables have from its offset were ingested when it was. One without
        rows may be either; it is taken for the same where a later one is the same.
        """
        times = self._times(standing, partition)
        same, doubt = 0, False
        for records in source.records(partition, 0):
            for record in records:
                if record.offset >= upto:
                    return same if doubt else upto
                found = times.get(record.offset)
                if found == record.ingested_at_us:
                    same, doubt = record.offset + 1, False
                elif found is not None:
                    return same
                elif record.kind != Kind.CONTROL:
                    doubt = True
        return same if doubt else upto

    def _times(self, standing: Standing, partition: int) -> dict[int, int]:
        """By offset, when the rows were ingested that the tables have of the newest epoch."""
        base = standing.lineage[-1].bases.get(partition_key(partition), 0) if standing.lineage else 0
        found: dict[int, int] = {}
        for table in ("events", "dead_letters"):
            plan = self._lake.pin(f"{standing.stream}.{table}").plan(Compare("_partition", "=", partition))
            for batch in plan.batches(["_partition", "_offset", "_ingested_at"]):
                mine: npt.NDArray[np.bool_] = batch.column("_partition").to_numpy() == partition
                offsets = batch.column("_offset").to_numpy()[mine]
                times = batch.column("_ingested_at").cast("int64").to_numpy()[mine]
                offsets, first = np.unique(offsets, return_index=True)
                kept = offsets >= base
                found.update(zip(offsets[kept].tolist(), times[first][kept].tolist(), strict=True))
        return found

    # ── the tables ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _move(self, standing: Standing, table: str, epochs: Lineage) -> None:
        """Move a table's progress on to the bases of the newest epoch, and say which log that is, in one commit."""
        name, bases = f"{standing.stream}.{table}", epochs[-1].bases
        if lineage.decode(self._lake.properties(name)) == epochs:
            return
        begins = {partition_key(p): standing.at(table, p) for p in range(self._log.partitions)}
        self._lake.commit(name, [], begins, dict(bases), Beside(properties=said(self._config, epochs)))
