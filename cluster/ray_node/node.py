"""A Ray node on this machine for a session of our own, as its maker sees it: started at once, joined when it is up."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.owned_directory import Directory, sweep
from eagleray.cluster.ray_auth import TOKEN, make_token
from eagleray.cluster.ray_node import environment
from eagleray.cluster.ray_node.worker_start import SOCKET

STOP_S = 30.0
RAY_FILES = "r"  # below the session's directory, which is 0700; Ray makes its own 0777
OBJECT_STORE_BYTES = 512 << 20  # calls carry ≤ 4 MiB; edge.in_flight_bytes_max bounds what is in flight


class RayNode:
    """GCS and raylet in processes below a keeper (`ray_node.keeper`), which ends with this process."""

    def __init__(self, said: Callable[[str], None] = lambda text: None) -> None:
        """Begin to start it; `said` hears what people should know. Directories of dead sessions go first."""
        sweep()
        environment.defaults()
        self._said = said
        self._directory = Directory()
        self.token = make_token(self._directory.path)
        self._address = ""
        self._names: dict[str, str] = {}  # of the node's processes, by pid
        self.warm_socket = self._directory.path / "warm"
        inherited = {name: value for name, value in os.environ.items() if name != TOKEN}
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "eagleray.cluster.ray_node.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**inherited, **self.token, SOCKET: str(self.warm_socket)},
            start_new_session=True,  # Ctrl-C is for this process, which stops it in order
        )
        options = {"directory": str(self._directory.path / RAY_FILES), "cpus": max(2, os.cpu_count() or 2)}
        options |= {"store": OBJECT_STORE_BYTES, "port": free_port()}
        assert self._keeper.stdin and self._keeper.stdout
        self._stdin, self._stdout = self._keeper.stdin, self._keeper.stdout
        self._stdin.write(json.dumps(options).encode() + b"\n")
        self._stdin.flush()

    @property
    def pid(self) -> int:
        """The keeper's process; it lives as long as the node."""
        return self._keeper.pid

    @property
    def directory(self) -> Path:
        """Ray's files, the logs of its processes among them."""
        return self._directory.path / RAY_FILES

    def address(self) -> str:
        """Wait until it is up; returns what `ray.init` takes. Raises EaglerayError where it does not start."""
        while not self._address:
            message = self._read()
            if "said" in message:
                self._said(message["said"])
            elif "address" in message:
                self._address, self._names = message["address"], message["names"]
            else:
                reason = message.get("failed", "the process that starts Ray ended")
                raise EaglerayError(f"{reason}; the logs are in {self.directory}/session_latest/logs")
        return self._address

    def ended(self) -> str | None:
        """What of the node has ended, against our will; None: it runs. For when `address` has returned."""
        if self._keeper.poll() is None and not wait([self._stdout.fileno()], 0):
            return None
        message = self._read()
        if "code" not in message:
            return "the process that keeps Ray ended"
        code = message["code"]
        how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
        return f"Ray's {self._names.get(str(message['ended']), 'process')} {how}"

    def _read(self) -> dict[str, Any]:
        line = self._stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {}
        return found

    def stop(self) -> None:
        """End it and remove its files; a second time it does nothing."""
        if self._stdin.closed:
            return
        self._stdin.close()
        try:
            self._keeper.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()  # and the kernel ends the node's processes with it
            self._keeper.wait()
        self._stdout.close()
        self._directory.remove()


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
