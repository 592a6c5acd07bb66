#!/usr/bin/env python
"""Sends events over HTTP as fast as asked, and writes down what became of every request.

    benchmarks/load.py --url http://127.0.0.1:8080 --connections 8 --rows 500 --duration 60 --out load.npz
    benchmarks/load.py --url http://127.0.0.1:8080 --connections 64 --rows 1 --rate 500 --duration 30

Closed loop without `--rate`: every connection sends its next request when the last one is answered. Open loop with it:
request k is due at start + k/rate whatever happened before, and its latency is counted from then, so that a stall is
charged to every request that it delayed (no coordinated omission). Keep-alive, no pipelining, bodies made by events.py.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop
from events import FIRST_SEQ, Feed
from numpy.typing import NDArray

TIMEOUT_S = 15.0
RECONNECT_S = 0.02
NO_ANSWER = 0  # status of a request whose connection broke or that was not answered within TIMEOUT_S


class Connection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection with at most one request on its way."""

    def __init__(self) -> None:
        """Not connected yet."""
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = bytearray()
        self._head = 0  # length of the head once it is complete
        self._length = 0

    @property
    def open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop: whoever waits for an answer hears of it."""
        self._transport = None
        if self._answer and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed by the server"))

    def data_received(self, data: bytes) -> None:
        """Called by the loop: hands the answer over once it is complete."""
        self._received += data
        if not self._head:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = end + 4
            self._length = _content_length(self._received[: self._head])
        if len(self._received) >= self._head + self._length and self._answer and not self._answer.done():
            status = int(self._received[9:12])
            body = bytes(self._received[self._head : self._head + self._length])
            self._received.clear()
            self._head = 0
            self._answer.set_result((status, body))

    async def request(self, head: bytes, body: bytes | memoryview) -> tuple[int, bytes]:
        """Send and return (status, body of the answer); raises ConnectionError, or TimeoutError after TIMEOUT_S."""
        if self._transport is None:
            raise ConnectionResetError("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines((head, body))
        async with asyncio.timeout(TIMEOUT_S):
            return await self._answer

    def close(self) -> None:
        """Give the connection up."""
        if self._transport is not None:
            self._transport.abort()


def _content_length(head: bytes | bytearray) -> int:
    at = head.lower().find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"an answer without Content-Length: {bytes(head[:200])!r}")
    return int(head[at + 17 : head.index(b"\r\n", at + 2)])


@dataclass
class Log:
    """What became of each request, one entry per request in the order of the answers; times by time.perf_counter()."""

    intended: array[float] = field(default_factory=lambda: array("d"))
    sent: array[float] = field(default_factory=lambda: array("d"))
    answered: array[float] = field(default_factory=lambda: array("d"))
    status: array[int] = field(default_factory=lambda: array("i"))
    accepted: array[int] = field(default_factory=lambda: array("i"))
    first_seq: array[int] = field(default_factory=lambda: array("q"))

    def add(self, intended: float, sent: float, answered: float, status: int, accepted: int, first_seq: int) -> None:
        """Note one request."""
        self.intended.append(intended)
        self.sent.append(sent)
        self.answered.append(answered)
        self.status.append(status)
        self.accepted.append(accepted)
        self.first_seq.append(first_seq)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """The same as arrays by name."""
        return {name: np.array(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Plan:
    """What to send: `rate` in requests per second, None for a closed loop."""

    url: str
    stream: str
    connections: int = 8
    rows: int = 500
    duration_s: float = 10.0
    rate: float | None = None
    key: str | None = None
    run: str = "r000"
    form: Literal["ndjson", "json"] = "ndjson"
    first_seq: int = (
        FIRST_SEQ  # between FIRST_SEQ and 9 * FIRST_SEQ: phases of a benchmark tell their events apart by it
    )
    lines: Path | None = None  # NDJSON to send instead of game events, as it is, over and over

    def head(self, length: int) -> bytes:
        """The head of a request with a body of `length` bytes."""
        kind = "application/x-ndjson" if self.form == "ndjson" else "application/json"
        authorization = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        return (
            f"POST /v1/streams/{self.stream}/events HTTP/1.1\r\nHost: {urlsplit(self.url).netloc}\r\n{authorization}"
            f"Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        ).encode()


class Lines:
    """Bodies of `rows` lines of a file each, in turn: events of one's own, sent as they are."""

    def __init__(self, file: Path, rows: int, form: Literal["ndjson", "json"]) -> None:
        """Read the file at once."""
        lines = [line for line in file.read_bytes().split(b"\n") if line.strip()]
        parts = [lines[at : at + rows] for at in range(0, len(lines), rows)]
        self.rows = rows
        self._bodies = [b"\n".join(p) if form == "ndjson" else b"[" + b",".join(p) + b"]" for p in parts]

    def body(self, first_seq: int) -> bytes:
        """The body in turn."""
        return self._bodies[first_seq // self.rows % len(self._bodies)]


class Load:
    """Carries out a plan; `log` grows while it runs."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.log = Log()
        self._numbers: Iterator[int] = itertools.count()
        self._start = 0.0
        self.cpu_s = 0.0  # processor time of this process while sending

    async def run(self) -> Log:
        """Send until the plan's duration is over and every request is answered."""
        feeds = [self._feed(seed) for seed in range(self.plan.connections)]
        self._start, cpu_s = time.perf_counter() + 0.05, time.process_time()
        await asyncio.gather(*(self._send(feed) for feed in feeds))
        self.cpu_s = time.process_time() - cpu_s
        return self.log

    def _feed(self, seed: int) -> Feed | Lines:
        if self.plan.lines:
            return Lines(self.plan.lines, self.plan.rows, self.plan.form)
        pool = max(self.plan.rows, 16_000 // self.plan.connections)
        return Feed(self.plan.rows, run=self.plan.run, pool=pool, seed=seed, form=self.plan.form)

    async def _send(self, feed: Feed | Lines) -> None:
        connection = Connection()
        end = self._start + self.plan.duration_s
        for number in self._numbers:  # shared: connections take turns
            now = time.perf_counter()
            intended = self._start + number / self.plan.rate if self.plan.rate else max(now, self._start)
            if intended >= end:
                break
            if intended > now:
                await asyncio.sleep(intended - now)
            connection = await self._connected(connection, end)
            pause_s = await self._request(connection, feed, intended, self.plan.first_seq + number * feed.rows)
            if pause_s and not self.plan.rate:
                await asyncio.sleep(pause_s)
        connection.close()

    async def _connected(self, connection: Connection, end: float) -> Connection:
        url = urlsplit(self.plan.url)
        while not connection.open and time.perf_counter() < end + TIMEOUT_S:
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection, url.hostname or "127.0.0.1", url.port or 80
                )
            except OSError:
                await asyncio.sleep(RECONNECT_S)
        return connection

    async def _request(self, connection: Connection, feed: Feed | Lines, intended: float, first_seq: int) -> float:
        """Send one body and note the outcome; returns for how long to pause."""
        body = feed.body(first_seq)
        head = self.plan.head(len(body))
        sent = time.perf_counter()
        try:
            status, answer = await connection.request(head, body)
        except (OSError, TimeoutError):
            connection.close()
            self.log.add(intended, sent, time.perf_counter(), NO_ANSWER, 0, first_seq)
            return RECONNECT_S
        answered = time.perf_counter()
        accepted = int(json.loads(answer)["accepted"]) if status == 200 else 0
        self.log.add(intended, sent, answered, status, accepted, first_seq)
        return 0.1 if status in (429, 503) else 0.0


def summary(load: Load) -> dict[str, float]:
    """Rates per second, latency percentiles in ms since the intended time, and the generator's own share of a core."""
    data = load.log.columns()
    if not len(load.log.status):
        return {"requests": 0}
    good = data["status"] == 200
    took_s = float(np.max(data["answered"]) - np.min(data["intended"]))
    latency_ms = (data["answered"] - data["intended"])[good] * 1000  # type: ignore[operator]
    p50, p99, p999 = np.percentile(latency_ms, (50, 99, 99.9)) if good.any() else (np.nan,) * 3
    return {
        "requests": len(good),
        "not_ok": int((~good).sum()),
        "seconds": round(took_s, 3),
        "requests_per_s": round(float(good.sum()) / took_s, 1),
        "events_per_s": round(int(data["accepted"].sum()) / took_s, 1),
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "p99_9_ms": round(float(p999), 3),
        "max_ms": round(float(latency_ms.max()), 3) if good.any() else float("nan"),
        "cpu_share": round(load.cpu_s / took_s, 4),
    }


def parse(arguments: list[str]) -> tuple[Plan, Path | None]:
    """The plan of a command line, and where to write the log of requests."""
    parser = argparse.ArgumentParser(description="Send events over HTTP and note what became of every request.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--stream", default="plays")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rows", type=int, default=500, help="events per request")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds")
    parser.add_argument("--rate", type=float, help="requests per second (open loop); default: closed loop")
    parser.add_argument("--run", default="r000", help="four characters that begin every id")
    parser.add_argument("--form", choices=("ndjson", "json"), default="ndjson")
    parser.add_argument("--first-seq", type=int, default=FIRST_SEQ, help="where the events' numbers begin")
    parser.add_argument("--lines", type=Path, help="NDJSON file to send as it is, instead of game events")
    parser.add_argument("--out", type=Path, help=".npz with one entry per request")
    args = parser.parse_args(arguments)
    given = {name: value for name, value in vars(args).items() if name not in ("duration", "out")}
    return Plan(**given, duration_s=args.duration), args.out


def main() -> None:
    """Run a load and print its summary as JSON."""
    plan, out = parse(sys.argv[1:])
    load = Load(plan)
    uvloop.run(load.run())
    if out:
        np.savez(out, **load.log.columns())  # type: ignore[arg-type]
    print(json.dumps(summary(load)))


if __name__ == "__main__":
    main()
