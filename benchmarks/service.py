"""The platform under measurement: started over game/ in a directory of its own, or found at a URL."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
from load import Plan
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
Columns = dict[str, NDArray[Any]]


class Service:
    """A platform that can be asked. `process` is set where it is ours to stop."""

    def __init__(
        self, url: str, process: subprocess.Popen[str] | None = None, data: Path | None = None, key: str | None = None
    ) -> None:
        """Use `start` or give the URL of one that runs; `data` is its data directory, where known, `key` an API key."""
        self.url = url
        self.key = key
        self.process = process
        self.data = data

    @classmethod
    def start(cls, directory: Path, environ: Mapping[str, str] = {}) -> Service:
        """Run `eagleray up` over a fresh copy of game/, with `environ` besides; waits until it is ready."""
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(HERE / "game", directory)
        command = [str(Path(sys.executable).parent / "eagleray"), "up", "-c", str(directory / "eagleray.yaml")]
        with (directory / "up.stderr").open("w") as errors:
            process = subprocess.Popen(
                [*command, "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **environ},
            )
        assert process.stdout
        line = process.stdout.readline()
        if not line.startswith("ready "):
            process.wait()
            raise SystemExit(f"`eagleray up` did not start:\n{(directory / 'up.stderr').read_text()[-4000:]}")
        return cls(line.split()[1], process, directory / "data")

    def stop(self) -> int:
        """SIGTERM; returns the exit code after the drain."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, path, body, headers | ({"X-API-Key": self.key} if self.key else {}))
            response = connection.getresponse()
            answer = response.read()
        if response.status != 200:
            raise OSError(f"{method} {path}: {response.status} {answer[:500]!r}")
        return json.loads(answer)

    def status(self) -> dict[str, Any]:
        """GET /v1/status."""
        return dict(self._ask("GET", "/v1/status"))

    def sql(self, query: str) -> list[list[Any]]:
        """Rows of a query."""
        return list(self._ask("POST", "/v1/sql", json.dumps({"query": query}).encode())["rows"])

    def windows(self, window: str, since: str) -> list[dict[str, Any]]:
        """Rows of a window of `plays`, open ones included, that start at `since` (RFC 3339) or later."""
        return list(self._ask("GET", f"/v1/streams/plays/windows/{window}?{urlencode({'from': since})}")["rows"])

    def pids(self, pool: str | None = None) -> dict[str, int]:
        """Name → process id of our living actors."""
        rows = self.status()["processes"]
        return {row["name"]: row["pid"] for row in rows if row["alive"] and pool in (None, row["pool"])}

    def lag(self) -> dict[str, int]:
        """Records of the log that each stage has still to read, in all."""
        found = {"window": 0, "writer": 0}
        for row in self.status()["partitions"]:
            for stage in found:
                if row.get(stage):
                    found[stage] += max(0, row["end"] - row[stage]["position"])
        return found

    def wait_quiet(self, timeout_s: float = 120.0) -> float:
        """Wait until nothing is left to read; returns how long that took."""
        began = time.monotonic()
        while sum(self.lag().values()) > 4:
            if time.monotonic() - began > timeout_s:
                raise SystemExit(f"still behind after {timeout_s:g} s: {self.lag()}")
            time.sleep(0.5)
        return time.monotonic() - began


class RunningLoad:
    """load.py as a process of its own, carrying out `plan`."""

    def __init__(self, plan: Plan, out: Path) -> None:
        """Start it; its log of requests goes to `out` (.npz)."""
        out.parent.mkdir(parents=True, exist_ok=True)
        self.plan, self.out = plan, out
        options = {"--duration": plan.duration_s, "--rate": plan.rate, "--key": plan.key, "--lines": plan.lines}
        for name in ("url", "stream", "connections", "rows", "run", "form", "first_seq"):
            options[f"--{name.replace('_', '-')}"] = getattr(plan, name)
        given = [text for name, value in options.items() if value is not None for text in (name, str(value))]
        command = [sys.executable, str(HERE / "load.py"), *given, "--out", str(out)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    @property
    def running(self) -> bool:
        """Whether it still sends."""
        return self.process.poll() is None

    def finish(self) -> tuple[dict[str, float], Columns]:
        """Wait for its end; returns its summary and one entry per request, by column."""
        said, _ = self.process.communicate()
        if self.process.returncode:
            raise SystemExit(f"load.py ended with {self.process.returncode}")
        with np.load(self.out) as columns:
            return dict(json.loads(said)), {name: columns[name] for name in columns}


def kill(pid: int) -> None:
    """SIGKILL to one process."""
    os.kill(pid, signal.SIGKILL)
