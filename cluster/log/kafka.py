"""The event log in Kafka, for one machine or many: a topic for each log of a stream (ADR 27). `backends` opens it.

An offset is the base of its epoch plus Kafka's own. What holds for each append, in this order:

1. the topic is the one that was found at first: same name, same id, as many partitions
2. all in-sync replicas have the records, within `append_timeout_s`
3. each offset that came back is at or above the end that was known before; below it, the topic is another one, and this
   process acks nothing any more

No transactions and no compaction: they would leave gaps, and a gap stops a reader (LogCorrupt), as does a record that
something else wrote.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka.errors import KafkaError, MessageSizeTooLargeError, OffsetOutOfRangeError

from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.errors import (
    ConfigError,
    EaglerayError,
    LogCorrupt,
    LogMismatch,
    LogUnavailable,
    OffsetOutOfRange,
)
from eagleray.cluster.log.ingest_clock import Anchor, IngestClock
from eagleray.cluster.log.kafka_append import ENVELOPE_BYTES, Appender, Outgoing
from eagleray.cluster.log.kafka_connection import Connection
from eagleray.cluster.log.kafka_group import Group
from eagleray.cluster.log.kafka_read import Partition, Raw, Times, log_number, stamp, to_ms
from eagleray.cluster.log.kafka_topics import Register, Registered, Topics
from eagleray.cluster.log.protocol import Bounds, Entry, Epoch, Record, draw_identity, partition_key
from eagleray.cluster.log.record import split_payload
from eagleray.cluster.sections import LogConfig

T = TypeVar("T")

LOOK_EVERY_S = 5.0  # between looks, beside appends, whether a topic is still the same
LOOK_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 5.0  # a leader that was lost is replaced by then, or the reader tries again
ASK_AGAIN_S = 1.0  # readers ask brokers that did not answer so much later, one of them at a time
MAKE_TIMEOUT_S = 30.0  # of topics that are made, and of what is carried over
_REPLACED = "put nothing in its place: stop the platform and run `eagleray recover`; nothing was acked"


@dataclass(frozen=True)
class _Place:
    """A log of a stream, and its topic."""

    registered: Registered
    topic: str
    id: str
    partitions: tuple[Partition, ...]

    def base(self, partition: int) -> int:
        """The first offset of a partition."""
        return self.registered.bases.get(partition_key(partition), 0)

    @property
    def epoch(self) -> Epoch:
        """As the protocol knows it."""
        return Epoch(self.registered.log, self.registered.bases, self.id)


class KafkaLog:
    """An `EventLog` in topics of a Kafka cluster."""

    def __init__(
        self,
        settings: LogConfig,
        clock: Clock | None = None,
        epochs: Mapping[str, Epoch] | None = None,
        anchor: Anchor | None = None,
        owner: str = "",
    ) -> None:
        """Connect. Raises ConfigError where a topic has another number of partitions, or is another project's.

        `epochs` are the streams' logs as the tables know them: no other topic is read or written, and none is made;
        brokers that are away are then no error before they are needed. `owner` tells the project from others.
        """
        self._settings = settings
        self._epochs = epochs
        self._clock = IngestClock(clock or SystemClock(), anchor)
        self._connection = Connection(settings)
        self._appender = Appender(self._connection)
        self._topics = Topics(self._connection, self._appender, owner)
        self._group = Group(self._connection)
        self._times = Times()
        self._places: dict[str, _Place] = {}
        self._beginning = asyncio.Lock()
        # Invariant: what a partition was seen to end at, by stream and partition; a topic that ends earlier is another.
        self._ends: dict[tuple[str, int], int] = {}
        self._wrong: dict[str, LogMismatch] = {}  # streams that this process acks nothing of any more
        self._looked: dict[str, float] = {}
        # Why the brokers did not answer, and until when nobody but one asks again: readers of many partitions would
        # otherwise wait one after the other, and stand still for minutes.
        self._away: tuple[str, float] | None = None
        self._left: dict[tuple[str, int], list[Raw]] = {}  # of the last read, beyond what it was asked for
        self._record_bytes_max = settings.kafka.record_bytes_max
        if epochs is None:
            try:
                self._call(self._check_all(), self._settings.append_timeout_s, "open the log")
            except BaseException:
                self.close()
                raise
        else:
            self._connection.post(self._warm())

    @property
    def partitions(self) -> int:
        """Partitions of every stream."""
        return self._settings.partitions

    @property
    def record_bytes_max(self) -> int:
        """The largest payload that an entry may have."""
        return self._record_bytes_max

    # -- what everybody does ---------------------------------------------------------------------------------------

    def append(self, stream: str, entries: Sequence[Entry]) -> list[int]:
        """Append and return one offset per entry, once all in-sync replicas have it; see `EventLog.append`."""
        for entry in entries:
            self._check(entry.partition)
        if not entries:
            return []
        now_us = self._clock.now_us()
        timeout_s = self._settings.append_timeout_s
        try:
            return self._call(self._append(stream, entries, now_us), timeout_s, f"log {stream}: append")
        except LogMismatch:
            raise
        except LogUnavailable:
            if (problem := self.trouble(stream)) is not None and isinstance(problem, LogMismatch):
                raise problem from None
            raise

    def read(self, stream: str, partition: int, offset: int, max_bytes: int) -> list[Record]:
        """Records from `offset` on; see `EventLog.read`."""
        self._check(partition)
        work = self._read(stream, partition, offset, max_bytes)
        return self._ask(work, f"log {stream}/{partition}: read")

    def bounds(self, stream: str, partition: int) -> Bounds:
        """The offsets held now; see `EventLog.bounds`."""
        self._check(partition)
        return self._ask(self._bounds(stream, partition), f"log {stream}/{partition}: ends")

    def trim(self, stream: str, partition: int, before_offset: int, older_than_us: int) -> int:
        """Delete old records; see `EventLog.trim`. The newest record stays: ingestion times go on from it."""
        self._check(partition)
        work = self._trim(stream, partition, before_offset, older_than_us)
        return self._ask(work, f"log {stream}/{partition}: trim")

    def newest_us(self, stream: str, partition: int) -> int:
        """When the newest record was ingested; see `EventLog.newest_us`."""
        self._check(partition)
        return self._ask(self._newest(stream, partition), f"log {stream}/{partition}: end")

    def committed(self, stream: str, ends: Mapping[int, int]) -> None:
        """Commit to the stream's consumer group how far the tables have read; see `EventLog.committed`."""
        self._connection.post(self._tell(stream, dict(ends)))

    def trouble(self, stream: str) -> LogUnavailable | LogCorrupt | None:
        """Whether the brokers answer and the topic is still the same; see `EventLog.trouble`."""
        try:
            self._clock.now_us()
            self._call(self._look(stream), LOOK_TIMEOUT_S, f"log {stream}")
        except (LogUnavailable, LogCorrupt) as error:
            return error
        except ConfigError as error:
            return LogUnavailable(str(error))
        return None

    def close(self) -> None:
        """Release connections and the thread; what is under way fails."""
        self._connection.close(self._appender.close(), self._group.finish())

    # -- epochs ----------------------------------------------------------------------------------------------------

    def epoch(self, stream: str) -> Epoch | None:
        """The stream's log now; see `EventLog.epoch`."""
        place = self._call(self._find(stream, afresh=True), READ_TIMEOUT_S, f"log {stream}: find")
        return place.epoch if place is not None else None

    def begin(self, stream: str, epoch: Epoch, ingested_at_us: int = 0) -> None:
        """Make a topic aside; see `EventLog.begin`."""
        self._call(self._begin(stream, epoch, ingested_at_us), MAKE_TIMEOUT_S, f"log {stream}: begin")

    def begun(self, stream: str) -> Epoch | None:
        """The log made aside; see `EventLog.begun`."""
        aside = self._call(self._aside(stream), READ_TIMEOUT_S, f"log {stream}: find")
        return aside.epoch if aside is not None else None

    def carry(self, stream: str, partition: int, records: Sequence[Record]) -> None:
        """Append records of an earlier log; see `EventLog.carry`. A larger one than a topic takes becomes several."""
        self._check(partition)
        work = self._carry(stream, partition, records)
        self._call(work, MAKE_TIMEOUT_S, f"log {stream}/{partition}: carry over")

    def activate(self, stream: str) -> None:
        """Put the log made aside in place; see `EventLog.activate`. The topic of the one before it stays."""
        self._call(self._activate(stream), MAKE_TIMEOUT_S, f"log {stream}: activate")

    def drop(self, stream: str) -> None:
        """Delete every topic of the stream; it has no log then."""
        self._call(self._drop(stream), MAKE_TIMEOUT_S, f"log {stream}: drop")

    # -- on the loop: finding --------------------------------------------------------------------------------------

    async def _check_all(self) -> None:
        """Before anything else: every log that is in place has as many partitions as are configured."""
        for registered in (await self._topics.register()).now.values():
            with suppress(LogMismatch):  # said when it is used
                await self._open(registered, "")

    async def _find(self, stream: str, afresh: bool = False, to_append: bool = False) -> _Place | None:
        """The stream's log; None before it has one. Raises LogMismatch.

        Where nobody expects a certain log, one whose topic is gone is none, except for who wants to append.
        """
        if (wrong := self._wrong.get(stream)) is not None:
            raise LogMismatch(str(wrong))
        place = self._places.get(stream)
        if place is not None and not afresh:
            return place
        register = await self._topics.register()
        if self._epochs is None:
            registered, topic_id = register.now.get(stream), ""
        else:
            registered, topic_id = self._expected(stream, register)
        if registered is None:
            return None
        try:
            place = self._places[stream] = await self._open(registered, topic_id)
        except LogMismatch:
            if self._epochs is not None or to_append:
                raise
            return None
        return place

    def _expected(self, stream: str, register: Register) -> tuple[Registered, str]:
        assert self._epochs is not None
        epoch = self._epochs.get(stream)
        if epoch is None:
            raise LogMismatch(f"log {stream} is not one that the tables know: {_REPLACED}")
        known = [one for one in register.every if (one.stream, one.log) == (stream, epoch.log)]
        return (known[-1] if known else Registered(stream, epoch.log, epoch.bases)), epoch.copy

    async def _open(self, registered: Registered, topic_id: str) -> _Place:
        """Raises LogMismatch where the topic is gone or another one, ConfigError where it has other partitions."""
        name = self._topics.name(registered.stream, registered.log)
        topic = (await self._connection.describe(name)).topics.get(name)
        if topic is None:
            raise LogMismatch(f"topic {name} is gone: {_REPLACED}")
        if topic_id and topic.id != topic_id:
            raise LogMismatch(f"topic {name} was deleted and made again: {_REPLACED}")
        if topic.partitions != self.partitions:
            problem = f"topic {name} has {topic.partitions} partitions, not {self.partitions}"
            raise ConfigError("log.partitions", f"{problem}; keep the number that it was made with")
        number, since_ms = log_number(registered.log), to_ms(registered.since_us)
        parts = (Partition(self._connection, name, at, number, since_ms) for at in range(self.partitions))
        return _Place(registered, name, topic.id, tuple(parts))

    async def _look(self, stream: str) -> None:
        """Raises LogMismatch, for good, where the topic is not the one that was found at first; LogUnavailable."""
        place = await self._find(stream)
        if place is None:
            await self._connection.describe()
            return
        topic = (await self._connection.describe(place.topic)).topics.get(place.topic)
        if topic is None or topic.id != place.id:
            what = "is gone" if topic is None else "was deleted and made again"
            raise self._never_again(stream, f"topic {place.topic} {what}: {_REPLACED}")

    def _never_again(self, stream: str, problem: str) -> LogMismatch:
        return self._wrong.setdefault(stream, LogMismatch(problem))

    # -- on the loop: appending and reading ------------------------------------------------------------------------

    async def _append(self, stream: str, entries: Sequence[Entry], now_us: int) -> list[int]:
        place = await self._find(stream, to_append=True) or await self._first(stream)
        self._look_beside(stream)
        befores = [await self._end(stream, place, entry.partition) for entry in entries]
        number = log_number(place.registered.log)
        outgoing = [Outgoing(entry.partition, stamp(entry, number), bytes(entry.payload)) for entry in entries]
        try:
            offsets = await self._appender.send(place.topic, outgoing, to_ms(now_us))
        except MessageSizeTooLargeError:
            await self._learn_limit(place.topic)
            raise
        for entry, before, offset in zip(entries, befores, offsets, strict=True):
            if offset < before:
                what = f"topic {place.topic} ended at {before} in partition {entry.partition}, and now at {offset}"
                raise self._never_again(stream, f"{what}: {_REPLACED}")
            self._ends[stream, entry.partition] = max(self._ends[stream, entry.partition], offset + 1)
        return [place.base(entry.partition) + offset for entry, offset in zip(entries, offsets, strict=True)]

    async def _end(self, stream: str, place: _Place, partition: int) -> int:
        found = self._ends.get((stream, partition))
        if found is None:
            found = (await place.partitions[partition].bounds()).end
            found = self._ends[stream, partition] = max(found, self._ends.get((stream, partition), 0))
        return found

    async def _first(self, stream: str) -> _Place:
        async with self._beginning:  # of appends that find no log at once, one begins it
            if (place := await self._find(stream, to_append=True)) is None:
                await self._begin(stream, Epoch(draw_identity()), 0)
                await self._activate(stream)
                place = await self._find(stream)
        assert place is not None
        return place

    def _look_beside(self, stream: str) -> None:
        """A topic that was replaced is noticed within LOOK_EVERY_S, whatever the offsets say."""
        now = time.monotonic()
        if now - self._looked.setdefault(stream, now) > LOOK_EVERY_S:
            self._looked[stream] = now
            self._connection.post(self._look_quietly(stream))

    async def _look_quietly(self, stream: str) -> None:
        with suppress(LogUnavailable, KafkaError, OSError):
            await self._look(stream)

    async def _learn_limit(self, topic: str) -> None:
        """Somebody lowered the topic's limit: records are split to fit it from now on."""
        text = (await self._topics.settings_of(topic)).get("max.message.bytes", "")
        if text.isdigit():
            self._record_bytes_max = min(self._record_bytes_max, max(1, int(text) - ENVELOPE_BYTES))
            self._appender.batch_bytes_max = min(self._appender.batch_bytes_max, self._record_bytes_max)

    async def _read(self, stream: str, partition: int, offset: int, max_bytes: int) -> list[Record]:
        place = await self._find(stream)
        if place is None:
            self._check_end(stream, partition, offset, Bounds(0, 0))
            return []
        base = place.base(partition)
        raw = self._left.pop((stream, partition), [])
        if not raw or raw[0].offset != offset - base:
            raw = await self._fetch(stream, place, partition, offset, max_bytes)
        size, count = 0, 0
        for record in raw:
            size += len(record.payload)
            if count and size > max_bytes:
                self._left[stream, partition] = raw[count:]
                break
            count += 1
        times = await self._times.of(place.partitions[partition], raw[:count])
        return [
            Record(base + one.offset, one.kind, one.rows, time_us, one.payload)
            for one, time_us in zip(raw[:count], times, strict=True)
        ]

    async def _fetch(self, stream: str, place: _Place, partition: int, offset: int, max_bytes: int) -> list[Raw]:
        base = place.base(partition)
        try:
            if offset < base:
                raise OffsetOutOfRangeError
            found = await place.partitions[partition].fetch(offset - base, max_bytes)
        except OffsetOutOfRangeError:
            self._check_end(stream, partition, offset, await self._bounds(stream, partition))
            return []
        if not found.records and found.damage:
            where = f" (its own offset plus {base})" if base else ""
            raise LogCorrupt(f"log {stream}/{partition}: topic {place.topic}: {found.damage}{where}")
        return found.records

    def _check_end(self, stream: str, partition: int, offset: int, bounds: Bounds) -> None:
        if offset != bounds.end:
            held = f"which holds [{bounds.first}, {bounds.end})"
            raise OffsetOutOfRange(f"log {stream}/{partition}: offset {offset} is not in the log, {held}")

    async def _bounds(self, stream: str, partition: int) -> Bounds:
        place = await self._find(stream)
        if place is None:
            return Bounds(0, 0)
        base, held = place.base(partition), await place.partitions[partition].bounds()
        return Bounds(base + held.first, base + held.end)

    async def _trim(self, stream: str, partition: int, before_offset: int, older_than_us: int) -> int:
        place = await self._find(stream)
        if place is None:
            return 0
        part = place.partitions[partition]
        held = await part.bounds()
        if held.first == held.end:
            return 0
        cut = await part.cut(before_offset - place.base(partition), to_ms(older_than_us))
        if cut > held.first:
            await part.delete(cut)
        return max(0, cut - held.first)

    async def _newest(self, stream: str, partition: int) -> int:
        place = await self._find(stream)
        if place is None:
            return 0
        part = place.partitions[partition]
        held = await part.bounds()
        if held.first == held.end:
            return part.since_ms * 1000
        newest = (await part.fetch(held.end - 1, 1)).records
        return 1000 * await self._times.before(part, newest[0]) if newest else 0

    async def _tell(self, stream: str, ends: Mapping[int, int]) -> None:
        with suppress(EaglerayError, KafkaError, OSError):  # the next one says it
            if (place := await self._find(stream)) is not None:
                offsets = {partition: end - place.base(partition) for partition, end in ends.items()}
                await self._group.commit(f"{self._settings.kafka.topic_prefix}.{stream}", place.topic, offsets)

    # -- on the loop: epochs ---------------------------------------------------------------------------------------

    async def _begin(self, stream: str, epoch: Epoch, ingested_at_us: int) -> None:
        """Make the topic, then register it: one that is registered is there."""
        dropped = (await self._topics.register()).begun.get(stream)
        name = self._topics.name(stream, epoch.log)
        await self._topics.make(name, self.partitions, self._settings.kafka.topic_retention_hours)
        registered = Registered(stream, epoch.log, dict(epoch.bases), ingested_at_us)
        await self._topics.write("begun", registered, to_ms(self._clock.now_us()))
        if dropped is not None and dropped.log != epoch.log:
            with suppress(LogUnavailable):  # it costs room, and nobody knows it any more
                await self._topics.remove(self._topics.name(stream, dropped.log))

    async def _aside(self, stream: str) -> _Place | None:
        registered = (await self._topics.register()).begun.get(stream)
        return await self._open(registered, "") if registered is not None else None

    async def _made_aside(self, stream: str) -> _Place:
        place = await self._aside(stream)
        if place is None:
            raise LogUnavailable(f"log {stream}: nothing was made aside; nothing was changed")
        return place

    async def _carry(self, stream: str, partition: int, records: Sequence[Record]) -> None:
        place = await self._made_aside(stream)
        number = log_number(place.registered.log)
        for record in records:
            pieces = split_payload(record.payload, record.rows, self._record_bytes_max, record.kind)
            entries = [Entry(partition, record.kind, rows, payload) for rows, payload in pieces]
            outgoing = [Outgoing(partition, stamp(entry, number), bytes(entry.payload)) for entry in entries]
            await self._appender.send(place.topic, outgoing, to_ms(record.ingested_at_us))

    async def _activate(self, stream: str) -> None:
        place = await self._made_aside(stream)
        await self._topics.write("now", place.registered, to_ms(self._clock.now_us()))
        self._forget(stream)

    async def _drop(self, stream: str) -> None:
        """Out of the register first: what was deleted and is still registered would be missed."""
        register = await self._topics.register()
        logs = [one for one in register.every if one.stream == stream]
        if logs:
            await self._topics.write("gone", logs[-1], to_ms(self._clock.now_us()))
        for one in logs:
            await self._topics.remove(self._topics.name(stream, one.log))
        self._forget(stream)

    def _forget(self, stream: str) -> None:
        self._places.pop(stream, None)
        for key in [key for key in self._ends if key[0] == stream]:
            del self._ends[key]

    async def _warm(self) -> None:
        """Find the streams' logs before somebody waits for it."""
        for stream in self._epochs or ():
            with suppress(EaglerayError, KafkaError, OSError):  # said when it is used
                await self._find(stream)

    def _ask(self, work: Coroutine[Any, Any, T], doing: str) -> T:
        """As `_call`, for readers; fails at once while the brokers are known to be away."""
        away, now = self._away, time.monotonic()
        if away is not None and now < away[1]:
            work.close()
            raise LogUnavailable(f"{doing}: {away[0]}")
        if away is not None:
            self._away = (away[0], now + READ_TIMEOUT_S)  # this one asks; others do not wait with it
        away = None
        try:
            return self._call(work, READ_TIMEOUT_S, doing)
        except LogUnavailable as error:
            if not isinstance(error, LogMismatch):
                away = (str(error), time.monotonic() + ASK_AGAIN_S)
            raise
        finally:
            self._away = away

    def _call(self, work: Coroutine[Any, Any, T], timeout_s: float, doing: str) -> T:
        try:
            return self._connection.call(work, timeout_s, doing)
        except ConfigError as error:
            if self._epochs is None:
                raise
            raise LogUnavailable(str(error)) from error  # it was right when the platform started

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self.partitions:
            raise ValueError(f"partition {partition} of {self.partitions}")
