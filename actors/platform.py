"""The composition: which class works in which pool, by name. The one place that knows all four stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import ray

from eagleray.actors.controller import Controller
from eagleray.actors.host import Kind
from eagleray.actors.messages import StartReport
from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.ray_session import NAMESPACE

CONTROLLER = "controller"
START_TIMEOUT_S = 120.0
LOOK_S = 0.1  # at whether a stop was asked for, while the start goes on
BEHIND = 5  # niceness of those nobody waits for: acks at 500 requests/s, p99 54 → 35 ms (RESULTS.md)


def kinds(config: Config, sql_worker: str | None, scheduler: str | None = None) -> dict[str, Kind]:
    """Every pool's workers. `sql_worker` and `scheduler` (`module:Class`) are of planes unknown here."""
    found = [
        # Two threads: one decodes while the other waits for the disk; more only queue for the interpreter.
        Kind("validate", "eagleray.actors.validate.worker:ValidateWorker", (config,), config.logs_dir, 3),
        Kind("window", "eagleray.actors.window.worker:WindowWorker", (config,), config.logs_dir, 8, BEHIND),
        # Not behind: beside validators that never rest it fell back by a third of the rate; 0 costs acks
        # 1 ms at p99.
        Kind("writer", "eagleray.actors.writer.worker:WriterWorker", (config,), config.logs_dir, 4),
        Kind("committer", "eagleray.actors.committer:Committer", (config,), config.logs_dir, 100, BEHIND, True),
        Kind("edge", "eagleray.actors.edge_actor:EdgeActor", (config, CONTROLLER), config.logs_dir, 1000, 0, True),
    ]
    if sql_worker:
        found.append(Kind("sql", sql_worker, (config,), config.logs_dir, 4, BEHIND))
    if scheduler:
        found.append(Kind("scheduler", scheduler, (config,), config.logs_dir, 2, BEHIND))
    return {kind.pool: kind for kind in found}


def preload(modules: Iterable[str]) -> None:
    """Import what workers will need, for a warm parent."""
    for module in modules:
        import_module(module)


class Platform:
    """The running platform, from outside."""

    def __init__(self, config: Config, pools: dict[str, Kind]) -> None:
        """Make the controller, or find the one that runs."""
        remote: Any = ray.remote
        self.controller = (
            remote(Controller)
            .options(
                name=CONTROLLER,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_concurrency=100,
                num_cpus=0,
            )
            .remote(config, pools)
        )

    def start(self, stopped: Callable[[], bool] = lambda: False) -> int | None:
        """Wait until events can be acked; returns the HTTP port, or None where `stopped()` came first.

        Raises what the start failed with.
        """
        ref = self.controller.run.remote()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ray.wait([ref], timeout=LOOK_S)[0]:
            if stopped():
                return None
            if time.monotonic() > deadline:
                raise EaglerayError(f"no worker answered within {START_TIMEOUT_S:g} s")
        port: int = _result(ref)
        return port

    def report(self) -> StartReport:
        """How far the start of all workers is."""
        found: StartReport = _result(self.controller.start_report.remote())
        return found

    def drain(self, timeout_s: float) -> bool:
        """Stop taking events and commit what was acked; True if all was committed in time."""
        try:
            done: bool = ray.get(self.controller.drain.remote(timeout_s), timeout=timeout_s + 20)
        except ray.exceptions.RayError:
            return False
        ray.kill(self.controller)
        return done


def _result(ref: Any) -> Any:
    """What the controller's call returned or raised."""
    try:
        return ray.get(ref, timeout=START_TIMEOUT_S)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
        raise EaglerayError(f"the controller does not answer: {error}") from None
