"""What keeps a log in Kafka from holding its promises: asked by `up` (said as a warning) and by `doctor`.

An ack says that all in-sync copies have the events. How many that are is the topic's setting, and anybody who
administers the cluster can change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Literal, NamedTuple

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.log.kafka_append import Appender
from eagleray.cluster.log.kafka_connection import Cluster, Connection, Topic
from eagleray.cluster.log.kafka_topics import HOUR_MS, Register, Topics

LOOK_TIMEOUT_S = 20.0
_INSYNC = "min.insync.replicas"


class Seen(NamedTuple):
    """What was found: as doctor's findings."""

    what: str
    grade: Literal["ok", "warn", "bad"]
    found: str
    advice: str = ""


class _State(NamedTuple):
    cluster: Cluster
    register: Register
    settings: Mapping[str, Mapping[str, str]]  # by topic


def look(config: Config) -> list[Seen]:
    """Everything, in order; never raises for brokers that do not answer."""
    try:
        connection = Connection(config.log)
        with closing(connection):
            state = connection.call(_state(connection, config), LOOK_TIMEOUT_S, "look")
    except ConfigError as error:
        return [Seen("kafka", "bad", str(error), "set what is named")]
    except EaglerayError as error:
        return [Seen("kafka", "bad", str(error), "check log.brokers, and that the brokers run: until then 503")]
    return list(_seen(config, state))


async def _state(connection: Connection, config: Config) -> _State:
    topics = Topics(connection, Appender(connection), "")
    register = await topics.register()
    logs = [one for one in register.now.values() if one.stream in config.streams]
    names = [topics.name(one.stream, one.log) for one in logs]
    cluster = await connection.describe(*names)
    return _State(cluster, register, {name: await topics.settings_of(name) for name in cluster.topics})


def _seen(config: Config, state: _State) -> Iterator[Seen]:
    brokers = state.cluster.brokers
    yield Seen("kafka", "ok", f"{brokers} broker{'s' if brokers != 1 else ''} at {', '.join(config.log.brokers)}")
    if not state.cluster.topics:
        yield _copies("topics to be made", config.log.kafka.min_insync_replicas, brokers)
    for name, topic in sorted(state.cluster.topics.items()):
        yield from _topic(topic, state.settings[name], brokers, config.log.kafka.topic_retention_hours)


def _copies(name: str, least: int, brokers: int) -> Seen:
    if least >= 2:
        return Seen("copies", "ok", f"{name}: an ack waits for {least} copies at least ({_INSYNC})")
    risk = "one broker may hold the only copy: with its disk, or with its power before it wrote to it, acked events go"
    advice = "use three brokers, log.kafka.replication: 3 and log.kafka.min_insync_replicas: 2"
    if brokers > 1:
        advice = f"set {_INSYNC}=2 on the topic (kafka-configs), and log.kafka.min_insync_replicas: 2 for later ones"
    return Seen("copies", "bad", f"{name}: {_INSYNC} is {least}: {risk}", advice)


def _topic(topic: Topic, settings: Mapping[str, str], brokers: int, kept_hours: float | None) -> Iterator[Seen]:
    name = topic.name
    if not settings:
        yield Seen("topic", "warn", f"{name}: its settings may not be read", "allow DescribeConfigs on the topic")
        return
    yield _copies(name, int(settings.get(_INSYNC, "1")), brokers)
    fewest = min(topic.in_sync.values(), default=0)
    if fewest < int(settings.get(_INSYNC, "1")):
        problem = f"{name}: a partition has {fewest} copies in sync, fewer than {_INSYNC}: events are answered 503"
        yield Seen("in sync", "bad", problem, "start the brokers that are away")
    if settings.get("cleanup.policy", "delete") != "delete":
        problem = (
            f"{name}: cleanup.policy is {settings['cleanup.policy']}: compaction leaves gaps, and a gap stops readers"
        )
        yield Seen("topic", "bad", problem, "set cleanup.policy=delete")
    if settings.get("unclean.leader.election.enable", "false") == "true":
        problem = f"{name}: a copy that lacks acked events may become leader"
        yield Seen("topic", "bad", problem, "set unclean.leader.election.enable=false")
    kept_ms = int(settings.get("retention.ms", "-1"))
    if kept_ms >= 0 and kept_ms != round((kept_hours or 0) * HOUR_MS):
        problem = f"{name}: Kafka deletes records after {kept_ms / HOUR_MS:g} h, whether or not the tables have them"
        yield Seen("retention", "warn", problem, "set retention.ms=-1: the platform deletes what the tables have")
    elif kept_ms >= 0:
        found = f"{name}: Kafka deletes records after {kept_ms / HOUR_MS:g} h, stored or not (topic_retention_hours)"
        yield Seen("retention", "ok", found)
