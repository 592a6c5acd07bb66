"""`eagleray rollout`: has the platform of a cluster go by a changed configuration, worker by worker, under load.

1. What cannot be mixed is refused, and nothing is changed.
2. The controller ends, and one that was made from the new version goes on with the workers that live. It replaces them,
   one of each pool at a time: another is made beside it, and when that answers, the old one leaves.
3. Where a new worker cannot be made, or it takes too long, a controller of the old version goes on, in the same way.

Acked events are in the log whatever happens in between; edges take events while a controller is made.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from eagleray.cli.deploy import Address, announce, prepared
from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile, InsecureRay
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.telemetry.logging import configure

if TYPE_CHECKING:
    from eagleray.actors.messages import Origin
    from eagleray.actors.platform import Platform

LOOK_S = 1.0


def rollout(
    config_file: ConfigFile = DEFAULT_CONFIG,
    address: Address = "auto",
    timeout_s: Annotated[float, typer.Option(help="Seconds until every worker is replaced; then it goes back.")] = 600,
    insecure_ray: InsecureRay = False,
) -> None:
    """Have a cluster's platform go by a changed configuration, worker by worker, under load."""
    from eagleray.cluster.ray_session import connect

    configure("console", "warning")
    config = load_config(config_file, insecure_ray=insecure_ray)
    session = connect(config, address)
    try:
        import ray

        from eagleray.actors.messages import Origin
        from eagleray.actors.platform import Platform

        platform = Platform.find(config.pools.stalled_after_s)
        before = platform.origin()
        _refuse_mixing(before, config)
        after = Origin(config, prepared(config), before.run, dict(ray.get_runtime_context().runtime_env))
        if after.version != before.version:
            platform = _go(platform, before, after, timeout_s)
        announce(config, platform)
    finally:
        session.close()


def _refuse_mixing(before: Origin, config: Config) -> None:
    """Raise ConfigError where workers of both versions cannot work beside each other."""
    from eagleray.cluster.ray_session import made_from

    if before.version.partition(".")[0] != made_from(config).partition(".")[0]:
        raise ConfigError(
            f"{config.file}: streams",
            "streams, schemas, log, catalog and warehouse cannot change under load, since workers of both versions "
            "work beside each other meanwhile; `eagleray undeploy` and `eagleray deploy` change them",
        )
    for name in ("host", "port"):
        if getattr(before.config.edge, name) != getattr(config.edge, name):
            raise ConfigError(f"{config.file}: edge.{name}", "it cannot change under load: clients would not find it")


def _go(platform: Platform, before: Origin, after: Origin, timeout_s: float) -> Platform:
    """The platform, when every worker is of the version `after`; raises EaglerayError when it has gone back."""
    platform = platform.succeed(after)
    why = _until_renewed(platform, timeout_s)
    if not why:
        return platform
    _say(f"{why}; going back")
    if again := _until_renewed(platform.succeed(before), timeout_s):
        raise EaglerayError(
            f"{why}; going back is not done either: {again}. Nothing acked is lost: see `eagleray status`"
        )
    raise EaglerayError(f"{why}; all workers are of the version before again")


def _until_renewed(platform: Platform, timeout_s: float) -> str:
    """Why not every worker became of the platform's version within `timeout_s`; empty: all are."""
    deadline, told = time.monotonic() + timeout_s, -1
    stale = None
    while time.monotonic() < deadline:
        report = platform.hear(LOOK_S)
        if report and report.failures:
            return str(report.failures[0])
        stale = platform.stale()
        if stale == [] and report and report.complete:
            return ""
        if stale is not None and len(stale) != told:
            told = len(stale)
            _say(f"{told} workers to go")
        time.sleep(LOOK_S)
    return f"not every worker was replaced within {timeout_s:g} s: {', '.join(stale or ['nobody answers'])}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
