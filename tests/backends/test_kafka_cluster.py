"""A log on three brokers while one after the other is killed: leaders and controller change, copies go missing.

Appenders in threads note what was acked; nothing acked may be missing or there twice, whatever was not acked may be
either. Two copies must have each record, so with two brokers away nothing is acked.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from eagleray.cluster.errors import LogUnavailable
from eagleray.cluster.log.kafka import KafkaLog
from eagleray.cluster.sections import LogConfig
from tests.contract.log_contract import events, payloads
from tests.running_platform import eventually
from tests.servers.kafka import Brokers, kafka_brokers
from tests.servers.kafka import missing as no_kafka

# Connections that were being made when the time of an append was over are closed when they are collected.
_COLLECTED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
pytestmark = [pytest.mark.faults, _COLLECTED]

PARTITIONS = 3


class Load:
    """Threads that append, each to its own partition, and note what was acked."""

    def __init__(self, settings: LogConfig) -> None:
        self.log = KafkaLog(settings)
        self.acked: dict[int, dict[int, bytes]] = {partition: {} for partition in range(PARTITIONS)}
        self.failed = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._append, args=(partition,)) for partition in self.acked]
        for thread in self._threads:
            thread.start()

    def _append(self, partition: int) -> None:
        number = 0
        while not self._stop.wait(0.01):
            payload = b"%d-%d" % (partition, number)
            number += 1
            try:
                (offset,) = self.log.append("s", events(partition, payload))
            except LogUnavailable:
                self.failed += 1
            else:
                self.acked[partition][offset] = payload

    def counts(self) -> list[int]:
        return [len(found) for found in self.acked.values()]

    def assert_all_go_on(self, within_s: float = 90) -> None:
        before = self.counts()
        eventually(lambda: all(now > then + 5 for now, then in zip(self.counts(), before, strict=True)), within_s)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.log.close()


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    if why := no_kafka():
        pytest.skip(why)
    place: Path = tmp_path_factory.mktemp("three")
    with kafka_brokers(place, 3, {"broker.session.timeout.ms": "3000"}) as running:
        yield running


def test_each_broker_killed_in_turn_loses_nothing_and_with_two_away_nothing_is_acked(brokers: Brokers) -> None:
    values = {"backend": "kafka", "brokers": brokers.addresses, "partitions": PARTITIONS, "append_timeout_s": 10.0}
    settings = LogConfig.model_validate({**values, "kafka": {"topic_prefix": uuid4().hex}})
    with closing(KafkaLog(settings)) as first:
        eventually(lambda: _appended(first), 90)
    load = Load(settings)
    try:
        load.assert_all_go_on()
        # 1. leaders and the controller change
        for server in brokers.servers:
            server.kill()
            load.assert_all_go_on()
            server.start()
            load.assert_all_go_on()
        # 2. one copy is not enough
        for server in brokers.servers[1:]:
            server.kill()
        failed = load.failed
        eventually(lambda: load.failed >= failed + 2 * PARTITIONS, 90)
        before, failed = load.counts(), load.failed
        eventually(lambda: load.failed >= failed + PARTITIONS, 90)
        assert load.counts() == before
        for server in brokers.servers[1:]:
            server.start()
        load.assert_all_go_on()
    finally:
        load.end()
    with closing(KafkaLog(settings)) as log:
        for partition, acked in load.acked.items():
            first_offset, end = log.bounds("s", partition)
            found: list[bytes] = []
            while first_offset + len(found) < end:
                found += payloads(log, partition, first_offset + len(found))
            assert {offset: found[offset - first_offset] for offset in acked} == acked
            assert len(found) == len(set(found))
    gc.collect()


def _appended(log: KafkaLog) -> bool:
    try:
        return len(log.append("s", events(0, b"first"))) == 1
    except LogUnavailable:
        return False
