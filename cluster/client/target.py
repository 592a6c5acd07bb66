"""The platform a command talks to: `--url`, else what `up` noted in the data directory, else the configured port."""

from __future__ import annotations

import json
from pathlib import Path

from eagleray.cluster.client.http import Client
from eagleray.cluster.errors import ConfigError


def platform_file(data_dir: Path) -> Path:
    """Where a running platform leaves its URL and process id."""
    return data_dir / "platform.json"


def find_platform(url: str | None, config_file: Path) -> str:
    """The platform's URL; raises ConfigError where neither a URL nor a configuration is given."""
    if url:
        return url.rstrip("/")
    from eagleray.cluster.config import load_config  # not needed with --url, and slow to import

    config = load_config(config_file)
    try:
        return str(json.loads(platform_file(config.data_dir).read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        if config.edge.port == 0:
            raise ConfigError(
                f"{config_file}: edge.port", "is 0 and no platform runs here; start one, or give --url"
            ) from None
        host = "127.0.0.1" if config.edge.host in ("0.0.0.0", "::") else config.edge.host
        return f"http://{host}:{config.edge.port}"


def connect(url: str | None, key: str | None, config_file: Path, timeout_s: float = 30.0) -> Client:
    """A client of the platform that `find_platform` finds; raises ConfigError."""
    return Client(find_platform(url, config_file), key, timeout_s)
