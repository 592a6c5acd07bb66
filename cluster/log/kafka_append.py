"""Appends records to topics: acks of all in-sync replicas, idempotent, compressed. Used by `kafka`.

One producer serves all threads: what they send while a request is under way goes into the next one together. Where a
send fails or takes too long, everything that waits with it fails, and the next append begins with another producer.
What was sent may still be written then, and is not acked. A topic that is not there is never made by sending to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from eagleray.cluster.errors import LogUnavailable
from eagleray.cluster.log.kafka_connection import Connection

BATCH_BYTES_MAX = 1 << 20  # of records that wait for a request; a larger record is a batch of its own
ENVELOPE_BYTES = 64 << 10  # of a batch beyond its largest record: headers, keys, compression that gains nothing
RETRY_MS = 50  # before a broker that refused for now, or a new leader, is asked again


class Outgoing(NamedTuple):
    """A record to be sent."""

    partition: int
    key: bytes
    payload: bytes


class Appender:
    """The producer of one log. Its methods run on the connection's loop."""

    def __init__(self, connection: Connection) -> None:
        """Nothing is started yet."""
        self._connection = connection
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()
        self.batch_bytes_max = BATCH_BYTES_MAX  # of the next producer

    async def send(self, topic: str, records: Sequence[Outgoing], time_ms: int) -> list[int]:
        """Kafka's offset of each record, once all in-sync replicas have it; the caller limits the time.

        Raises KafkaError, LogUnavailable.
        """
        producer = await self._ready(topic)
        sent: list[asyncio.Future[Any]] = []
        try:
            for record in records:
                future = await producer.send(
                    topic, record.payload, record.key, partition=record.partition, timestamp_ms=time_ms
                )
                future.add_done_callback(_heard)
                sent.append(future)
            await asyncio.wait(sent)
            offsets = [future.result().offset for future in sent]
        except BaseException:
            self._replace(producer)
            raise
        if min(offsets) < 0:  # a repeated send that the broker has forgotten the offset of
            raise LogUnavailable(f"{topic}: the brokers do not say where records went; nothing is acked")
        return offsets

    async def _ready(self, topic: str) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                self._producer = await self._started()
            producer = self._producer
        cluster = producer.client.cluster
        if cluster.partitions_for_topic(topic) is None:
            await producer.client.force_metadata_update()
            if cluster.partitions_for_topic(topic) is None:
                raise UnknownTopicOrPartitionError(topic)
        return producer

    async def _started(self) -> AIOKafkaProducer:
        kafka = self._connection.settings.kafka
        producer = self._connection.producer(
            acks="all",
            enable_idempotence=True,
            compression_type=None if kafka.compression == "none" else kafka.compression,
            max_batch_size=self.batch_bytes_max,
            max_request_size=kafka.record_bytes_max + ENVELOPE_BYTES,
            retry_backoff_ms=RETRY_MS,
        )
        try:
            await producer.start()
            await producer.client.force_metadata_update()  # of all topics: one that is asked for by name may be made
        except BaseException:
            self._replace(producer)
            raise
        return producer

    def _replace(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            self._producer = None
        ending = asyncio.get_running_loop().create_task(_end(producer))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Release the producer; what is under way fails."""
        if self._producer is not None:
            self._replace(self._producer)
        await asyncio.gather(*self._ending, return_exceptions=True)


async def _end(producer: AIOKafkaProducer) -> None:
    # Without this, stopping would wait for brokers that do not answer, and keep all that was sent until they do.
    producer._message_accumulator.fail_all(KafkaError("not acked in time"))
    with suppress(KafkaError, OSError):
        await producer.stop()


def _heard(future: asyncio.Future[Any]) -> None:
    """Nobody may be left to ask for the outcome."""
    if not future.cancelled():
        future.exception()
