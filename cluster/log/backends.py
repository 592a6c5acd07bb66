"""Opens the event log that the configuration names. Every process that appends or reads opens its own."""

from __future__ import annotations

import shutil
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from eagleray.cluster.clock import Clock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, LogMismatch
from eagleray.cluster.events.seeded_hash import hash_seed, seed_fingerprint
from eagleray.cluster.log.embedded import RECORDS, EmbeddedLog
from eagleray.cluster.log.memory import MemoryLog
from eagleray.cluster.log.protocol import Epoch, EventLog

if TYPE_CHECKING:
    from eagleray.cluster.log.kafka import KafkaLog

_memory: dict[Path, MemoryLog] = {}


def open_log(config: Config, clock: Clock | None = None) -> EventLog:
    """Open (or create) the log; raises ConfigError, LogUnavailable.

    A configuration that is bound to the streams' logs (`Config.bound`) opens these and no others.
    `backend: memory` gives everyone in this process who names the same data_dir the same log, and other processes none.
    """
    if config.log.backend == "kafka":
        return _in_kafka(config, clock)
    if config.log.backend == "memory":
        log = _memory.setdefault(config.log_dir, MemoryLog(config.log.partitions, clock))
        if log.partitions != config.log.partitions:
            problem = f"the log in memory was made with {log.partitions} partitions, not {config.log.partitions}"
            raise ConfigError(f"{config.file}: log.partitions", problem)
        return log
    try:
        settings = config.log
        return EmbeddedLog(
            config.log_dir, settings.partitions, settings.append_timeout_s, clock, config.epochs, config.anchor
        )
    except ConfigError as error:
        raise ConfigError(f"{config.file}: {error.where}", error.problem) from None


def _in_kafka(config: Config, clock: Clock | None) -> KafkaLog:
    check_kafka(config)
    from eagleray.cluster.log.kafka import KafkaLog

    hash_seed(config)  # drawn now, where there is none: it tells this project from others
    try:
        return KafkaLog(config.log, clock, config.epochs, config.anchor, seed_fingerprint(config))
    except ConfigError as error:
        raise ConfigError(f"{config.file}: {error.where}", error.problem) from None


def open_elsewhere(config: Config, stream: str, epoch: Epoch, clock: Clock | None = None) -> EventLog | None:
    """The log `epoch` of a stream where it is in the back end that is not configured now, to be read; None: not there.

    Files below `data_dir` for a log in Kafka; Kafka, where `log.brokers` still names it, for a log in files. Raises
    LogUnavailable.
    """
    found: EventLog
    settings = config.log
    if settings.backend == "kafka":
        if not (config.log_dir / stream / RECORDS).exists():
            return None
        found = EmbeddedLog(config.log_dir, settings.partitions, settings.append_timeout_s, clock)
        known = found.epoch(stream)
        there = known is not None and known.log == epoch.log
    elif settings.backend == "embedded" and settings.brokers:
        there, bound = False, config.bound({stream: epoch})
        found = _in_kafka(bound.model_copy(update={"log": settings.model_copy(update={"backend": "kafka"})}), clock)
        with suppress(LogMismatch):
            there = found.epoch(stream) is not None
    else:
        return None
    if not there:
        found.close()
        return None
    return found


def log_of(config: Config, stream: str) -> str:
    """Where the stream's log is, for messages; "" where it has none. Raises LogUnavailable."""
    if config.log.backend == "kafka":
        with closing(_in_kafka(config, None)) as log:
            try:
                epoch = log.epoch(stream)
            except LogMismatch as error:  # registered, and its topic is gone
                return str(error)
            return f"the topic {config.log.kafka.topic_prefix}.{stream}.{epoch.log}" if epoch else ""
    directory = config.log_dir / stream
    return str(directory) if directory.is_dir() else ""


def drop_log(config: Config, stream: str) -> None:
    """Delete the stream's log, and earlier ones of it. Raises LogUnavailable."""
    if config.log.backend == "kafka":
        with closing(_in_kafka(config, None)) as log:
            log.drop(stream)
    shutil.rmtree(config.log_dir / stream, ignore_errors=True)


def check_kafka(config: Config) -> None:
    """Raise ConfigError where the way to the brokers lacks a package, a file or a password."""
    try:
        from eagleray.cluster.log.kafka_connection import security
    except ImportError as error:
        problem = f"kafka needs {error.name}: pip install 'eagleray[kafka]'"
        raise ConfigError(f"{config.file}: log.backend", problem) from None
    try:
        security(config.log.kafka)
    except ConfigError as error:
        raise ConfigError(f"{config.file}: {error.where}", error.problem) from None
