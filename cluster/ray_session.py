"""The Ray session: a local cluster of our own, or the one at an address. The only place that starts or stops Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.one_machine import check_nodes
from eagleray.cluster.owned_directory import Directory
from eagleray.cluster.ray_auth import admits_strangers, drop_token, make_token, own_variables, use_own_token, use_token
from eagleray.cluster.ray_node.environment import LOOPBACK, SESSION
from eagleray.cluster.ray_node.node import OBJECT_STORE_BYTES, RAY_FILES, STOP_S, RayNode, free_port

NAMESPACE = "eagleray"
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in a submitted job: how it was submitted, as JSON


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
    _keep_stdout()
    return Session(node)


def _keep_stdout() -> None:
    """Have Ray print nothing on this process's stdout: it would tell of every worker that ends, `log_to_driver` or not.

    What becomes of workers is in the controller's log.
    """
    worker: Any = ray._private.worker
    worker._worker_logs_enabled = False


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


KEPT_HERE = ("__pycache__", "*.pem", "*.key", "*.p12", "*.db")
"""Files of a project that do not travel to other nodes: secrets, and what tools leave. Hidden ones do not either."""


def _project(config: Config) -> dict[str, Any] | None:
    """The runtime environment of everything that is made in a cluster: the project's files, without its data.

    None in a submitted job that brought its files: they travel already, and Ray refuses a second folder beside them.
    """
    submitted = json.loads(os.environ.get(JOB_CONFIG) or "{}")
    if "working_dir" in (submitted.get("runtime_env") or {}):
        return None
    folder = config.file.parent
    data = [f"/{config.data_dir.relative_to(folder)}"] if config.data_dir.is_relative_to(folder) else []
    hidden = [f"/{entry.name}" for entry in folder.iterdir() if entry.name.startswith(".")]
    return {"working_dir": str(folder), "excludes": [*KEPT_HERE, *data, *hidden]}


def _join(config: Config, address: str) -> Session:
    session = join(address, config.ray.insecure, _project(config))
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    try:
        check_nodes(config, len(nodes))
    except ConfigError:
        ray.shutdown()
        raise
    return session


def as_here(config: Config) -> Config:
    """The configuration with the project's files where this node has them: Ray unpacked them, if they came with it."""
    if "working_dir" not in ray.get_runtime_context().runtime_env:
        return config
    return config.model_copy(update={"file": Path.cwd() / config.file.name})


def made_from(config: Config) -> str:
    """The version of what this process makes in the cluster that it has joined with `connect`: two names and a dot.

    The first is that of the streams: workers of two versions work beside each other only where it is the same.
    """
    files = str(ray.get_runtime_context().runtime_env.get("working_dir", ""))
    streams = sha256(repr([config.streams, config.log, config.state, config.warehouse, config.catalog_uri]).encode())
    for file in sorted(config.file.parent.rglob("*")):
        inside = file.relative_to(config.file.parent)
        if (
            file.suffix in (".json", ".py")
            and not inside.is_relative_to(config.jobs.folder)
            and not file.is_relative_to(config.data_dir)
        ):
            streams.update(str(inside).encode() + file.read_bytes())
    rest = sha256(f"{version('eagleray')} {config.digest} {files}".encode())
    return f"{streams.hexdigest()[:12]}.{rest.hexdigest()[:12]}"


def join(address: str, insecure: bool, runtime_env: dict[str, Any] | None = None) -> Session:
    """Join the cluster at `address`; what is made in it gets `runtime_env`.

    Raises ConfigError where it lets anybody in and `insecure` does not allow that, or has another Ray or Python;
    EaglerayError where nothing answers.
    """
    use_own_token()
    options = {"address": address, "namespace": NAMESPACE, "log_to_driver": False, "configure_logging": False}
    try:
        ray.init(**options, runtime_env=runtime_env)  # type: ignore[arg-type]
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise ConfigError("--address", _other_version(str(error))) from None
    _keep_stdout()
    if not insecure and admits_strangers(ray.get_runtime_context().gcs_address):
        ray.shutdown()
        raise ConfigError(
            "--address",
            f"the Ray cluster at {address} lets anyone who reaches it run code (CVE-2023-48022); start it with "
            "RAY_AUTH_MODE=token, or accept the risk with --insecure-ray",
        )
    return Session()


def _other_version(said: str) -> str:
    """One sentence of Ray's several: which versions the cluster and this process have."""
    found = re.findall(r"Ray: (\S+)\s+Python: (\S+)", said)
    theirs, ours = (f"Ray {ray_} on Python {python}" for ray_, python in found[:2]) if len(found) > 1 else ("?", "?")
    return f"the cluster has {theirs} and this is {ours}: one cluster cannot mix them; a second one can take over"
