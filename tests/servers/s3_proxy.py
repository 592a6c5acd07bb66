"""A proxy in front of an S3 server that breaks what it is told to: errors at a rate, refused clocks, cuts, delay.

A process of its own (`python s3_proxy.py PORT UPSTREAM_PORT`). `PUT /__faults` takes the faults as JSON, in place of
those before; `GET /__faults` returns how often each struck.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import urllib.request
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

from tests.servers.process import Server, free_port, running

BODY_MAX = 1 << 30
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>made by the proxy</Message></Error>'

SEED = 1  # its first draw is below 0.2: a fault of a fifth strikes at once, and then by chance


class Proxy:
    """Forwards to `upstream`; `faults` are in force."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.faults: dict[str, Any] = {}
        self.struck: Counter[str] = Counter()
        self.random = random.Random(SEED)
        self.session: ClientSession | None = None

    async def control(self, request: web.Request) -> web.Response:
        if request.method == "PUT":
            self.faults, self.struck, self.random = await request.json(), Counter(), random.Random(SEED)
        return web.json_response(self.struck)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        faults = self.faults
        if seconds := faults.get("delay_s"):
            await asyncio.sleep(seconds * random.uniform(0.5, 1.5))
        if self.random.random() < faults.get("unavailable", 0):
            self.struck["unavailable"] += 1
            return web.Response(status=503, text=_ERROR.format("SlowDown"), content_type="application/xml")
        if faults.get("clock"):
            self.struck["clock"] += 1
            return web.Response(status=403, text=_ERROR.format("RequestTimeTooSkewed"), content_type="application/xml")
        if request.method == "PUT" and len(body) > 1 and self.random.random() < faults.get("truncate", 0):
            self.struck["truncate"] += 1
            await self._truncated(request, body)
            assert request.transport
            request.transport.abort()
            return web.Response(status=500)
        return await self._forward(request, body)

    async def _forward(self, request: web.Request, body: bytes) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        url = URL(f"http://127.0.0.1:{self.upstream}{request.raw_path}", encoded=True)
        assert self.session
        async with self.session.request(
            request.method, url, data=body, headers=headers, skip_auto_headers=("Content-Type", "User-Agent")
        ) as answer:
            data = await answer.read()
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
            if request.method == "HEAD":
                kept["Content-Length"] = answer.headers.get("Content-Length", "0")
            if data and self.random.random() < self.faults.get("break_off", 0):
                self.struck["break_off"] += 1
                return await self._broken_off(request, answer.status, kept, data)
            return web.Response(status=answer.status, body=data or None, headers=kept)

    async def _broken_off(
        self, request: web.Request, status: int, headers: dict[str, str], data: bytes
    ) -> web.StreamResponse:
        """Half an answer."""
        response = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        assert request.transport
        request.transport.close()
        return response

    async def _truncated(self, request: web.Request, body: bytes) -> None:
        """Half of the upload reaches the server, then the connection ends."""
        lines = [f"{request.method} {request.raw_path} HTTP/1.1"]
        lines += [f"{k}: {v}" for k, v in request.headers.items() if k.lower() not in ("connection", "expect")]
        _, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        writer.write("\r\n".join([*lines, "", ""]).encode() + body[: len(body) // 2])
        await writer.drain()
        writer.close()


def main() -> None:
    """Serve until killed."""
    port, upstream = int(sys.argv[1]), int(sys.argv[2])
    proxy = Proxy(upstream)
    app = web.Application(client_max_size=BODY_MAX)
    app.router.add_route("*", "/__faults", proxy.control)
    app.router.add_route("*", "/{path:.*}", proxy.handle)

    async def started(app: web.Application) -> None:
        limits = ClientTimeout(total=120)
        proxy.session = ClientSession(auto_decompress=False, timeout=limits, connector=TCPConnector(limit=200))

    app.on_startup.append(started)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


class S3Proxy(Server):
    """The proxy as a child process."""

    def __init__(self, upstream: int, log: Path) -> None:
        """In front of the server on port `upstream`."""
        port = free_port()
        root = Path(__file__).parents[2]
        command = [sys.executable, "-m", "tests.servers.s3_proxy", str(port), str(upstream)]
        super().__init__(command, port, log, {"PYTHONPATH": str(root)})

    def break_with(self, **faults: Any) -> None:
        """From now on break so, and no longer as before."""
        body = json.dumps(faults).encode()
        request = urllib.request.Request(
            f"{self.url}/__faults", body, {"Content-Type": "application/json"}, method="PUT"
        )
        urllib.request.urlopen(request, timeout=10).close()

    def struck(self) -> dict[str, int]:
        """How often each fault struck since `break_with`."""
        with urllib.request.urlopen(f"{self.url}/__faults", timeout=10) as answer:
            found: dict[str, int] = json.load(answer)
            return found


def s3_proxy(upstream: int, log: Path) -> AbstractContextManager[S3Proxy]:
    """A running proxy; ended whatever happens inside."""
    return running(S3Proxy(upstream, log))


if __name__ == "__main__":
    main()
