"""The topics of a log in Kafka: one for each log of a stream, and a register of which it has now. Used by `kafka`.

A log's topic is called PREFIX.STREAM.IDENTITY, so no log ever follows another under the same name. PREFIX.logs is the
register: what was begun and what was put in place, in order, and for which project.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidReplicationFactorError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from eagleray.cluster.errors import ConfigError, LogCorrupt, LogUnavailable
from eagleray.cluster.log.kafka_append import ENVELOPE_BYTES, Appender, Outgoing
from eagleray.cluster.log.kafka_connection import Connection
from eagleray.cluster.log.kafka_read import Partition, log_number, stamp
from eagleray.cluster.log.protocol import Entry, Epoch, Kind
from eagleray.cluster.log.record import decode_control, encode_control

HOUR_MS = 3_600_000
LOOK_S = 0.05  # between looks at a topic that is being made
_FOR_EVER = str((1 << 63) - 1)
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Registered:
    """A log of a stream. `since_us`: no ingestion time in it is before."""

    stream: str
    log: str
    bases: Mapping[str, int] = field(default_factory=dict)
    since_us: int = 0

    @property
    def epoch(self) -> Epoch:
        """As the protocol knows it."""
        return Epoch(self.log, self.bases)


@dataclass(frozen=True)
class Register:
    """What PREFIX.logs says: by stream, the log that it has, and one that was begun and not put in place."""

    now: Mapping[str, Registered] = field(default_factory=dict)
    begun: Mapping[str, Registered] = field(default_factory=dict)
    every: tuple[Registered, ...] = ()
    owner: str = ""


class Topics:
    """Makes and finds the topics of one log; its methods run on the connection's loop."""

    def __init__(self, connection: Connection, appender: Appender, owner: str) -> None:
        """`owner` tells the project from others that use the same brokers; "": not compared."""
        self._connection, self._appender, self._owner = connection, appender, owner
        self._prefix = connection.settings.kafka.topic_prefix

    @property
    def register_name(self) -> str:
        """The topic of the register."""
        return f"{self._prefix}.logs"

    def name(self, stream: str, log: str) -> str:
        """The topic of a log."""
        return f"{self._prefix}.{stream}.{log}"

    async def register(self) -> Register:
        """What the register says now; raises ConfigError where it is another project's."""
        if self.register_name not in (await self._connection.describe(self.register_name)).topics:
            return Register()
        topic = Partition(self._connection, self.register_name, 0, log_number(self.register_name))
        at, end = await topic.bounds()
        now: dict[str, Registered] = {}
        begun: dict[str, Registered] = {}
        every: dict[str, Registered] = {}
        owner = ""
        while at < end:
            found = await topic.fetch(at, _READ_BYTES)
            if not found.records:
                raise LogCorrupt(f"topic {self.register_name}: {found.damage or f'record {at} is missing'}")
            for record in found.records:
                body = decode_control(record.payload)
                step, owner = body.pop("step"), body.pop("owner")
                one = every[body["log"]] = Registered(**body)
                _take(step, one, now, begun)
            at = found.records[-1].offset + 1
        self._same_project(owner)
        return Register(now, begun, tuple(every.values()), owner)

    def _same_project(self, owner: str) -> None:
        if self._owner and owner and owner != self._owner:
            problem = f"the topics of {self._prefix!r} at {self._connection.brokers} are another project's"
            raise ConfigError(
                "log.kafka.topic_prefix", f"{problem} (another data_dir made them); choose another prefix"
            )

    async def write(self, step: str, one: Registered, time_ms: int) -> None:
        """Say in the register that a log was `begun`, is the stream's `now`, or is `gone` with all before it."""
        if self.register_name not in (await self._connection.describe(self.register_name)).topics:
            await self.make(self.register_name, 1, kept_hours=None)
        payload = encode_control({**asdict(one), "step": step, "owner": self._owner})
        key = stamp(Entry(0, Kind.CONTROL, 0, payload), log_number(self.register_name))
        await self._appender.send(self.register_name, [Outgoing(0, key, payload)], time_ms)

    async def make(self, name: str, partitions: int, kept_hours: float | None) -> None:
        """Make a topic, if it is not there, and wait until each partition has a leader.

        Raises ConfigError where the brokers cannot hold as many copies as are asked for, LogUnavailable.
        """
        kafka = self._connection.settings.kafka
        configs = {
            "cleanup.policy": "delete",
            "compression.type": "producer",
            "max.message.bytes": str(kafka.record_bytes_max + ENVELOPE_BYTES),
            "message.timestamp.type": "CreateTime",
            "message.timestamp.before.max.ms": _FOR_EVER,
            "message.timestamp.after.max.ms": _FOR_EVER,
            "min.insync.replicas": str(kafka.min_insync_replicas),
            "retention.bytes": "-1",
            "retention.ms": str(int(kept_hours * HOUR_MS)) if kept_hours else "-1",
            "unclean.leader.election.enable": "false",
        }
        admin = await self._connection.admin()
        try:
            answer = await admin.create_topics([NewTopic(name, partitions, kafka.replication, topic_configs=configs)])
        finally:
            await admin.close()
        _, code, words = (*answer.topic_errors[0], "")[:3]
        error = for_code(code)
        if error is InvalidReplicationFactorError:
            brokers = (await self._connection.describe()).brokers
            raise ConfigError("log.kafka.replication", _too_few(kafka.replication, brokers))
        if error not in (NoError, TopicAlreadyExistsError):
            raise LogUnavailable(f"topic {name} could not be made: {words or error.__name__}")
        while True:
            found = (await self._connection.describe(name)).topics.get(name)
            if found is not None and found.partitions == partitions and min(found.leaders.values()) >= 0:
                return
            await asyncio.sleep(LOOK_S)

    async def remove(self, name: str) -> None:
        """Delete a topic that holds nothing that anybody needs; raises LogUnavailable where that is not allowed."""
        admin = await self._connection.admin()
        try:
            answer = await admin.delete_topics([name])
        finally:
            await admin.close()
        error = for_code(answer.topic_error_codes[0][1])
        if error not in (NoError, UnknownTopicOrPartitionError):
            raise LogUnavailable(f"topic {name} could not be deleted: {error.__name__}")

    async def settings_of(self, name: str) -> dict[str, str]:
        """The topic's settings as they are now; empty where we may not read them."""
        admin = await self._connection.admin()
        try:
            answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
        except KafkaError:
            return {}
        finally:
            await admin.close()
        return {entry[0]: entry[1] for answer in answers for one in answer.resources for entry in one[4]}


def _take(step: str, one: Registered, now: dict[str, Registered], begun: dict[str, Registered]) -> None:
    if step == "begun":
        begun[one.stream] = one
        return
    begun.pop(one.stream, None)
    if step == "now":
        now[one.stream] = one
    else:  # gone
        now.pop(one.stream, None)


def _too_few(replication: int, brokers: int) -> str:
    problem = f"{replication} copies of each record need as many brokers, and there are {brokers}"
    return f"{problem}; add brokers, or set log.kafka.replication and log.kafka.min_insync_replicas lower"
