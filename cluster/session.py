"""The Ray session: a local cluster of our own, or the one at an address. The only place that starts or stops Ray."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import ray

from cluster.config import Config
from cluster.errors import ConfigError

NAMESPACE = "eagleray"
OBJECT_STORE_BYTES = 512 << 20  # events pass through in ≤ 4 MiB calls; bounded by edge.in_flight_bytes_max

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # loopback only; a cluster of one's own decides for itself
    "RAY_enable_metrics_collection": "0",  # /metrics is our own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


def connect(config: Config, address: str | None) -> None:
    """Start Ray on this machine, or join the cluster at `address`; raises ConfigError where the log cannot serve it."""
    if address is None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # Unix sockets allow 107 bytes of path: the session lives in a short temporary directory of its own.
        temporary = tempfile.mkdtemp(prefix="er-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
        ray.init(
            namespace=NAMESPACE,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            num_cpus=max(2, os.cpu_count() or 2),
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=temporary,
        )
        return
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if config.log.backend == "embedded" and len(nodes) > 1:
        raise ConfigError(
            f"{config.file}: log.backend",
            f"the embedded log works on one machine and this cluster has {len(nodes)} nodes; expected kafka",
        )


def disconnect() -> None:
    """Leave the cluster, and stop it if `connect` started it."""
    temporary = Path(ray.get_runtime_context().get_session_dir() if hasattr(ray.get_runtime_context(), "get_session_dir") else "/nonexistent").parent if ray.is_initialized() else None
    ray.shutdown()
    if temporary and temporary.name.startswith("er-"):
        import shutil

        shutil.rmtree(temporary, ignore_errors=True)
