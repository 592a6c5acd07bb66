"""Opens the event log that the configuration names. Every process that appends or reads opens its own."""

from __future__ import annotations

from pathlib import Path

from eagleray.cluster.clock import Clock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.log.embedded import EmbeddedLog
from eagleray.cluster.log.memory import MemoryLog
from eagleray.cluster.log.protocol import EventLog

_memory: dict[Path, MemoryLog] = {}


def open_log(config: Config, clock: Clock | None = None) -> EventLog:
    """Open (or create) the log; raises ConfigError, LogUnavailable.

    `backend: memory` gives everyone in this process who names the same data_dir the same log, and other processes none.
    """
    if config.log.backend == "kafka":
        problem = "kafka is not supported by this version; use backend: embedded (one machine)"
        raise ConfigError(f"{config.file}: log.backend", problem)
    if config.log.backend == "memory":
        log = _memory.setdefault(config.log_dir, MemoryLog(config.log.partitions, clock))
        if log.partitions != config.log.partitions:
            problem = f"the log in memory was made with {log.partitions} partitions, not {config.log.partitions}"
            raise ConfigError(f"{config.file}: log.partitions", problem)
        return log
    try:
        return EmbeddedLog(config.log_dir, config.log.partitions, config.log.append_timeout_s, clock)
    except ConfigError as error:
        raise ConfigError(f"{config.file}: {error.where}", error.problem) from None
