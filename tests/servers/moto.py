"""moto: S3 and Glue as mocks, for calls that versitygw lacks. In an environment of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from tests.servers.installed import installed, run
from tests.servers.process import Server, free_port, running

VERSION = "5.2.5"
KEYS: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": "any",
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def _make(place: Path) -> None:
    run(sys.executable, "-m", "venv", "env", cwd=place)
    uv = Path(sys.executable).parent / "uv"
    packages = [f"moto[server]=={VERSION}"]
    run(str(uv), "pip", "install", "--quiet", "--python", str(place / "env/bin/python"), *packages, cwd=place)


def moto_server(directory: Path) -> AbstractContextManager[Server]:
    """A running server; ended whatever happens inside."""
    directory.mkdir(parents=True, exist_ok=True)
    python = installed(f"moto-{VERSION}", _make) / "env/bin/python"
    port = free_port()
    return running(
        Server([str(python), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, directory / "moto.log")
    )
