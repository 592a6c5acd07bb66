"""The contract of `EventLog` over a log in Kafka; then what only a log in Kafka has to keep."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from eagleray.cluster.clock import ManualClock
from eagleray.cluster.errors import ConfigError, LogCorrupt, LogMismatch, LogUnavailable, OffsetOutOfRange
from eagleray.cluster.log.kafka import KafkaLog
from eagleray.cluster.log.protocol import Bounds, Epoch, Kind, Record
from eagleray.cluster.log.record import decode_batches, encode_batch
from eagleray.cluster.sections import LogConfig
from tests.contract.log_contract import MANY, EventLogContract, events, payloads
from tests.running_platform import eventually
from tests.servers.kafka import Brokers


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000)


@pytest.fixture
def open_another(kafka: Brokers, clock: ManualClock) -> Iterator[Callable[..., KafkaLog]]:
    """Opens logs of one project, each with connections of its own as another process would have."""
    prefix = uuid4().hex
    with ExitStack() as stack:

        def opened(**options: Any) -> KafkaLog:
            log = KafkaLog(log_config(kafka, prefix), options.pop("clock", clock), **options)
            return stack.enter_context(closing(log))

        yield opened


@pytest.fixture
def log(open_another: Callable[..., KafkaLog]) -> KafkaLog:
    return open_another()


def log_config(kafka: Brokers, prefix: str, partitions: int = 4, **settings: Any) -> LogConfig:
    """One copy of everything, as one broker allows."""
    of_kafka = {"topic_prefix": prefix, "replication": 1, "min_insync_replicas": 1, **settings}
    values = {"backend": "kafka", "brokers": kafka.addresses, "partitions": partitions, "kafka": of_kafka}
    values["append_timeout_s"] = 30.0  # the first one makes topics, maybe on a busy machine
    return LogConfig.model_validate(values)


class TestEventLog(EventLogContract):
    """All of it."""


def administer(kafka: Brokers, work: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> Any:
    """Do `work` as somebody who administers the cluster."""

    async def done() -> Any:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.addresses)
        await admin.start()
        try:
            return await work(admin)
        finally:
            await admin.close()

    return asyncio.run(done())


def topic_of(log: KafkaLog, stream: str = "s") -> str:
    """The topic of the stream's log."""
    epoch = log.epoch(stream)
    assert epoch is not None
    return log._topics.name(stream, epoch.log)


def delete(kafka: Brokers, topic: str) -> None:
    async def work(admin: AIOKafkaAdminClient) -> None:
        await admin.delete_topics([topic])
        while topic in await admin.list_topics():
            await asyncio.sleep(0.05)

    administer(kafka, work)


def make(kafka: Brokers, topic: str, partitions: int = 4) -> None:
    administer(kafka, lambda admin: admin.create_topics([NewTopic(topic, partitions, 1)]))


# -- whose topic it is ---------------------------------------------------------------------------------------------


def test_a_topic_that_was_deleted_takes_no_acks_and_is_not_made_again_by_appending(
    kafka: Brokers, log: KafkaLog
) -> None:
    log.append("s", events(0, b"a"))
    log.append("other", events(0, b"a"))
    topic = topic_of(log)
    delete(kafka, topic)
    for _ in range(2):
        with pytest.raises(LogMismatch, match=r"is gone: .*eagleray recover"):
            log.append("s", events(0, b"b"))
    assert isinstance(log.trouble("s"), LogMismatch)
    assert topic not in administer(kafka, lambda admin: admin.list_topics())  # though the broker would make it
    assert log.append("other", events(0, b"b")) == [1]


def test_a_topic_made_again_under_the_same_name_is_refused_by_who_had_it_open_and_by_who_opens_it(
    kafka: Brokers, open_another: Callable[..., KafkaLog]
) -> None:
    log = open_another()
    log.append("s", events(0, b"a", b"b"))
    epoch = log.epoch("s")
    assert epoch is not None
    topic = topic_of(log)
    bound = open_another(epochs={"s": epoch})
    assert bound.append("s", events(0, b"c")) == [2]
    delete(kafka, topic)
    make(kafka, topic)
    for one in (log, bound, open_another(epochs={"s": epoch})):
        for _ in range(5):  # not even when its offsets have passed the old ones
            with pytest.raises(LogMismatch):
                one.append("s", events(0, b"d"))


def test_a_log_that_is_expected_is_never_made_and_another_never_read(open_another: Callable[..., KafkaLog]) -> None:
    open_another().append("s", events(0, b"another"))
    bound = open_another(epochs={"s": Epoch("mine")})
    for work in (lambda: bound.append("s", events(0, b"a")), lambda: bound.bounds("s", 0), lambda: bound.epoch("s")):
        with pytest.raises(LogMismatch, match=r"s\.mine is gone"):
            work()
    with pytest.raises(LogMismatch, match="not one that the tables know"):
        bound.bounds("unheard", 0)


def test_another_number_of_partitions_is_refused_with_both_numbers(kafka: Brokers) -> None:
    prefix = uuid4().hex
    with closing(KafkaLog(log_config(kafka, prefix))) as log:
        log.append("s", events(0, b"a"))
        topic = topic_of(log)
    with pytest.raises(ConfigError, match=r"log.partitions: .* has 4 partitions, not 8"):
        KafkaLog(log_config(kafka, prefix, 8))
    administer(kafka, lambda admin: admin.create_partitions({topic: NewPartitions(6)}))
    with pytest.raises(ConfigError, match=r"has 6 partitions, not 4"):
        KafkaLog(log_config(kafka, prefix))


def test_another_projects_topics_are_refused_by_the_settings_name(kafka: Brokers) -> None:
    prefix = uuid4().hex
    with closing(KafkaLog(log_config(kafka, prefix), owner="one")) as log:
        log.append("s", events(0, b"a"))
    with pytest.raises(ConfigError, match=r"log.kafka.topic_prefix: .* are another project's"):
        KafkaLog(log_config(kafka, prefix), owner="two")
    KafkaLog(log_config(kafka, prefix), owner="one").close()


def test_more_copies_than_brokers_are_refused_with_both_numbers(kafka: Brokers) -> None:
    with closing(KafkaLog(log_config(kafka, uuid4().hex, replication=3, min_insync_replicas=2))) as log:
        with pytest.raises(ConfigError, match=r"log.kafka.replication: 3 copies .* and there are 1"):
            log.append("s", events(0, b"a"))


def test_topics_have_the_settings_that_promises_rest_on(kafka: Brokers) -> None:
    with closing(KafkaLog(log_config(kafka, uuid4().hex, topic_retention_hours=48.0))) as log:
        log.append("s", events(0, b"a"))
        found = log._connection.call(log._topics.settings_of(topic_of(log)), 10, "settings")
    assert found["cleanup.policy"] == "delete"
    assert found["retention.ms"] == str(48 * 3_600_000)
    assert found["unclean.leader.election.enable"] == "false"
    assert found["min.insync.replicas"] == "1"
    assert int(found["max.message.bytes"]) > LogConfig().kafka.record_bytes_max


def test_a_stream_that_was_dropped_has_no_topic_and_begins_anew(kafka: Brokers, log: KafkaLog) -> None:
    log.append("s", events(0, b"a"))
    topic = topic_of(log)
    log.drop("s")
    assert log.epoch("s") is None
    eventually(lambda: topic not in administer(kafka, lambda admin: admin.list_topics()))
    assert log.append("s", events(0, b"b")) == [0]
    assert topic_of(log) != topic


# -- what others do to a topic -------------------------------------------------------------------------------------


def test_a_record_of_others_stops_its_partition_and_no_other(kafka: Brokers, log: KafkaLog) -> None:
    log.append("s", [*events(0, b"a"), *events(1, b"a")])

    async def produce() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=kafka.addresses)
        await producer.start()
        await producer.send_and_wait(topic, b"hello", partition=0)
        await producer.stop()

    topic = topic_of(log)
    asyncio.run(produce())
    assert payloads(log, 0) == [b"a"]
    with pytest.raises(LogCorrupt, match="was not written by this log"):
        log.read("s", 0, 1, MANY)
    assert payloads(log, 1) == [b"a"]


def test_a_limit_that_was_lowered_costs_an_append_and_no_more(kafka: Brokers, log: KafkaLog) -> None:
    log.append("s", events(0, b"a"))
    before = log.record_bytes_max
    resource = ConfigResource(ConfigResourceType.TOPIC, topic_of(log), {"max.message.bytes": "300000"})
    administer(kafka, lambda admin: admin.alter_configs([resource]))
    large = os.urandom(400_000)
    with pytest.raises(LogUnavailable, match=r"(?i)size"):
        log.append("s", events(0, large))
    assert 200_000 < log.record_bytes_max < 300_000 < before  # validation splits by it from now on
    assert log.append("s", events(0, *(large[at : at + 200_000] for at in (0, 200_000)))) == [1, 2]


def test_records_that_went_by_retention_are_out_of_range_never_skipped(kafka: Brokers, log: KafkaLog) -> None:
    log.append("s", events(0, *(b"%d" % at for at in range(10))))
    place = TopicPartition(topic_of(log), 0)
    administer(kafka, lambda admin: admin.delete_records({place: RecordsToDelete(7)}))
    assert log.bounds("s", 0) == Bounds(7, 10)
    with pytest.raises(OffsetOutOfRange, match=r"offset 3 .* holds \[7, 10\)"):
        log.read("s", 0, 3, MANY)
    assert payloads(log, offset=7) == [b"7", b"8", b"9"]


# -- ingestion times -----------------------------------------------------------------------------------------------


def test_everybody_reads_the_same_times_however_clocks_differ_and_whatever_was_trimmed(
    open_another: Callable[..., KafkaLog],
) -> None:
    seconds = [5, 9, 2, 3, 9, 1, 12, 4, 11, 12, 13, 7]
    clocks = [ManualClock(1_000_000 * second) for second in seconds]
    appenders = [open_another(clock=clock) for clock in clocks]
    for at, appender in enumerate(appenders):
        assert appender.append("s", events(0, b"%d" % at)) == [at]
    log = open_another()
    expected = [1_000_000 * max(seconds[: at + 1]) for at in range(len(seconds))]
    assert [record.ingested_at_us for record in log.read("s", 0, 0, MANY)] == expected

    def each() -> list[int]:
        first, end = log.bounds("s", 0)
        return [open_another().read("s", 0, at, 1)[0].ingested_at_us for at in range(first, end)]

    assert each() == expected
    for before in (3, 6, 8, 12):
        log.trim("s", 0, before, 1_000_000 * 1000)
        assert each() == expected[log.bounds("s", 0).first :]
        assert log.newest_us("s", 0) == expected[-1]
    assert log.bounds("s", 0) == Bounds(10, 12)  # the last cut that changes no time


# -- sizes ---------------------------------------------------------------------------------------------------------


def test_a_record_that_is_carried_over_becomes_several_where_topics_take_less(kafka: Brokers) -> None:
    batch = pa.record_batch({"text": [os.urandom(4000).hex() for _ in range(400)]})
    with closing(KafkaLog(log_config(kafka, uuid4().hex, record_bytes_max=1 << 20))) as log:
        log.begin("s", Epoch("new", {"p0": 1 << 32}))
        log.carry("s", 0, [Record(7, Kind.EVENTS, 400, 5_000_000, encode_batch(batch))])
        log.activate("s")
        found = log.read("s", 0, 1 << 32, MANY)
        assert len(found) > 1 and [record.offset for record in found] == [(1 << 32) + at for at in range(len(found))]
        assert {record.ingested_at_us for record in found} == {5_000_000}
        assert sum(record.rows for record in found) == 400
        rows = decode_batches([record.payload for record in found], batch.schema)
        assert rows.to_batches()[0].equals(batch)


# -- what Kafka's own tools see ------------------------------------------------------------------------------------


def test_progress_of_the_tables_is_the_lag_of_a_consumer_group(kafka: Brokers, log: KafkaLog) -> None:
    log.append("s", [*events(0, b"a", b"b", b"c"), *events(1, b"d")])
    topic, group = topic_of(log), f"{log._settings.kafka.topic_prefix}.s"
    log.committed("s", {0: 2, 1: 1})

    def seen() -> dict[int, int]:
        try:
            offsets = administer(kafka, lambda admin: admin.list_consumer_group_offsets(group))
        except KafkaError:  # the topic of all groups is being made
            return {}
        return {place.partition: found.offset for place, found in offsets.items() if place.topic == topic}

    eventually(lambda: seen() == {0: 2, 1: 1})


# -- reopened ------------------------------------------------------------------------------------------------------


def test_records_and_epochs_survive_reopening(open_another: Callable[..., KafkaLog], clock: ManualClock) -> None:
    log = open_another()
    log.begin("s", Epoch("first", {"p0": 100}), 7_000_000)
    log.activate("s")
    assert log.append("s", events(0, b"a", b"b")) == [100, 101]
    epoch = log.epoch("s")
    assert epoch is not None and epoch.copy
    log.close()
    again = open_another(epochs={"s": epoch})
    assert again.bounds("s", 0) == Bounds(100, 102)
    assert [(r.offset, r.ingested_at_us) for r in again.read("s", 0, 101, MANY)] == [(101, 7_000_000)]
    assert again.append("s", events(0, b"c")) == [102]
