"""`eagleray up`: starts the platform, says when it is ready, drains on SIGTERM or SIGINT."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.owner_key import ensure_owner_key, make_private, owner_key_file
from eagleray.cluster.telemetry.logging import configure

if TYPE_CHECKING:  # the import is for `check`, after the configuration was read
    from eagleray.cluster.events.stream import Stream


def up(
    config_file: Path,
    address: str | None = None,
    data: Path | None = None,
    port: int | None = None,
    insecure_ray: bool = False,
) -> None:
    """Run until told to stop. Raises ConfigError before anything starts, EaglerayError where it could not finish."""
    configure("console", "warning")
    os.umask(0o077)  # for every process of the platform: events and keys are nobody else's on this machine
    config = load_config(config_file, data_dir=data, port=port, insecure_ray=insecure_ray)
    streams = check(config)
    make_private(config.data_dir)
    if config.edge.auth == "required" and ensure_owner_key(config.data_dir, config.keys_file, SystemClock()):
        print(f"made an API key: {owner_key_file(config.data_dir)}", file=sys.stderr, flush=True)
    stop = threading.Event()
    _heed_signals(stop)
    with _locked(config):
        _run(config, streams, address, stop)


def check(config: Config) -> dict[str, Stream]:
    """Find everything that can be wrong before anything starts; returns the streams. Raises ConfigError."""
    from eagleray.cluster.events.stream import load_streams
    from eagleray.cluster.lake.table_layout import check_layout
    from eagleray.cluster.log.backends import open_log

    if not config.streams:
        raise ConfigError(f"{config.file}: streams", "expected at least one stream")
    if config.log.backend == "memory":
        raise ConfigError(f"{config.file}: log.backend", "memory serves tests in one process; expected embedded")
    streams = load_streams(config)
    for name, stream in streams.items():
        check_layout(f"{config.file}: streams.{name}.lake", stream)
    open_log(config).close()
    if _has_jobs(config):
        _check_jobs(config)
    return streams


def _has_jobs(config: Config) -> bool:
    return config.jobs_folder.is_dir() or bool(config.jobs.timetable)


def _check_jobs(config: Config) -> None:
    from eagleray.jobs.project.load import load_project
    from eagleray.jobs.run.history import History
    from eagleray.jobs.schedule.timetable import timetable

    load_project(config)
    timetable(config)
    History.open(config).close()


def _scheduler(config: Config) -> type | None:
    """What starts jobs by their schedules; a project without jobs needs none."""
    if not _has_jobs(config):
        return None
    from eagleray.jobs.schedule.scheduler import Scheduler

    return Scheduler


def _run(config: Config, streams: dict[str, Stream], address: str | None, stop: threading.Event) -> None:
    from eagleray.actors.platform import Platform
    from eagleray.cluster.lake.lake import Lake
    from eagleray.cluster.ray_session import connect
    from eagleray.sql.worker import SqlWorker

    Lake.open(config).ensure(streams)
    session = connect(config, address)
    _heed_signals(stop)  # again: Ray puts a SIGTERM handler of its own in place, which exits at once
    place = config.data_dir / "platform.json"
    try:
        platform = Platform(config, SqlWorker, _scheduler(config))
        url = f"http://{config.edge.host}:{platform.start()}"
        place.write_text(json.dumps({"url": url, "pid": os.getpid()}))
        print(f"ready {url}", flush=True)
        stop.wait()
        print("draining", file=sys.stderr, flush=True)
        if not platform.drain(config.edge.drain_timeout_s + 30):
            raise EaglerayError(
                "not everything was committed in time; nothing is lost: the next `up` goes on from the log"
            )
    finally:
        place.unlink(missing_ok=True)
        session.close()


def _heed_signals(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _locked(config: Config) -> IO[str]:
    lock = (config.data_dir / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise EaglerayError(
            f"{config.data_dir} is in use by another `eagleray up`; stop it or use another --data"
        ) from None
    return lock
