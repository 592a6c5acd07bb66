"""Ray nodes on this machine that are as separate as machines are: each in network, process and mount namespaces.

A node has an address of its own on a bridge without a way out, its own processes, /dev/shm and /tmp/ray, and sees
nothing of the directories that are `hidden` from it. So it can lose its power (kill -9 of its first process), its
network (the bridge's end of its cable goes down), or have processes stopped, and the others notice as they would of a
machine. Servers that all of them use listen on `RayNodes.host`, the bridge's own address.

Promise: `down` ends every process that was started here and removes what was made, and touches nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START_TIMEOUT_S = 180.0
GCS_PORT = 6379
STORE_BYTES = 80_000_000
SHM_BYTES = 300_000_000
AGENT_PORT = 52366  # of runtime environments; each node has ports of its own
STARTER = Path(__file__).with_name("ray_start.py")

HEALTH = {"health_check_period_ms": 1000, "health_check_timeout_ms": 3000, "health_check_failure_threshold": 3}
"""How Ray's head looks after nodes, as docs/cluster.md asks for it."""

_ROOM = """
mount -t tmpfs -o size={shm} none /dev/shm
mkdir -p /tmp/ray {ray} && mount --bind {ray} /tmp/ray
for place in {hidden}; do mount -t tmpfs none "$place"; done
exec "$@"
"""


def missing() -> str:
    """Why there can be no nodes here; empty where there can."""
    if os.getuid() != 0:
        return "nodes are made of namespaces, by root alone"
    tools = [tool for tool in ("ip", "unshare", "nsenter", "mount") if shutil.which(tool) is None]
    if tools:
        return f"no {tools[0]} here (Debian: apt-get install iproute2 util-linux)"
    probe = f"eagle-probe-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    inside = subprocess.run(["unshare", "-p", "-f", "-m", "-n", "--mount-proc", "true"], capture_output=True, text=True)
    bridge = subprocess.run(["ip", "link", "add", f"eb{os.getpid()}", "type", "bridge"], capture_output=True, text=True)
    subprocess.run(["ip", "link", "del", f"eb{os.getpid()}"], capture_output=True)
    refused = next((done.stderr.strip() for done in (tried, inside, bridge) if done.returncode), "")
    return f"namespaces cannot be made here: {refused}" if refused else ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class RayNode:
    """One node, number `number` from 1; `start` gives it power."""

    def __init__(self, nodes: RayNodes, number: int) -> None:
        """Its network is there; it has no processes."""
        self._nodes = nodes
        self.number = number
        self.ip = f"{nodes.subnet}.{number}"
        self.space = f"{nodes.name}-{number}"
        self._cable = f"{nodes.name}v{number}"
        self.directory = nodes.directory / f"node-{number}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "ray.log"
        self._outer: subprocess.Popen[bytes] | None = None
        try:
            self._wire(nodes)
        except BaseException:
            self.remove()
            raise

    def _wire(self, nodes: RayNodes) -> None:
        _ip("netns", "add", self.space)
        _ip("-n", self.space, "link", "set", "lo", "up")
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        _ip("link", "set", self._cable, "master", nodes.name, "up")
        _ip("-n", self.space, "addr", "add", f"{self.ip}/24", "dev", "eth0")
        _ip("-n", self.space, "link", "set", "eth0", "up")
        _ip("-n", self.space, "route", "add", "default", "via", nodes.host)

    def launch(self, *options: str, environ: Mapping[str, str] = {}) -> None:
        """Start Ray on it: the head where the number is 1."""
        head = ["--head", f"--port={GCS_PORT}", "--include-dashboard=false", f"--system-config={json.dumps(HEALTH)}"]
        role = head if self.number == 1 else [f"--address={self._nodes.gcs}"]
        words = [
            *role,
            f"--runtime-env-agent-port={AGENT_PORT}",
            f"--node-ip-address={self.ip}",
            f"--object-store-memory={STORE_BYTES}",
            *options,
        ]
        hidden = " ".join(f"'{place}'" for place in self._nodes.hidden if self.number != 1)
        room = _ROOM.format(shm=SHM_BYTES, ray=self.directory / "ray", hidden=hidden)
        command = ["ip", "netns", "exec", self.space, "unshare", "-p", "-f", "-m", "--kill-child", "--mount-proc"]
        with self.log.open("ab") as log:
            self._outer = subprocess.Popen(
                [
                    *command,
                    "bash",
                    "-ec",
                    room,
                    "node",
                    sys.executable,
                    "-P",
                    str(STARTER),
                    str(AGENT_PORT),
                    "start",
                    "--block",
                    *words,
                ],
                stdout=log,
                stderr=log,
                env={**self._nodes.environ, **environ},
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until Ray runs on it; raises AssertionError with what it said where it does not."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while b"runtime started" not in self.log.read_bytes():
            assert self.powered and time.monotonic() < deadline, f"node {self.number}: {self.log.read_text()[-3000:]}"
            time.sleep(0.2)

    @property
    def powered(self) -> bool:
        """Whether it has processes."""
        return self._outer is not None and self._outer.poll() is None

    @property
    def first(self) -> int:
        """The pid, on this machine, of its first process."""
        assert self._outer
        return int(Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()[0])

    def inside(self, directory: Path, *command: str) -> list[str]:
        """The command that runs `command` on the node, with its files and its network, in `directory` of it."""
        return ["nsenter", "-t", str(self.first), "-n", "-p", "-m", "--", "env", "-C", str(directory), *command]

    def power_off(self) -> None:
        """Kill everything on it at once; its log begins anew, and it can be launched again."""
        if self.powered:
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(self.first, signal.SIGKILL)
        if self._outer is not None:
            self._outer.wait()
        self.log.write_bytes(b"")

    def wait_dead(self, timeout_s: float = 60.0) -> None:
        """Until its first process has ended by itself, as a raylet that was declared dead does."""
        assert self._outer
        self._outer.wait(timeout_s)
        self.log.write_bytes(b"")

    def cut(self) -> None:
        """Pull its cable: nothing comes or goes, and no connection is closed."""
        _ip("link", "set", self._cable, "down")

    def heal(self) -> None:
        """Put the cable back."""
        _ip("link", "set", self._cable, "up")

    def cut_from(self, other: RayNode) -> None:
        """Let nothing pass between it and `other`, both ways; all else does."""
        _ip("-n", self.space, "route", "add", "blackhole", f"{other.ip}/32")
        _ip("-n", other.space, "route", "add", "blackhole", f"{self.ip}/32")

    def heal_with(self, other: RayNode) -> None:
        """Undo `cut_from`."""
        _ip("-n", self.space, "route", "del", "blackhole", f"{other.ip}/32")
        _ip("-n", other.space, "route", "del", "blackhole", f"{self.ip}/32")

    def pids(self, words: str) -> list[int]:
        """Pids, on this machine, of its processes whose command line has `words`."""
        found, space = [], os.readlink(f"/proc/{self.first}/ns/pid")
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") == space:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found += [int(entry.name)] if words in line else []
        return found

    def signal(self, words: str, number: int) -> None:
        """Signal every process of it whose command line has `words`."""
        for pid in self.pids(words):
            os.kill(pid, number)

    def remove(self) -> None:
        """Power off, and take its network away."""
        self.power_off()
        # The kernel takes the cable's end with the namespace, but only once the last process in it has been reaped.
        subprocess.run(["ip", "link", "del", self._cable], capture_output=True)
        _ip("netns", "del", self.space)


class RayNodes:
    """A bridge with nodes on it. `environ` is of every process on them; `hidden` are for the head's eyes alone."""

    def __init__(self, directory: Path, count: int, environ: Mapping[str, str], hidden: Sequence[Path] = ()) -> None:
        """Make the network; nothing runs."""
        self.directory = directory
        self.hidden = list(hidden)
        self.name = self._bridge()
        self.subnet = f"10.66.{self.name.removeprefix('eagle')}"
        self.host = f"{self.subnet}.254"
        _ip("addr", "add", f"{self.host}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")
        self.gcs = f"{self.subnet}.1:{GCS_PORT}"
        token = directory / "token"
        token.write_text(secrets.token_hex(32))
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(("RAY_", "EAGLERAY_"))}
        self.environ = {
            **inherited,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "150",
            "PYTHONWARNINGS": "ignore",
            "PYTHONDONTWRITEBYTECODE": "1",
            **environ,
        }
        self.nodes: list[RayNode] = []
        try:
            for number in range(1, count + 1):
                self.nodes.append(RayNode(self, number))
        except BaseException:
            self.down()
            raise

    @staticmethod
    def _bridge() -> str:
        for number in range(1, 250):
            name = f"eagle{number}"
            if not subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True).returncode:
                return name
        raise AssertionError("every bridge from eagle1 to eagle249 is there already")

    @property
    def head(self) -> RayNode:
        """The first one."""
        return self.nodes[0]

    def down(self) -> None:
        """Power off, and remove the network."""
        for node in self.nodes:
            node.remove()
        _ip("link", "del", self.name)
