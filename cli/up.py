"""`eagleray up`: starts the platform, says when it is ready, drains on SIGTERM or SIGINT.

Order of a start. Ray's processes start beside this one, which meanwhile imports what all workers need. Then it forks
the warm parent, checks the project, joins Ray and has the controller start the workers: first those that ack.

Afterwards it watches Ray's processes and the controller. A session that ends against our will is started again by this
process itself (`session_again`); on a cluster of others (`--address`) it ends with what happened.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from eagleray.cli.broken_jobs import BrokenJobs
from eagleray.cli.session_again import (
    SIGNALS,
    Before,
    SessionLost,
    read_before,
    start_again,
    with_this_end,
    write_platform,
)
from eagleray.cli.start_phases import Phases
from eagleray.cluster.client.target import platform_file
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.descendants import adopt_orphans, end_all, reap
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.log.ingest_clock import Anchor
from eagleray.cluster.owner_key import ensure_owner_key, make_private, owner_key_file
from eagleray.cluster.project_lock import project_lock
from eagleray.cluster.telemetry.logging import configure

if TYPE_CHECKING:  # the imports are for later, after the configuration was read
    from eagleray.actors.messages import StartReport
    from eagleray.actors.platform import Platform
    from eagleray.cluster.events.stream import Stream
    from eagleray.cluster.ray_node.node import RayNode
    from eagleray.cluster.ray_session import Session

SQL_WORKER = "eagleray.sql.worker:SqlWorker"
POSTGRES = "eagleray.sql.postgres.server:PostgresServer"
SCHEDULER = "eagleray.jobs.schedule.scheduler:Scheduler"
LOOK_S = 0.2  # at the workers that come up behind
END_S = 20.0  # for the processes of a lost session to end
REAP_LOOKS = 16  # looks between those at ended orphans: a scan of all processes takes some 10 ms
KEPT = "what was acked is in the log, and the next `up` continues from there, unless `eagleray doctor` objects"
WATCH_S = 1.0  # between looks at Ray and the controller, when everything is up


def up(
    config_file: Path,
    address: str | None = None,
    data: Path | None = None,
    port: int | None = None,
    insecure_ray: bool = False,
    timings: bool = False,
) -> None:
    """Run until told to stop. Raises ConfigError where something is wrong, EaglerayError where it could not finish."""
    environment = dict(os.environ)  # before anything of Ray is in it
    phases = Phases()
    configure("console", "warning")
    os.umask(0o077)  # for every process of the platform: events and keys are nobody else's on this machine
    config = load_config(config_file, data_dir=data, port=port, insecure_ray=insecure_ray)
    _check_settings(config)
    _check_port(config)
    make_private(config.data_dir)
    if config.edge.auth == "required" and ensure_owner_key(config, SystemClock()):
        print(f"made an API key: {owner_key_file(config.data_dir)}", file=sys.stderr, flush=True)
    stop = threading.Event()
    _heed_signals(stop)
    place = platform_file(config.data_dir)
    found = read_before(place)
    before = found or Before(run=uuid.uuid4().hex)
    phases.quiet = found is not None
    if before.port:
        config = config.model_copy(update={"edge": config.edge.model_copy(update={"port": before.port})})
    sitting = _Sitting(config, address, stop, phases, before, timings)
    with project_lock(config), ExitStack() as stack:
        try:
            sitting.run(stack)
        except SessionLost as lost:
            stack.pop_all()  # in order is over: what is left of the session is killed
            sitting.end_left()
            # Who ends a service may signal all its processes at once: Ray's end is then heard of first.
            if stop.wait(LOOK_S):
                raise EaglerayError(f"{lost} before everything was committed; {KEPT}") from None
            sitting.begin_again(lost, environment)


def check(config: Config) -> dict[str, Stream]:
    """Find everything that can be wrong before a worker starts; returns the streams. Raises ConfigError."""
    from eagleray.cluster.events.stream import load_streams
    from eagleray.cluster.lake.table_layout import check_layout
    from eagleray.cluster.log.backends import open_log
    from eagleray.jobs.schedule.timetable import timetable

    _check_settings(config)
    streams = load_streams(config)
    for name, stream in streams.items():
        check_layout(f"{config.file}: streams.{name}.lake", stream)
    open_log(config).close()
    timetable(config)
    _check_state(config)
    return streams


def _check_state(config: Config) -> None:
    """Workers would wait for ever for a place of their state; raises ConfigError, OSError."""
    if config.state_dir.exists() and not config.state_dir.is_dir():
        problem = "is a file, and a directory is expected: move it away, what belongs there is made again"
        raise ConfigError(str(config.state_dir), problem)
    config.state_dir.mkdir(parents=True, exist_ok=True)


def _check_settings(config: Config) -> None:
    if not config.streams:
        raise ConfigError(f"{config.file}: streams", "expected at least one stream")
    if config.log.backend == "memory":
        raise ConfigError(f"{config.file}: log.backend", "memory serves tests in one process; expected embedded")
    if config.edge.tls is not None:
        from eagleray.cluster.certificates import server_context

        server_context(str(config.file), config.edge.tls)
    if config.edge.jwt is not None and find_spec("joserfc") is None:
        raise ConfigError(f"{config.file}: edge.jwt", "needs joserfc: pip install 'eagleray[jwt]'")


def _check_port(config: Config) -> None:
    """A taken port is said at once, not when an edge wants to listen."""
    doors = [("edge.port", config.edge.host, config.edge.port)]
    if (wire := config.sql.postgres) is not None:
        doors.append(("sql.postgres.port", wire.host, wire.port))
    for setting, host, port in doors:
        if port:
            _check_free(config, setting, host, port)


def _check_free(config: Config, setting: str, host: str, port: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            problem = f"cannot listen on {host}:{port}: {error.strerror}"
            raise ConfigError(f"{config.file}: {setting}", problem) from None


class _Sitting:
    """One session of `up`, from its start to a drain or a loss."""

    def __init__(
        self, config: Config, address: str | None, stop: threading.Event, phases: Phases, before: Before, timings: bool
    ) -> None:
        self._config, self._address, self._stop, self._phases = config, address, stop, phases
        self._before = before
        self._timings = timings
        self._node: RayNode | None = None
        self._place = platform_file(config.data_dir)
        self._own_children: tuple[int, ...] = ()  # somebody waits for them
        self._told: set[str] = set()  # failures that were printed

    def run(self, stack: ExitStack) -> None:
        """Start, watch, drain. Raises SessionLost where Ray or the controller went, EaglerayError."""
        platform = self._start(stack)
        _heed_signals(self._stop)  # again: Ray puts a SIGTERM handler of its own in place, which exits at once
        stack.callback(self._place.unlink, missing_ok=True)
        port = platform.start(self._look_before)
        if port is None:
            return
        self._ready(port, platform.urls()[0] if self._address else "")
        from eagleray.actors.platform import ControllerLost

        try:
            self._watch(platform)
        except ControllerLost as lost:
            if self._node is None:
                raise
            raise SessionLost(str(lost)) from None
        print("draining", file=sys.stderr, flush=True)
        self._drain(platform)

    def begin_again(self, lost: SessionLost, environment: Mapping[str, str]) -> NoReturn:
        """Become `up` again, when nothing is left of the session. Raises EaglerayError where that is no cure."""
        url = self._config.edge.url(self._before.port)
        before = with_this_end(self._before, lost)
        print(f"{lost}; starting the session again: what was acked is in the log", file=sys.stderr, flush=True)
        write_platform(self._place, url, self._config.data_dir, before)
        start_again(environment)

    def end_left(self) -> None:
        """End what is left of a lost session, to the last process. Raises EaglerayError."""
        self._place.unlink(missing_ok=True)
        assert self._node is not None
        self._node.stop()
        end_all(END_S)

    def _start(self, stack: ExitStack) -> Platform:
        """Everything up to the controller, which then starts the workers. What was started ends with `stack`."""
        config, address, phases = self._config, self._address, self._phases
        # 1. Ray's processes, beside what follows
        if address is None:
            phases.begin("starting Ray")
            from eagleray.cluster.ray_node.environment import prepare
            from eagleray.cluster.ray_node.node import RayNode

            adopt_orphans()
            node = self._node = RayNode(phases.say)
            stack.callback(node.stop)
            prepare(node.pid, node.token)
        phases.begin("loading")
        from eagleray.actors.platform import Platform, kinds, preload
        from eagleray.cluster.ray_session import connect, enter, made_from

        pools = kinds(config, SQL_WORKER, SCHEDULER, POSTGRES)
        preload(kind.module for kind in pools.values())
        # 2. the warm parent, before this process has threads
        if address is None:
            from eagleray.cluster.ray_node.warm_parent import WarmParent

            parent = WarmParent(node.warm_socket)
            stack.callback(parent.end)
            self._own_children = (node.pid, parent.pid)
        # 3. project and tables
        phases.begin("checking the project and its tables")
        streams = check(config)
        bound = bind(config, streams, phases.say)
        # 4. the session
        phases.begin("joining Ray")
        session: Session = connect(config, address) if address else enter(node)
        stack.callback(session.close)
        pools = kinds(bound, SQL_WORKER, SCHEDULER, POSTGRES, cluster=made_from(config) if address else "")
        phases.begin("starting the edge and the validators")
        return Platform.begin(config, pools, run=self._before.run)

    def _look(self) -> bool:
        """Whether to stop; raises SessionLost where a process of Ray has ended."""
        if self._node is not None and (what := self._node.ended()):
            raise SessionLost(what)
        return self._stop.is_set()

    def _look_before(self) -> bool:
        # A stop before anything was acked has nothing to drain; what an earlier session acked is drained first.
        return self._look() and not self._before.announced

    def _ready(self, port: int, url: str = "") -> None:
        url = url or self._config.edge.url(port)
        write_platform(self._place, url, self._config.data_dir)
        if self._before.announced:
            print(f"ready again {url}", file=sys.stderr, flush=True)
        else:
            print(f"ready {url}", flush=True)
        self._before = replace(self._before, port=port, announced=True)
        BrokenJobs(self._config, self._phases.say).begin()
        self._phases.begin("ready; starting windows, writer, committer and SQL")

    def _watch(self, platform: Platform) -> None:
        """Until a stop is asked for. What keeps a worker from starting is said once; a wrong project raises."""
        complete = False
        for look in count():
            if self._look():
                return
            pause_s = WATCH_S if complete else LOOK_S
            report = platform.hear(pause_s)
            for failure in report.failures if report else ():
                if isinstance(failure, ConfigError) and not complete:
                    raise failure
                self._tell(failure)
            if report and report.complete:
                self._told.clear()
                complete = complete or self._complete(report)
            if look % REAP_LOOKS == 0:
                reap(but=self._own_children)
            if report:  # else the time was spent waiting for it
                self._stop.wait(pause_s)

    def _tell(self, failure: EaglerayError) -> None:
        if str(failure) not in self._told:
            self._told.add(str(failure))
            self._phases.say(f"{failure}; trying again. Events are acked and kept in the log meanwhile")

    def _complete(self, report: StartReport) -> bool:
        for pool, at_us in report.complete_us.items():
            self._phases.mark(f"{pool}: all there", at_us)
        self._phases.begin("everything is up")
        if self._timings:
            print(self._phases.table(), file=sys.stderr, flush=True)
        return True

    def _drain(self, platform: Platform) -> None:
        try:
            done = platform.drain(self._config.edge.drain_timeout_s + 30, self._look)
        except SessionLost as lost:
            raise EaglerayError(f"{lost} before everything was committed; {KEPT}") from None
        if not done:
            raise EaglerayError(f"not everything was committed in time; {KEPT}")


def bind(config: Config, streams: Mapping[str, Stream], say: Callable[[str], None]) -> Config:
    """The configuration for workers, when log and tables are as it wants them; `say` hears what people should know.

    Raises ConfigError, LogMismatch as `continuity.bind` and `Lake.ensure` do.
    """
    _warn(config)
    bound = _bound(config, streams)
    _record_changes(bound, streams, say)
    return bound


def _record_changes(bound: Config, streams: Mapping[str, Stream], say: Callable[[str], None]) -> None:
    """Write down changed definitions of windows before anybody goes by them, and say from when they count."""
    from eagleray.cluster.lake.lake import Lake
    from eagleray.cluster.lake.window_history import record
    from eagleray.cluster.log.backends import open_log

    lake = Lake.open(bound)
    with closing(open_log(bound)) as log, lake.kept_connection():
        for change in record(lake, log, streams):
            say(str(change))


def _warn(config: Config) -> None:
    """Say what the log's brokers do not promise, and go on: whoever set it up so may know why."""
    if config.log.backend != "kafka":
        return
    from eagleray.cluster.log.kafka_check import look

    for seen in look(config):
        if seen.grade != "ok":
            _say(f"warning: {seen.found}; {seen.advice}")


def _heed_signals(stop: threading.Event) -> None:
    for number in SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _bound(config: Config, streams: Mapping[str, Stream]) -> Config:
    """The configuration for workers: tables are there, and each stream has the log that they were written from.

    Raises ConfigError where tables cannot become what they should be, LogMismatch where log and tables differ.
    """
    from eagleray.cluster.continuity import bind, left_behind
    from eagleray.cluster.lake.lake import Lake
    from eagleray.cluster.log.backends import open_log

    lake = Lake.open(config)
    with closing(open_log(config)) as log, lake.kept_connection():
        bound = bind(config, lake, log, streams)
        for left in left_behind(config, lake, log):
            _say(str(left))
    lake.ensure(streams, bound.said, _say)
    return config.bound(bound.epochs, Anchor.now(SystemClock()), bound.seed)
