"""Prometheus and Alertmanager, as Debian packages them; where they are not installed, tests are skipped and say how."""

from __future__ import annotations

import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.servers.process import Server, free_port

HINT = "apt-get install --no-install-recommends prometheus prometheus-alertmanager"


def _program(name: str) -> str:
    if (found := shutil.which(name)) is None:
        pytest.skip(f"there is no {name} here: {HINT}")
    return found


class Prometheus(Server):
    """Asks whom `configuration` names."""

    def __init__(self, configuration: Path, data: Path, log: Path) -> None:
        """Nothing is started yet."""
        port = free_port()
        places = [f"--config.file={configuration}", f"--storage.tsdb.path={data}"]
        super().__init__([_program("prometheus"), *places, f"--web.listen-address=127.0.0.1:{port}"], port, log)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression; raises HTTPError 400 where it cannot be parsed."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _get(self, what: str, **parameters: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{urlencode(parameters)}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)["data"]
            return found


class Alertmanager(Server):
    """Tells whom `configuration` names."""

    def __init__(self, configuration: Path, data: Path, log: Path) -> None:
        """Nothing is started yet."""
        port = free_port()
        places = [f"--config.file={configuration}", f"--storage.path={data}", "--cluster.listen-address="]
        super().__init__(
            [_program("prometheus-alertmanager"), *places, f"--web.listen-address=127.0.0.1:{port}"], port, log
        )


class Told:
    """What a webhook was told: the last state of each alert, by name."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.alerts: dict[str, dict[str, Any]] = {}

    def fires(self, name: str) -> bool:
        """Whether the alert was told to fire, and not yet that it no longer does."""
        return self.alerts.get(name, {}).get("status") == "firing"


@contextmanager
def webhook() -> Iterator[tuple[int, Told]]:
    """A receiver of Alertmanager's on a free port."""
    told = Told()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for alert in body["alerts"]:
                told.alerts[alert["labels"]["alertname"]] = alert
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
