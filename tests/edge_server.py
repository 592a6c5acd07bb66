"""A real edge on a free port, in a thread of this process, with a log in memory behind it."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from eagleray.actors.edge.backend_protocol import Body
from eagleray.actors.edge.server import Edge
from eagleray.cluster.access import TableAccess
from eagleray.cluster.config import Config
from eagleray.cluster.errors import QueryFailed, QueryRejected
from eagleray.cluster.events.verdict import Answer, Reason, Submission

WINDOW = {"tumble": "1m", "group_by": ["user"], "aggregate": {"n": "count()"}}
STREAMS = {
    "ui": {"schema": "ui.schema.json", "time": "time", "windows": {"per_user": WINDOW}},
    "service": {"schema": "service.schema.json", "time": "time"},
}
ROW = {
    "window_start": "2026-01-01T00:00:00Z",
    "window_end": "2026-01-01T00:01:00Z",
    "user": "u1",
    "n": 3,
    "final": True,
}


@dataclass
class MemoryPlatform:
    """Takes every JSON object, rejects every other value, keeps what it took. `failure` is raised instead, if set."""

    taken: list[bytes] = field(default_factory=list)
    submissions: list[Submission] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    failure: Exception | None = None
    delay_s: float = 0.0
    window_rows: int = 1

    def workers(self) -> int:
        return 2

    async def submit(self, submissions: list[Submission], timeout_s: float) -> list[Answer]:
        self.batches.append(len(submissions))
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        self._fail()
        return [self._judge(submission) for submission in submissions]

    def _judge(self, submission: Submission) -> Answer:
        self.submissions.append(submission)
        if submission.form == "ndjson":
            events = [line for line in submission.body.split(b"\n") if line.strip()]
        else:
            try:
                value = msgspec.json.decode(submission.body, type=msgspec.Raw)
            except msgspec.DecodeError as error:
                return Answer(malformed=str(error))
            array = submission.body.lstrip().startswith(b"[")
            raw = msgspec.json.decode(value, type=list[msgspec.Raw]) if array else [value]
            events = [bytes(event) for event in raw]
        rejected: list[tuple[int, Reason, str]] = []
        for index, event in enumerate(events):
            if event.lstrip().startswith(b"{"):
                self.taken.append(event)
            else:
                rejected.append((index, "json", "expected an object"))
        return Answer(len(events) - len(rejected), rejected)

    async def windows(
        self, stream: str, window: str, from_us: int | None, to_us: int | None, cursor: list[Any] | None, limit: int
    ) -> tuple[list[dict[str, Any]], list[Any] | None]:
        self.asked.append((stream, window, from_us, to_us))
        self._fail()
        first = 0 if cursor is None else int(cursor[0])
        rows = [{**ROW, "n": n} for n in range(3, 3 + self.window_rows)][first : first + limit]
        return rows, [first + limit] if first + limit < self.window_rows else None

    async def sql(self, query: str, arrow: bool, access: TableAccess) -> Body:
        self.asked.append((query, arrow))
        self._fail()
        if query.startswith("DROP"):
            raise QueryRejected("only SELECT is allowed")
        if query.startswith("SLOW"):
            raise QueryFailed("the query took longer than 30 s")
        text = b"arrow" if arrow else b'{"columns":[{"name":"n","type":"BIGINT"}],"rows":[[1152921504606846976]]}'
        return Body(len(text), text)

    async def event(self, stream: str, event: str, access: TableAccess) -> Body:
        self.asked.append((stream, event))
        self._fail()
        return Body(2, b"{}")

    async def status(self) -> dict[str, Any]:
        self._fail()
        return {"pools": {"validate": {"size": 2, "alive": 2}}, "counters": {"commits_total{table=ui.events}": 3}}

    async def scale(self, pool: str, size: int) -> int:
        self._fail()
        return size

    async def ready(self) -> Mapping[str, str]:
        return self.problems

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


@dataclass
class Reply:
    """An answer as received."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ServedEdge:
    """The edge under test and ways to reach it."""

    def __init__(self, edge: Edge, platform: MemoryPlatform, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.edge = edge
        self.platform = platform
        self.port = port
        self._loop = loop

    @property
    def config(self) -> Config:
        return self.edge._config

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request; without `headers` a body is JSON."""
        if headers is None:
            headers = {"Content-Type": "application/json"} if body is not None else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return Reply(answer.status, {k.title(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, body: bytes, content_type: str | None = "application/json", **headers: str) -> Reply:
        """POST to the stream `ui`; underscores in header names stand for dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if content_type is not None:
            named["Content-Type"] = content_type
        return self.request("POST", "/v1/streams/ui/events", body, named)

    def raw(self, *pieces: bytes, pause_s: float = 0.0, until_closed: bool = True) -> bytes:
        """Send bytes as they are; what came back until the edge closed the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as sock:
            for piece in pieces:
                try:
                    sock.sendall(piece)
                except OSError:
                    break
                time.sleep(pause_s)
            return read_all(sock) if until_closed else sock.recv(65536)

    def drain(self) -> None:
        asyncio.run_coroutine_threadsafe(self.edge.drain(), self._loop).result(30)


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side closes."""
    got = b""
    try:
        while piece := sock.recv(65536):
            got += piece
    except ConnectionResetError:
        pass
    return got


def edge_config(directory: Path, **edge: Any) -> Config:
    """Two streams, `ui` and `service`; authentication off unless asked for."""
    settings = {"port": 0, "auth": "off", **edge}
    return Config.model_validate({"data_dir": str(directory), "edge": settings, "streams": STREAMS})


@contextmanager
def serve(config: Config, platform: MemoryPlatform | None = None, port: int | None = None) -> Iterator[ServedEdge]:
    """Run an edge until the end of the block, then drain it."""
    platform = platform or MemoryPlatform()
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        edge = Edge(config, platform)
        bound = asyncio.run_coroutine_threadsafe(edge.start(port), loop).result(30)
        served = ServedEdge(edge, platform, bound, loop)
        try:
            yield served
        finally:
            served.drain()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        gc.collect()  # a task or socket that was forgotten must warn in the test that forgot it
