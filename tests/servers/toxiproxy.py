"""toxiproxy: a TCP proxy whose connections are slowed, cut or swallowed over its HTTP interface."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tests.servers.installed import go_program
from tests.servers.process import Server, free_port, running

VERSION = "v2.5.0"


class Toxiproxy(Server):
    """Proxies by name."""

    def __init__(self, log: Path) -> None:
        """Nothing is started yet."""
        program = go_program("toxiproxy", VERSION, "github.com/Shopify/toxiproxy/v2/cmd/server")
        port = free_port()
        super().__init__([str(program), "-host", "127.0.0.1", "-port", str(port)], port, log)

    def _ask(self, method: str, path: str, body: Any = None) -> None:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"}, method=method)
        urllib.request.urlopen(request, timeout=10).close()

    def proxy(self, name: str, upstream: int) -> int:
        """A proxy to the local port `upstream`; returns the port that it listens on."""
        port = free_port()
        listen, target = f"127.0.0.1:{port}", f"127.0.0.1:{upstream}"
        self._ask("POST", "/proxies", {"name": name, "listen": listen, "upstream": target, "enabled": True})
        return port

    def enable(self, name: str, on: bool) -> None:
        """Let connections through, or end all and refuse new ones."""
        self._ask("POST", f"/proxies/{name}", {"enabled": on})

    @contextmanager
    def toxic(self, name: str, kind: str, stream: str = "downstream", **attributes: int) -> Iterator[None]:
        """Within the block, connections of the proxy `name` suffer from `kind`."""
        self._ask(
            "POST",
            f"/proxies/{name}/toxics",
            {"name": "toxic", "type": kind, "stream": stream, "attributes": attributes},
        )
        try:
            yield
        finally:
            self._ask("DELETE", f"/proxies/{name}/toxics/toxic")


def toxiproxy(log: Path) -> AbstractContextManager[Toxiproxy]:
    """A running toxiproxy; ended whatever happens inside."""
    return running(Toxiproxy(log))
