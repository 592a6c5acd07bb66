"""The composition: which class works in which pool, by name. The one place that knows all four stages."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

import ray

from eagleray.actors.controller import Controller
from eagleray.actors.host import Kind
from eagleray.actors.messages import Origin, StartReport
from eagleray.actors.pool import STARTING_S
from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.ray_session import NAMESPACE
from eagleray.cluster.sections import PoolConfig

logger = logging.getLogger(__name__)

CONTROLLER = "controller"
DRAIN_GRACE_S = 20.0  # for the controller to end a drain whose time is over
START_TIMEOUT_S = 120.0
REPORT_S = 2.0  # for the controller to say who is missing
LOOK_S = 0.1  # at what else may have happened, while the controller is waited for
ALONE_CPUS, ALONE_MEMORY = 0.1, 256 << 20  # asked of a cluster for an edge, and for those that are there once
CONTROLLER_CPUS = 0.01  # next to nothing; but a head without cores, whose end would be the controller's, has less
BEHIND = 5  # niceness of those nobody waits for: acks at 500 requests/s, p99 54 → 35 ms (RESULTS.md)


def kinds(
    config: Config,
    sql_worker: str | None,
    scheduler: str | None = None,
    postgres: str | None = None,
    cluster: str = "",
) -> dict[str, Kind]:
    """Every pool's workers. `sql_worker`, `scheduler` and `postgres` (`module:Class`) are of planes unknown here.

    `cluster`: the version of what they are made from, where they go to nodes of a cluster that is not our own; they
    ask it for cores and memory.
    """
    found = [
        # Two threads: one decodes while the other waits for the disk; more only queue for the interpreter.
        Kind(
            "validate", "eagleray.actors.validate.worker:ValidateWorker", (config,), config.logs_dir, 3,
            call_s=config.log.append_timeout_s,
        ),
        Kind(
            "window", "eagleray.actors.window.worker:WindowWorker", (config,), config.logs_dir, 8, BEHIND, last="stop"
        ),
        # Not behind: beside validators that never rest it fell back by a third of the rate; 0 costs acks
        # 1 ms at p99.
        Kind("writer", "eagleray.actors.writer.worker:WriterWorker", (config,), config.logs_dir, 4, last="stop"),
        Kind(
            "committer", "eagleray.actors.committer:Committer", (config,), config.logs_dir, 100, BEHIND, True,
            alone=True,
        ),
        Kind(
            "edge", "eagleray.actors.edge_actor:EdgeActor", (config, CONTROLLER), config.logs_dir, 1000, 0, True,
            call_s=config.edge.drain_timeout_s, last="drain",
        ),
    ]  # fmt: skip
    if sql_worker:
        found.append(
            Kind(
                "sql", sql_worker, (config,), config.logs_dir, 4, BEHIND, call_s=config.edge.query_timeout_s, alone=True
            )
        )
    if postgres and config.sql.postgres is not None:
        found.append(Kind("postgres", postgres, (config,), config.logs_dir, 2, BEHIND, last="stop", alone=True))
    if scheduler:
        found.append(Kind("scheduler", scheduler, (config,), config.logs_dir, 2, BEHIND, alone=True))
    return {kind.pool: _asking(config, kind, cluster) if cluster else kind for kind in found}


def _asking(config: Config, kind: Kind, version: str) -> Kind:
    """The kind with what each of its workers asks of a cluster."""
    pool = getattr(config.pools, {"validate": "validate_"}.get(kind.pool, kind.pool), None)
    cpus, memory = (pool.cpus, pool.memory) if isinstance(pool, PoolConfig) else (ALONE_CPUS, ALONE_MEMORY)
    if kind.pool in ("sql", "postgres"):
        memory += config.lake.query_memory_max
    per_node = kind.pool in ("edge", "validate")
    return replace(kind, cpus=cpus, memory=memory, per_node=per_node, version=version)


def preload(modules: Iterable[str]) -> None:
    """Import what workers will need, for a warm parent."""
    for module in modules:
        import_module(module)


class ControllerLost(EaglerayError):
    """The controller does not answer, however often it is started."""


def _controller(origin: Origin) -> Any:
    """The controller's actor: the one that runs, or a new one from `origin`."""
    cluster = any(kind.per_node for kind in origin.kinds.values())
    remote: Any = ray.remote
    options = {
        "name": CONTROLLER,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_concurrency": 100,
        "num_cpus": CONTROLLER_CPUS if cluster else 0,
    }
    if origin.runtime_env:
        options["runtime_env"] = dict(origin.runtime_env)
    return remote(ControllerActor).options(**options).remote(origin.config, dict(origin.kinds), origin.run)


class PlatformRuns(EaglerayError):
    """The cluster has a platform already, with another configuration."""

    def __init__(self) -> None:
        """Always the same sentence."""
        super().__init__(
            "a platform with another configuration runs in this cluster: `eagleray rollout` changes it under load, "
            "`eagleray undeploy` ends it"
        )


class ControllerActor(Controller):
    """The controller as Ray starts it, again too: works from the first moment on."""

    async def __init__(self, config: Config, kinds: dict[str, Kind], run: str) -> None:  # type: ignore[misc]
        super().__init__(config, kinds, run)
        self.begin()


class Platform:
    """The running platform, from outside."""

    def __init__(self, controller: Any, stalled_after_s: float) -> None:
        """Use `begin` or `find`."""
        self.controller = controller
        self._stalled_after_s = stalled_after_s
        self._owed: Any = None  # a report that the controller was asked for
        # What was waited, not what the clock says: where this process was stopped itself, nobody else was silent.
        self._silent_s = 0.0

    @classmethod
    def begin(cls, config: Config, pools: dict[str, Kind], run: str) -> Platform:
        """Make the controller of `run`, or find the one that runs.

        Raises PlatformRuns where one runs in a cluster that was started with another configuration.
        """
        mine = Origin(config, pools, run, {})
        found = cls(_controller(mine), config.pools.stalled_after_s)
        if mine.version and found.origin().version != mine.version:
            raise PlatformRuns
        return found

    def succeed(self, origin: Origin) -> Platform:
        """End this controller and make another from `origin`, which goes on with the workers that live.

        Those that are of another version are replaced by it, one of each pool at a time.
        """
        ray.kill(self.controller)
        with suppress(ValueError):  # its name is free when Ray has noted its end
            while ray.get_actor(CONTROLLER, NAMESPACE):
                time.sleep(LOOK_S)
        return type(self)(_controller(origin), origin.config.pools.stalled_after_s)

    def origin(self) -> Origin:
        """What its controller was made from."""
        found: Origin = ray.get(self.controller.origin.remote(), timeout=START_TIMEOUT_S)
        return found

    def stale(self) -> list[str] | None:
        """Workers that are not of its version or not there yet; None where it does not say."""
        ref = self.controller.stale.remote()
        with suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            found: list[str] = ray.get(ref, timeout=REPORT_S)
            return found
        return None

    @classmethod
    def find(cls, stalled_after_s: float = 20.0) -> Platform:
        """The one that runs in the cluster; raises EaglerayError where none does."""
        try:
            return cls(ray.get_actor(CONTROLLER, NAMESPACE), stalled_after_s)
        except ValueError:
            raise EaglerayError("no platform runs in this cluster; `eagleray deploy` starts one") from None

    def start(self, look: Callable[[], bool]) -> int | None:
        """Wait until events can be acked; returns the HTTP port, or None where `look()` was true first.

        Raises what the start failed with, at once, and what `look` raises.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            ref = self.controller.run.remote()
            while not ray.wait([ref], timeout=LOOK_S)[0] and time.monotonic() < deadline:
                if look():
                    return None
            with suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):  # killed: Ray starts it again
                port: int = _result(ref)
                return port
            time.sleep(LOOK_S)
        report = self.hear(REPORT_S)
        missing = f": {', '.join(report.missing)}" if report and report.missing else ""
        raise EaglerayError(f"not every worker answered within {START_TIMEOUT_S:g} s{missing}")

    def urls(self) -> list[str]:
        """Where events can be sent, once `start` has returned."""
        found: list[str] = ray.get(self.controller.urls.remote(), timeout=START_TIMEOUT_S)
        return found

    def drain_node(self, node: str, back: bool = False) -> bool:
        """Have others take over what `node` does (`back`: let it have workers again); True once it is empty."""
        ref = self.controller.drain_node.remote(node, back)
        ready, _ = ray.wait([ref], timeout=START_TIMEOUT_S)
        return bool(_result(ref)) if ready else False

    def hear(self, within_s: float) -> StartReport | None:
        """What the controller reports; None where it says nothing `within_s`.

        A controller that is silent for `pools.stalled_after_s` is ended by force, and Ray starts it again. Raises
        ControllerLost where even that does not make it speak, or what it failed with.
        """
        if self._owed is None:
            self._owed = self.controller.start_report.remote()
        began = time.monotonic()
        if ray.wait([self._owed], timeout=within_s)[0]:
            ref, self._owed = self._owed, None
            with suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                report: StartReport = _result(ref)
                self._silent_s = 0.0
                return report
            time.sleep(max(0.0, within_s - (time.monotonic() - began)))
        before, self._silent_s = self._silent_s, self._silent_s + within_s
        if before < self._stalled_after_s <= self._silent_s:
            logger.error("the controller has not answered for %g s; it is replaced", self._stalled_after_s)
            ray.kill(self.controller, no_restart=False)
        if self._silent_s > self._stalled_after_s + STARTING_S:
            raise ControllerLost(f"the controller has not answered for {self._silent_s:.0f} s")
        return None

    def drain(self, timeout_s: float, look: Callable[[], object] = lambda: None) -> bool:
        """Stop taking events and commit what was acked; True if all was committed in time. `look` may raise.

        A controller that is killed meanwhile is asked again as soon as Ray has started it.
        """
        deadline = time.monotonic() + timeout_s
        done = False
        while not done and (left_s := deadline - time.monotonic()) > 0:
            ref = self.controller.drain.remote(left_s)
            while not ray.wait([ref], timeout=LOOK_S)[0] and time.monotonic() < deadline + DRAIN_GRACE_S:
                look()
            with suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                done = _result(ref)
            time.sleep(0 if done else LOOK_S)
        ray.kill(self.controller)
        return done


def _result(ref: Any) -> Any:
    """What the controller's call has returned or raised; GetTimeoutError where it has not."""
    try:
        return ray.get(ref, timeout=0)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
