"""`eagleray deploy`, `undeploy`, `drain`: a platform that lives in a Ray cluster, whoever started it.

`deploy` does what `up --address` does and returns: controller and workers are detached, and go on by themselves. They
are run where Ray can be joined: on one of the cluster's nodes, with its token.
"""

from __future__ import annotations

import sys
import time
import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile, InsecureRay
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.owner_key import ensure_owner_key, make_private, owner_key_file
from eagleray.cluster.telemetry.logging import configure

if TYPE_CHECKING:  # the imports are for later, after the configuration was read
    from eagleray.actors.host import Kind
    from eagleray.actors.platform import Platform
    from eagleray.cluster.ray_session import Session

Address = Annotated[str, typer.Option(help="The Ray cluster: `auto` for that of this machine, or host:port.")]
LOOK_S = 0.5
DRAIN_NODE_S = 120.0


def deploy(
    config_file: ConfigFile = DEFAULT_CONFIG, address: Address = "auto", insecure_ray: InsecureRay = False
) -> None:
    """Start the platform in a Ray cluster and return when events can be sent; prints `ready URL`."""
    from eagleray.cluster.ray_session import connect

    configure("console", "warning")
    config = load_config(config_file, insecure_ray=insecure_ray)
    make_private(config.data_dir)
    if config.edge.auth == "required" and ensure_owner_key(config, SystemClock()):
        print(f"made an API key: {owner_key_file(config.data_dir)}", file=sys.stderr, flush=True)
    session = connect(config, address)
    try:
        from eagleray.actors.platform import Platform

        platform = Platform.begin(config, prepared(config), uuid.uuid4().hex)
        platform.start(lambda: False)
        announce(config, platform)
    finally:
        session.close()


def prepared(config: Config) -> dict[str, Kind]:
    """Check project, log and tables, as `up` does; how each pool's workers are made. Raises as `up` does."""
    from eagleray.actors.platform import kinds
    from eagleray.cli.up import POSTGRES, SCHEDULER, SQL_WORKER, bind, check
    from eagleray.cluster.ray_session import made_from

    streams = check(config)
    return kinds(bind(config, streams, _say), SQL_WORKER, SCHEDULER, POSTGRES, cluster=made_from(config))


def announce(config: Config, platform: Platform) -> None:
    """Print where the platform is, and leave word of it for the commands of this project on this machine."""
    from eagleray.cli.session_again import write_platform
    from eagleray.cluster.client.target import platform_file

    url = platform.urls()[0]
    write_platform(platform_file(config.data_dir), url, config.data_dir)
    print(f"ready {url}", flush=True)


def undeploy(
    address: Address = "auto",
    timeout_s: Annotated[float, typer.Option(help="Seconds for everything that was acked to be committed.")] = 60.0,
    insecure_ray: InsecureRay = False,
) -> None:
    """Take no more events, commit what was acked, and end the platform in a Ray cluster."""
    session, platform = _joined(address, insecure_ray)
    try:
        if not platform.drain(timeout_s):
            raise EaglerayError(
                "not everything was committed in time; what was acked is in the log, and the next `deploy` goes on"
            )
    finally:
        session.close()
    print("ended", flush=True)


def drain(
    node: Annotated[str, typer.Argument(help="The node's address, or the beginning of its id.")],
    address: Address = "auto",
    back: Annotated[bool, typer.Option("--back", help="Let it have workers again.")] = False,
    timeout_s: Annotated[float, typer.Option(help="Seconds to wait until it is empty.")] = DRAIN_NODE_S,
    insecure_ray: InsecureRay = False,
) -> None:
    """Have other nodes take over what a node does, and keep it empty; returns when nothing is left there."""
    session, platform = _joined(address, insecure_ray)
    try:
        deadline = time.monotonic() + timeout_s
        while not platform.drain_node(node, back):
            if time.monotonic() > deadline:
                raise EaglerayError(f"{node} is not empty after {timeout_s:g} s; see `eagleray status`")
            time.sleep(LOOK_S)
    finally:
        session.close()
    print(f"{node}: {'takes workers again' if back else 'empty'}", flush=True)


def _joined(address: str, insecure: bool) -> tuple[Session, Platform]:
    from eagleray.actors.platform import Platform
    from eagleray.cluster.ray_session import join

    configure("console", "warning")
    session = join(address, insecure)
    try:
        return session, Platform.find()
    except EaglerayError:
        session.close()
        raise


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
