"""The platform a command talks to, and as whom: by option or environment, else the project's own platform and key."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from pathlib import Path

from eagleray.cluster.client.http import Client
from eagleray.cluster.client.trust import trust, trust_own
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.owner_key import read_owner_key


def platform_file(data_dir: Path) -> Path:
    """Where a running platform leaves its URL and process id."""
    return data_dir / "platform.json"


@dataclass(frozen=True)
class Target:
    """A platform's URL, the API key to use there, if any, and whom to believe to be the platform."""

    url: str
    key: str | None
    context: ssl.SSLContext | None = None  # of https

    def client(self, timeout_s: float = 30.0) -> Client:
        """A client of it."""
        return Client(self.url, self.key, timeout_s, self.context)


def find_target(
    url: str | None, key: str | None, config_file: Path, ca: Path | None = None, cert: Path | None = None
) -> Target:
    """The platform at `url` with `key`; without a URL the project's own, and its owner's key where none is given.

    The owner's key is for the project's own platform alone: it is never sent to a URL that the user names. `ca` and
    `cert` are those of `trust.trust`. Raises ConfigError where neither a URL nor a configuration is given.
    """
    place = find_platform(url, config_file)
    if url:
        return Target(place, key, trust(ca, cert) if place.startswith("https:") else None)
    from eagleray.cluster.config import load_config

    config = load_config(config_file)
    context = None
    if config.edge.tls is not None:
        context = trust(ca, cert) if ca is not None else trust_own(config.edge.tls.cert, cert)
    return Target(place, key or read_owner_key(config.data_dir), context)


def find_platform(url: str | None, config_file: Path) -> str:
    """The platform's URL; raises ConfigError where neither a URL nor a configuration is given, or it is another's."""
    if url:
        return url.rstrip("/")
    from eagleray.cluster.config import load_config  # not needed with --url, and slow to import

    config = load_config(config_file)
    try:
        found = json.loads(platform_file(config.data_dir).read_text())
        home = Path(found.get("data_dir", config.data_dir))
        if home.resolve() != config.data_dir.resolve():  # copied with the project
            problem = f"names the platform of {home}"
            raise ConfigError(
                str(platform_file(config.data_dir)), f"{problem}; start this project's own, or give --url"
            )
        return str(found["url"])
    except (OSError, ValueError, KeyError, TypeError):
        if config.edge.port == 0:
            raise ConfigError(
                f"{config_file}: edge.port", "is 0 and no platform runs here; start one, or give --url"
            ) from None
        return config.edge.url(config.edge.port)


def connect(
    url: str | None, key: str | None, config_file: Path, ca: Path | None = None, cert: Path | None = None
) -> Client:
    """A client of the platform that `find_target` finds; raises ConfigError."""
    return find_target(url, key, config_file, ca, cert).client()
