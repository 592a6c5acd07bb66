"""A Redis of its own on a free port, from the machine's packages (Debian: `redis-server`): what a Ray head leaves."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from tests.servers.process import LOOPBACK, Server, free_port, running

PASSWORD = "lab-secret"


def missing() -> str:
    """Why there can be no server here; empty where there can."""
    return "" if shutil.which("redis-server") else "no redis-server here (Debian: apt-get install redis-server)"


def redis_server(directory: Path, host: str = LOOPBACK) -> AbstractContextManager[Server]:
    """A running server that writes what it is told to disk; ended whatever happens inside."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port(host)
    command = ["redis-server", "--port", str(port), "--bind", host, "--requirepass", PASSWORD]
    command += ["--dir", str(directory), "--appendonly", "yes", "--protected-mode", "no"]
    return running(Server(command, port, directory / "redis.log", host=host))
