"""Settings that mean a file of one machine: refused where a platform has several nodes. Asked by `up` and `check`."""

from __future__ import annotations

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError


def check_nodes(config: Config, nodes: int) -> None:
    """Raise ConfigError, which names the setting, where one means a file of one machine and there are more."""
    if nodes < 2:
        return
    file = config.file
    if config.log.backend == "embedded":
        problem = f"the embedded log works on one machine and this cluster has {nodes} nodes; expected kafka"
        raise ConfigError(f"{file}: log.backend", problem)
    if "://" not in config.warehouse:
        problem = f"{config.warehouse} is on one machine and this cluster has {nodes} nodes; expected s3://BUCKET/…"
        raise ConfigError(f"{file}: lake.warehouse", problem)
    for key, uri in (("lake.catalog.uri", config.catalog_uri), ("jobs.history", config.jobs_history)):
        if uri.startswith("sqlite:") and (key != "lake.catalog.uri" or config.lake.catalog.type == "sql"):
            problem = f"a SQLite file is on one machine and this cluster has {nodes} nodes; expected postgresql://…"
            raise ConfigError(f"{file}: {key}", problem)
    if config.state.backend == "embedded":
        problem = f"files in {config.data_dir} are on one machine and this cluster has {nodes} nodes; expected shared"
        raise ConfigError(f"{file}: state.backend", problem)
