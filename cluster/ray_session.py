"""The Ray session: a local cluster of our own, or the one at an address. The only place that starts or stops Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.ray_auth import admits_strangers, drop_token, make_token, own_variables, use_own_token, use_token
from eagleray.cluster.ray_node.directories import Directory
from eagleray.cluster.ray_node.environment import LOOPBACK, SESSION
from eagleray.cluster.ray_node.node import OBJECT_STORE_BYTES, RAY_FILES, STOP_S, RayNode, free_port

NAMESPACE = "eagleray"


@dataclass(frozen=True)
class Session:
    """A joined Ray cluster; `node` is set where it is our own and ends with `close`."""

    node: RayNode | None = None

    def close(self) -> None:
        """Leave the cluster; stop it and remove its files if it is our own."""
        ray.shutdown()
        if self.node:
            drop_token(self.node.token)
            self.node.stop()


def connect(config: Config, address: str | None) -> Session:
    """Start Ray on this machine, or join the cluster at `address`.

    Raises ConfigError where the log cannot serve the cluster, or where the cluster lets anybody in and
    `ray.insecure` does not allow it; EaglerayError where Ray does not start.
    """
    if address:
        return _join(config, address)
    node = RayNode()
    try:
        return enter(node)
    except BaseException:
        node.stop()
        raise


def enter(node: RayNode) -> Session:
    """Join a node of our own, once it is up; raises EaglerayError where it does not start."""
    use_token(node.token)
    ray.init(
        address=node.address(),
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
        _node_ip_address=LOOPBACK,
    )
    return Session(node)


@contextmanager
def job_server() -> Iterator[str]:
    """A Ray with a job server on this machine, for the time of the block; the URL of the server.

    Started by Ray's own command, which alone lets its agent listen on a port of one's choice: a second Ray on a machine
    takes no jobs otherwise, and `eagleray up` may be the first.
    """
    home = Directory()
    try:
        with own_variables():
            use_token(make_token(home.path))
            with _head(home.path) as url:
                yield url
    finally:
        home.remove()


@contextmanager
def _head(directory: Path) -> Iterator[str]:
    port, dashboard, agent = (free_port() for _ in range(3))
    options = {
        "port": port, "dashboard-port": dashboard, "dashboard-agent-listen-port": agent,
        "temp-dir": directory / RAY_FILES,
        "dashboard-host": "127.0.0.1", "node-ip-address": LOOPBACK, "include-dashboard": "true",
        "num-cpus": max(2, os.cpu_count() or 2), "object-store-memory": OBJECT_STORE_BYTES,
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in options.items()]
    with (directory / "start.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *words],
            env={**SESSION, **os.environ},
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the command, which stops it in order
        )
    try:
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        process.terminate()  # and it ends all that it has started
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _join(config: Config, address: str) -> Session:
    use_own_token()
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    if not config.ray.insecure and admits_strangers(ray.get_runtime_context().gcs_address):
        ray.shutdown()
        raise ConfigError(
            "--address",
            f"the Ray cluster at {address} lets anyone who reaches it run code (CVE-2023-48022); start it with "
            "RAY_AUTH_MODE=token, or accept the risk with --insecure-ray",
        )
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if config.log.backend == "embedded" and len(nodes) > 1:
        ray.shutdown()
        raise ConfigError(
            f"{config.file}: log.backend",
            f"the embedded log works on one machine and this cluster has {len(nodes)} nodes; expected kafka",
        )
    return Session()
