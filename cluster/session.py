"""The Ray session: a local cluster of our own, or the one at an address. The only place that starts or stops Ray."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cluster.config import Config
from cluster.errors import ConfigError

NAMESPACE = "eagleray"
OBJECT_STORE_BYTES = 512 << 20  # calls carry ≤ 4 MiB; what is in flight is bounded by edge.in_flight_bytes_max

_LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # loopback only; a cluster of one's own decides for itself
    "RAY_enable_metrics_collection": "0",  # /metrics is ours
    "RAY_max_direct_call_object_size": str(2 << 20),  # a micro-batch travels in its call, not through shared memory
    "RAY_worker_niceness": "0",  # Ray's 15 lets any other process of the machine starve ours: acks wait
}


@dataclass(frozen=True)
class Session:
    """A joined Ray cluster; `directory` is set where it is our own and goes with `close`."""

    directory: Path | None = None
    jobs_url: str | None = None  # of the job server, where one was started

    def close(self) -> None:
        """Leave the cluster; stop it and remove its files if it is our own."""
        ray.shutdown()
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)


def connect(config: Config, address: str | None) -> Session:
    """Start Ray on this machine, or join the cluster at `address`; raises ConfigError where the log cannot serve it."""
    return _join(config, address) if address else _start()


def serve_jobs() -> Session:
    """Start Ray with a job server on this machine, for `eagleray job submit`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    session = _start(include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=port)
    return Session(session.directory, f"http://127.0.0.1:{port}")


def _start(**settings: Any) -> Session:
    for name, value in _LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Unix sockets allow 107 bytes of path, so the session gets a short temporary directory of its own.
    directory = Path(tempfile.mkdtemp(prefix="er-"))
    ray.init(
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
        num_cpus=max(2, os.cpu_count() or 2),
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=str(directory),
        **{"include_dashboard": False, **settings},
    )
    return Session(directory)


def _join(config: Config, address: str) -> Session:
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if config.log.backend == "embedded" and len(nodes) > 1:
        ray.shutdown()
        raise ConfigError(
            f"{config.file}: log.backend",
            f"the embedded log works on one machine and this cluster has {len(nodes)} nodes; expected kafka",
        )
    return Session()
