"""The platform a command talks to, and as whom: by option or environment, else the project's own platform and key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from eagleray.cluster.client.http import Client
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.owner_key import read_owner_key


def platform_file(data_dir: Path) -> Path:
    """Where a running platform leaves its URL and process id."""
    return data_dir / "platform.json"


@dataclass(frozen=True)
class Target:
    """A platform's URL and the API key to use there, if any."""

    url: str
    key: str | None


def find_target(url: str | None, key: str | None, config_file: Path) -> Target:
    """The platform at `url` with `key`; without a URL the project's own, and its owner's key where none is given.

    The owner's key is for the project's own platform alone: it is never sent to a URL that the user names. Raises
    ConfigError where neither a URL nor a configuration is given.
    """
    place = find_platform(url, config_file)
    if url or key:
        return Target(place, key)
    from eagleray.cluster.config import load_config

    return Target(place, read_owner_key(load_config(config_file).data_dir))


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
    """A client of the platform that `find_target` finds; raises ConfigError."""
    target = find_target(url, key, config_file)
    return Client(target.url, target.key, timeout_s)
