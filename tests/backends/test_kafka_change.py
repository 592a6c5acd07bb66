"""A project whose log moves to Kafka and back, whose topic is deleted, or whose records go before they are stored.

Validation, writer, tables and recovery are the real ones, in this process; the broker is real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from eagleray.actors.committer import Committer
from eagleray.cluster.errors import LogMismatch
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.sections import LogConfig
from tests.acking_project import AckingProject
from tests.servers.kafka import Brokers


def in_kafka(kafka: Brokers, prefix: str) -> LogConfig:
    settings = {"topic_prefix": prefix, "replication": 1, "min_insync_replicas": 1}
    values = {"backend": "kafka", "brokers": kafka.addresses, "partitions": 1, "kafka": settings}
    return LogConfig.model_validate({**values, "append_timeout_s": 30.0})


def move(project: AckingProject, log: LogConfig) -> None:
    project.config = project.config.model_copy(update={"log": log})


@pytest.fixture
def project(kafka: Brokers, tmp_path: Path) -> Iterator[AckingProject]:
    """Its log is in Kafka."""
    made = AckingProject(tmp_path / "project")
    move(made, in_kafka(kafka, uuid4().hex))
    made.up()
    yield made
    made.down()


def administer(kafka: Brokers, work: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> None:
    async def done() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.addresses)
        await admin.start()
        await work(admin)
        await admin.close()

    asyncio.run(done())


def topic(project: AckingProject) -> str:
    return f"{project.config.log.kafka.topic_prefix}.s.{project.bound.epochs['s'].log}"


def test_a_log_moves_to_kafka_and_back_with_events_pending(kafka: Brokers, tmp_path: Path) -> None:
    project = AckingProject(tmp_path / "project")
    project.up()
    project.send(1, 2)
    project.store()
    project.send(3, 4)
    project.reject(b"{pending")
    project.down()
    files, brokers = project.config.log, in_kafka(kafka, uuid4().hex)
    # 1. to Kafka: refused with the way out, then carried over
    move(project, brokers)
    with pytest.raises(LogMismatch, match=r"in Kafka is not there yet, .*records\.db it seems: `eagleray recover`"):
        project.up()
    done = project.recover()
    assert done is not None and (done.events, done.rejects, done.lost) == (2, 1, 0)
    project.recover("free")
    project.up()
    assert project.send(5) == 1
    project.send(1, 3)  # again, within the horizon
    project.store()
    assert project.numbers() == [1, 2, 3, 4, 5]
    assert project.letters() == [b"{pending"]
    offsets = project.offsets()
    assert offsets[2] < offsets[3] < offsets[5]
    # 2. back to files, with the brokers still named, so that what they hold is found
    project.send(6, 7)
    project.down()
    move(project, files.model_copy(update={"brokers": brokers.brokers, "kafka": brokers.kafka}))
    with pytest.raises(LogMismatch, match=r"is an earlier log of this stream"):
        project.up()
    done = project.recover()
    assert done is not None and (done.events, done.rejects) == (2, 0)
    project.recover("free")
    project.up()
    project.send(8)
    project.send(5, 6)  # again
    project.store()
    assert project.numbers() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert project.offsets()[8] > project.offsets()[5] > offsets[2]
    assert project.recover() is None
    project.down()
    # 3. and to Kafka again: another topic, above everything
    move(project, brokers)
    with pytest.raises(LogMismatch, match=r"is an earlier log of this stream"):
        project.up()
    project.recover()
    project.recover("free")
    project.up()
    project.send(9)
    project.store()
    assert project.numbers() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert project.offsets()[9] > project.offsets()[8]
    project.down()


def test_a_platform_that_starts_again_goes_on(project: AckingProject) -> None:
    project.send(1, 2)
    project.store()
    project.send(3)
    project.down()
    project.up()
    project.send(4)
    project.store()
    assert project.numbers() == [1, 2, 3, 4]
    assert project.recover() is None


def test_a_topic_that_was_deleted_is_refused_and_recovered_above_all_old_offsets(
    kafka: Brokers, project: AckingProject
) -> None:
    for number in (1, 2, 3):
        project.send(number)
    project.store()
    administer(kafka, lambda admin: admin.delete_topics([topic(project)]))
    with pytest.raises(LogMismatch, match="is gone"):
        project.send(4)
    project.down()
    with pytest.raises(LogMismatch, match=r"is gone: .*eagleray recover"):
        project.up()
    done = project.recover()
    assert done is not None and (done.events, done.rejects) == (0, 0)
    project.up()
    for number in (100, 101):
        assert project.send(number) == 1
    project.send(2)  # again, within the horizon
    project.store()
    assert project.numbers() == [1, 2, 3, 100, 101]
    assert project.offsets()[100] > project.offsets()[3]


def test_records_deleted_before_they_were_stored_are_said_counted_and_never_skipped(
    kafka: Brokers, project: AckingProject
) -> None:
    for number in (1, 2):
        project.send(number)
    project.store()
    for number in (3, 4, 5, 6):
        project.send(number)
    place = TopicPartition(topic(project), 0)
    administer(kafka, lambda admin: admin.delete_records({place: RecordsToDelete(5)}))
    # while it runs
    committer = Committer(project.bound, project.clock)
    asyncio.run(committer.overtaken_round())
    assert committer.counters["log_overtaken_records{stream=s,partition=0}"] == 3
    problem = asyncio.run(committer.status())["partitions"]
    assert [row["problem"]["code"] for row in problem if row["stream"] == "s"] == ["log_overtaken"]
    committer.log.close()
    with pytest.raises(AssertionError, match="does not get to the end"):
        project.store()
    assert project.numbers() == [1, 2]
    project.down()
    # at the next start
    with pytest.raises(LogMismatch, match=r"the 3 records between are in neither"):
        project.up()
    done = project.recover()
    assert done is not None and (done.events, done.lost) == (1, 3)
    project.up()
    project.send(7)
    project.store()
    assert project.numbers() == [1, 2, 6, 7]


def test_what_all_tables_have_is_trimmed_and_the_rest_stays(project: AckingProject) -> None:
    for number in range(10):
        project.send(number)
    project.store()
    project.send(10)
    with closing(open_log(project.bound, project.clock)) as log:
        newest = log.newest_us("s", 0)
        assert log.trim("s", 0, 10, newest) > 0
        first, end = log.bounds("s", 0)
    assert 0 < first <= 10 and end == 11
    project.down()
    project.up()
    project.store()
    assert project.numbers() == list(range(11))
