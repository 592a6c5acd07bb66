"""`eagleray up`: starts the platform, says when it is ready, drains on SIGTERM or SIGINT.

Order of a start. Ray's processes start beside this one, which meanwhile imports what all workers need. Then it forks
the warm parent, checks the project, joins Ray and has the controller start the workers: first those that ack.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

from eagleray.cli.start_phases import Phases
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.owner_key import ensure_owner_key, make_private, owner_key_file
from eagleray.cluster.telemetry.logging import configure

if TYPE_CHECKING:  # the imports are for later, after the configuration was read
    from eagleray.actors.platform import Platform
    from eagleray.cluster.events.stream import Stream
    from eagleray.cluster.ray_session import Session

SQL_WORKER = "eagleray.sql.worker:SqlWorker"
SCHEDULER = "eagleray.jobs.schedule.scheduler:Scheduler"
LOOK_S = 0.2  # at the workers that come up behind


def up(
    config_file: Path,
    address: str | None = None,
    data: Path | None = None,
    port: int | None = None,
    insecure_ray: bool = False,
    timings: bool = False,
) -> None:
    """Run until told to stop. Raises ConfigError where something is wrong, EaglerayError where it could not finish."""
    phases = Phases()
    configure("console", "warning")
    os.umask(0o077)  # for every process of the platform: events and keys are nobody else's on this machine
    config = load_config(config_file, data_dir=data, port=port, insecure_ray=insecure_ray)
    _check_settings(config)
    _check_port(config)
    make_private(config.data_dir)
    if config.edge.auth == "required" and ensure_owner_key(config.data_dir, config.keys_file, SystemClock()):
        print(f"made an API key: {owner_key_file(config.data_dir)}", file=sys.stderr, flush=True)
    stop = threading.Event()
    _heed_signals(stop)
    with _locked(config), ExitStack() as stack:
        _run(config, address, stop, phases, stack, timings)


def check(config: Config) -> dict[str, Stream]:
    """Find everything that can be wrong before a worker starts; returns the streams. Raises ConfigError."""
    from eagleray.cluster.events.stream import load_streams
    from eagleray.cluster.lake.table_layout import check_layout
    from eagleray.cluster.log.backends import open_log

    _check_settings(config)
    streams = load_streams(config)
    for name, stream in streams.items():
        check_layout(f"{config.file}: streams.{name}.lake", stream)
    open_log(config).close()
    if _has_jobs(config):
        _check_jobs(config)
    return streams


def _check_settings(config: Config) -> None:
    if not config.streams:
        raise ConfigError(f"{config.file}: streams", "expected at least one stream")
    if config.log.backend == "memory":
        raise ConfigError(f"{config.file}: log.backend", "memory serves tests in one process; expected embedded")


def _check_port(config: Config) -> None:
    """A taken port is said at once, not when an edge wants to listen."""
    host, port = config.edge.host, config.edge.port
    if not port:
        return
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            problem = f"cannot listen on {host}:{port}: {error.strerror}"
            raise ConfigError(f"{config.file}: edge.port", problem) from None


def _has_jobs(config: Config) -> bool:
    return config.jobs_folder.is_dir() or bool(config.jobs.timetable)


def _check_jobs(config: Config) -> None:
    from eagleray.jobs.project.load import load_project
    from eagleray.jobs.run.history import History
    from eagleray.jobs.schedule.timetable import timetable

    load_project(config)
    timetable(config)
    History.open(config).close()


def _run(
    config: Config, address: str | None, stop: threading.Event, phases: Phases, stack: ExitStack, timings: bool
) -> None:
    platform = _start(config, address, phases, stack)
    _heed_signals(stop)  # again: Ray puts a SIGTERM handler of its own in place, which exits at once
    place = config.data_dir / "platform.json"
    stack.callback(place.unlink, missing_ok=True)
    port = platform.start(stop.is_set)
    if port is None:
        return
    url = f"http://{config.edge.host}:{port}"
    place.write_text(json.dumps({"url": url, "pid": os.getpid()}))
    print(f"ready {url}", flush=True)
    phases.begin("ready; starting what comes behind")
    _see_behind(platform, stop, phases)
    if timings:
        print(phases.table(), file=sys.stderr, flush=True)
    stop.wait()
    print("draining", file=sys.stderr, flush=True)
    if not platform.drain(config.edge.drain_timeout_s + 30):
        raise EaglerayError("not everything was committed in time; nothing is lost: the next `up` goes on from the log")


def _start(config: Config, address: str | None, phases: Phases, stack: ExitStack) -> Platform:
    """Everything up to the controller, which then starts the workers. What was started ends with `stack`."""
    # 1. Ray's processes, beside what follows
    if address is None:
        phases.begin("starting Ray")
        from eagleray.cluster.ray_node.environment import prepare
        from eagleray.cluster.ray_node.node import RayNode

        node = RayNode(phases.say)
        stack.callback(node.stop)
        prepare(node.pid, node.token)
    phases.begin("loading")
    from eagleray.actors.platform import Platform, kinds, preload
    from eagleray.cluster.ray_session import connect, enter

    pools = kinds(config, SQL_WORKER, SCHEDULER if _has_jobs(config) else None)
    preload(kind.module for kind in pools.values())
    # 2. the warm parent, before this process has threads
    if address is None:
        from eagleray.cluster.ray_node.warm_parent import WarmParent

        stack.callback(WarmParent(node.warm_socket).end)
    # 3. project and tables
    phases.begin("checking the project and its tables")
    streams = check(config)
    from eagleray.cluster.lake.lake import Lake

    Lake.open(config).ensure(streams)
    # 4. the session
    phases.begin("joining Ray")
    session: Session = connect(config, address) if address else enter(node)
    stack.callback(session.close)
    phases.begin("starting what acks: edge and validators")
    return Platform(config, pools)


def _see_behind(platform: Platform, stop: threading.Event, phases: Phases) -> None:
    """Wait for the workers behind; what keeps one from starting is said at once, and raised if it is the project's."""
    told: set[str] = set()
    while not stop.wait(LOOK_S):
        start = platform.report()
        for failure in start.failures:
            if isinstance(failure, ConfigError):
                raise failure
            if str(failure) not in told:
                told.add(str(failure))
                phases.say(f"{failure}; trying again. Events are acked and kept in the log meanwhile")
        if start.complete:
            for pool, at_us in start.complete_us.items():
                phases.mark(f"{pool}: all there", at_us)
            phases.begin("everything is up")
            return


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
