"""A Postgres of its own in a temporary directory, from the machine's packages (Debian: `postgresql`).

In continuous integration (`CI` is set), root installs them on Debian and Ubuntu, as `.ci/install` does with a compiler.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tests.servers.installed import INSTALL_TIMEOUT_S
from tests.servers.process import LOOPBACK, free_port

PACKAGES = Path("/usr/lib/postgresql")


def _binaries() -> Path | None:
    return next((found for found in sorted(PACKAGES.glob("*/bin")) if (found / "initdb").exists()), None)


def missing() -> str:
    """Why there can be no server here; empty where there can."""
    if os.getuid() != 0 or shutil.which("runuser") is None:
        return "PostgreSQL is started as another user, by root alone"
    if _binaries() is None and os.environ.get("CI") and shutil.which("apt-get"):
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "postgresql"]):
            subprocess.run(["apt-get", *words], env=environ, capture_output=True, timeout=INSTALL_TIMEOUT_S)
    return "" if _binaries() else "no PostgreSQL binaries here (Debian: apt-get install postgresql)"


class PostgresServer:
    """Databases in `home`, for the user `eagleray`, without a password, for whoever reaches `host`."""

    def __init__(self, home: Path, connections_max: int = 60, host: str = LOOPBACK) -> None:
        """Make the databases; nothing is started."""
        self.home = home
        self.host, self.port = host, free_port(host)
        self._connections_max = connections_max
        self._run("initdb", "-A", "trust", "-U", "eagleray", "--no-sync")
        if host != LOOPBACK:
            with (home / "db" / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")

    @property
    def url(self) -> str:
        """The database that is there from the beginning."""
        return f"postgresql://eagleray@{self.host}:{self.port}/postgres"

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"d{uuid4().hex}"
        self.sql(f"CREATE DATABASE {name}")
        return f"postgresql://eagleray@{self.host}:{self.port}/{name}"

    def sql(self, statement: str) -> None:
        """Run a statement outside of any transaction."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def _run(self, program: str, *words: str) -> None:
        binaries = _binaries()
        assert binaries
        command = [str(binaries / program), "-D", str(self.home / "db"), *words]
        subprocess.run(["runuser", "-u", "postgres", "--", *command], check=True, capture_output=True, cwd=self.home)

    def start(self) -> None:
        """Start and wait until it answers."""
        options = (
            f"-p {self.port} -c listen_addresses={self.host} -c unix_socket_directories={self.home}"
            f" -c max_connections={self._connections_max} -c superuser_reserved_connections=0"
        )
        self._run("pg_ctl", "-w", "-l", str(self.home / "log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """End it: `immediate` as if killed, `fast` rolls back and closes."""
        self._run("pg_ctl", "-m", mode, "stop")

    def kill(self) -> None:
        """End all of its processes at once."""
        own = [int(pid) for pid in Path(f"/proc/{self.pid()}/task/{self.pid()}/children").read_text().split()]
        for pid in (self.pid(), *own):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(Path(f"/proc/{pid}").exists() for pid in own):
            time.sleep(0.05)

    def pid(self) -> int:
        """Of its first process."""
        return int((self.home / "db" / "postmaster.pid").read_text().split()[0])


@contextmanager
def postgres_server(connections_max: int = 60, host: str = LOOPBACK) -> Iterator[PostgresServer]:
    """A running server; ended and deleted whatever happens inside."""
    home = Path(tempfile.mkdtemp(prefix="eagleray-postgres-", dir="/tmp"))
    home.chmod(0o777)
    try:
        server = PostgresServer(home, connections_max, host)
        server.start()
        try:
            yield server
        finally:
            if (home / "db" / "postmaster.pid").exists():
                server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)
