"""A server as a child process on a free port: started, waited for, killed, stopped by SIGSTOP, started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

START_TIMEOUT_S = 120.0


LOOPBACK = "127.0.0.1"


def free_port(host: str = LOOPBACK) -> int:
    """A port of `host` that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """`command` listens on `port` of `host`; its output goes to `log`."""

    def __init__(
        self, command: Sequence[str], port: int, log: Path, environ: Mapping[str, str] = {}, host: str = LOOPBACK
    ) -> None:
        """Nothing is started yet."""
        self.host, self.port = host, port
        self._command = list(command)
        self._log = log
        self._environ = {**os.environ, **environ}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Start it and wait until its port answers; raises AssertionError with its output where it does not."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environ, start_new_session=True
            )

    def wait(self) -> None:
        """Until its port answers; as `start`."""
        assert self._process
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{self._command[0]} does not listen:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
            return True
        return False

    def signal(self, number: int) -> None:
        """Signal it."""
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        if self._process:
            self._process.wait()


S = TypeVar("S", bound=Server)


@contextlib.contextmanager
def running(server: S) -> Iterator[S]:
    """The server, started; ended whatever happens inside."""
    server.start()
    try:
        yield server
    finally:
        server.kill()
