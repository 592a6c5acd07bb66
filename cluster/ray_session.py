"""The Ray session: a local cluster of our own, or the one at an address. The only place that starts or stops Ray."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.ray_auth import admits_strangers, drop_token, make_token, own_variables, use_own_token, use_token

NAMESPACE = "eagleray"
STOP_S = 30.0
# Some of Ray's servers listen on the node's address alone. Ray replaces 127.0.0.1 by the one that others reach.
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else None
RAY_FILES = "r"  # below the session's directory, which is 0700; Ray makes its own 0777
OBJECT_STORE_BYTES = 512 << 20  # calls carry ≤ 4 MiB; what is in flight is bounded by edge.in_flight_bytes_max

_LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "DAFT_ANALYTICS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",  # /metrics is ours
    # Ray's own metrics of these two are open to anybody on every address; no port, no server.
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
    "RAY_event_stats": "0",  # Ray's own notes on every event and task that it handles: 5 % of the processor
    "RAY_task_events_report_interval_ms": "0",
    "RAY_max_direct_call_object_size": str(2 << 20),  # a micro-batch travels in its call, not through shared memory
    "MALLOC_ARENA_MAX": "2",  # glibc gives each of a process's many threads memory of its own: 5 % more in all
    "RAY_worker_niceness": "0",  # Ray's 15 lets any other process of the machine starve ours: acks wait
}


@dataclass(frozen=True)
class Session:
    """A joined Ray cluster; `directory` is set where it is our own and goes with `close`."""

    directory: Path | None = None

    def close(self) -> None:
        """Leave the cluster; stop it and remove its files if it is our own."""
        ray.shutdown()
        if self.directory:
            drop_token(self.directory)
            shutil.rmtree(self.directory, ignore_errors=True)


def connect(config: Config, address: str | None) -> Session:
    """Start Ray on this machine, or join the cluster at `address`.

    Raises ConfigError where the log cannot serve the cluster, or where the cluster lets anybody in and
    `ray.insecure` does not allow it.
    """
    return _join(config, address) if address else _start()


@contextmanager
def job_server() -> Iterator[str]:
    """A Ray with a job server on this machine, for the time of the block; the URL of the server.

    Started by Ray's own command, which alone lets its agent listen on a port of one's choice: a second Ray on a machine
    takes no jobs otherwise, and `eagleray up` may be the first.
    """
    directory = Path(tempfile.mkdtemp(prefix="er-"))
    with own_variables():
        use_token(make_token(directory))
        with _head(directory) as url:
            yield url


@contextmanager
def _head(directory: Path) -> Iterator[str]:
    port, dashboard, agent = _free_ports(3)
    options = {
        "port": port, "dashboard-port": dashboard, "dashboard-agent-listen-port": agent,
        "temp-dir": directory / RAY_FILES,
        "dashboard-host": "127.0.0.1", "node-ip-address": LOOPBACK or "127.0.0.1", "include-dashboard": "true",
        "num-cpus": max(2, os.cpu_count() or 2), "object-store-memory": OBJECT_STORE_BYTES,
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in options.items()]
    with (directory / "start.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *words],
            env={**_LOCAL_ENVIRONMENT, **os.environ},
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
        shutil.rmtree(directory, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]


def _start() -> Session:
    for name, value in _LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Unix sockets allow 107 bytes of path, so the session gets a short temporary directory of its own.
    directory = Path(tempfile.mkdtemp(prefix="er-"))
    use_token(make_token(directory))
    ray.init(
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        num_cpus=max(2, os.cpu_count() or 2),
        object_store_memory=OBJECT_STORE_BYTES,
        _node_ip_address=LOOPBACK,
        _temp_dir=str(directory / RAY_FILES),
    )
    return Session(directory)


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
