"""`eagleray up` as a process of its own, over a copy of a project. Used by tests/integration and tests/faults.

Promise: whatever a test does, `stop` leaves no process behind that this platform started, and touches no other.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from eagleray.cluster.owner_key import read_owner_key

MARK = "EAGLERAY_TEST_RUN"  # inherited by every process of a platform, so that its leftovers can be told from others
START_TIMEOUT_S = 150.0
STOP_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 60.0

Answer = tuple[int, dict[str, str], bytes]


def marked(mark: str) -> list[int]:
    """Pids of every living process that was started with `mark` in its environment, and of all their children.

    A process that changes its title may overwrite its environment: then only its parent tells.
    """
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
    look = list(found)
    while look:
        new = [pid for pid in children.get(look.pop(), []) if pid not in found]
        found.update(new)
        look += new
    return sorted(found)


class RunningPlatform:
    """A platform that works in `directory`; `start` before use, `stop` after."""

    def __init__(self, directory: Path, project: Path, environ: Mapping[str, str] = {}) -> None:
        """Copy the files of `project` (eagleray.yaml, schemas, models) into `directory`."""
        self.directory = directory
        self.url = ""
        self.headers: dict[str, str] = {}  # of every request that does not say otherwise: the owner's key
        self.process: subprocess.Popen[str] | None = None
        self._mark = uuid.uuid4().hex
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("RAY_AUTH")}
        self._environ = {**inherited, "PYTHONUNBUFFERED": "1", **environ, MARK: self._mark}
        directory.mkdir(parents=True, exist_ok=True)
        for file in project.iterdir():
            if file.suffix in (".yaml", ".json", ".py"):
                shutil.copy(file, directory)

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    def start(self, port: int = 0) -> RunningPlatform:
        """Run `eagleray up` until it says `ready`; raises AssertionError with its output if it does not."""
        command = [str(Path(sys.executable).parent / "eagleray"), "up", "-c", str(self.directory / "eagleray.yaml")]
        errors = (self.directory / "up.stderr").open("a")
        self.process = subprocess.Popen(
            [*command, "--data", str(self.data), "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=self._environ,
            cwd=self.directory,
            start_new_session=True,
        )
        errors.close()
        line = self._first_line()
        if not line.startswith("ready http://"):
            said = (self.directory / "up.stderr").read_text()[-4000:]
            self.kill()
            raise AssertionError(f"`eagleray up` said {line!r} instead of `ready http://…`; stderr:\n{said}")
        self.url = line.split()[1]
        if key := read_owner_key(self.data):
            self.headers = {"X-API-Key": key}
        return self

    def _first_line(self) -> str:
        assert self.process and self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return self.process.stdout.readline() if selector.select(START_TIMEOUT_S) else "nothing"

    def stop(self) -> int:
        """SIGTERM, wait for the drain and return the exit code; then make sure that nothing is left."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End every process of this platform at once, in no order: what a power cut would do."""
        for _ in range(3):
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.process:
                self.process.wait()
            if not self.processes():
                break
            time.sleep(0.1)
        if self.process and self.process.stdout:
            self.process.stdout.close()

    def processes(self) -> list[int]:
        """Pids of every living process of this platform, Ray's own included."""
        return marked(self._mark)

    # HTTP

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}, timeout_s: float = 0
    ) -> Answer:
        """One request on a connection of its own: (status, headers in lower case, body)."""
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(
            place.hostname or "", place.port, timeout=timeout_s or REQUEST_TIMEOUT_S
        )
        try:
            connection.request(method, path, body, {**self.headers, **headers})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def get(self, path: str, **parameters: str) -> Any:
        """The JSON of a GET that must be answered with 200."""
        status, _, body = self.request("GET", path + (f"?{urlencode(parameters)}" if parameters else ""))
        assert status == 200, (path, status, body[:2000])
        return json.loads(body)

    def post(self, stream: str, body: bytes, kind: str = "application/json", **headers: str) -> tuple[int, Any]:
        """Send events; returns (status, JSON of the answer)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        path = f"/v1/streams/{stream}/events"
        status, _, answer = self.request("POST", path, body, {"Content-Type": kind, **named})
        return status, json.loads(answer)

    def send(self, stream: str, lines: list[bytes], rows: int = 1000) -> int:
        """Send NDJSON lines in order, `rows` per request, each after the ack of the one before; returns how many.

        All must be accepted.
        """
        for at in range(0, len(lines), rows):
            part = lines[at : at + rows]
            status, answer = self.post(stream, b"\n".join(part), "application/x-ndjson")
            assert status == 200 and answer["accepted"] == len(part), (status, str(answer)[:2000])
        return len(lines)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query; values as JSON has them."""
        body = json.dumps({"query": query}).encode()
        status, _, answer = self.request("POST", "/v1/sql", body, {"Content-Type": "application/json"})
        assert status == 200, (query, status, answer[:2000])
        return [tuple(row) for row in json.loads(answer)["rows"]]

    def count(self, table: str) -> int:
        """Rows of a table."""
        return int(self.sql(f"SELECT count(*) FROM {table}")[0][0])

    def pids(self, pool: str) -> list[int]:
        """Process ids of a pool's living workers."""
        return [row["pid"] for row in self.get("/v1/status")["processes"] if row["pool"] == pool and row["alive"]]


def eventually(holds: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.25) -> Any:
    """Wait until `holds()` is true and return it; an AssertionError or a refused connection counts as not yet.

    The time limit is there to end a hopeless wait, not to measure anything.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            value = holds()
            if value or time.monotonic() > deadline:
                assert value, f"still {value!r} after {timeout_s:g} s"
                return value
        except (AssertionError, OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
        time.sleep(every_s)


@contextlib.contextmanager
def running(platform: RunningPlatform) -> Iterator[RunningPlatform]:
    """The platform, started; killed whatever happens inside."""
    try:
        yield platform.start()
    finally:
        platform.kill()
