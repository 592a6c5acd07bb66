#!/usr/bin/env python
"""Asks what keys and TLS cost: acks and events a second with authentication off, with a key, with a key over TLS.

    benchmarks/doors.py [--requests 400]

Three edges in one process, each with a validator and an embedded log of its own, and one client that sends to them in
turn, request by request: whatever else the machine does hits all three alike. The ratios count, not the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import ssl
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from events import FIRST_SEQ, Feed

from eagleray.actors.edge.server import Edge
from eagleray.actors.peer import LocalPeer
from eagleray.actors.ray_backend import RayBackend
from eagleray.actors.validate.worker import ValidateWorker
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.owner_key import ensure_owner_key, read_owner_key

HERE = Path(__file__).resolve().parent
PATH = "/v1/streams/plays/events"
KIND = "application/x-ndjson"


class Backend(RayBackend):
    """The validator of this process, reached without Ray."""

    def __init__(self, config: Config, worker: ValidateWorker) -> None:
        """`worker` is the only one."""
        super().__init__(config, LocalPeer("controller-0", None))
        self.validators = {LocalPeer("validate-0", worker): 1}


@dataclass
class Door:
    """One edge, how to ask it, and how long each answer took, in seconds by rows of a request."""

    name: str
    connection: http.client.HTTPConnection
    headers: dict[str, str]
    took_s: dict[int, list[float]] = field(default_factory=lambda: {1: [], 500: []})

    def send(self, body: bytes, rows: int) -> None:
        """One request, acked."""
        began = time.perf_counter()
        self.connection.request("POST", PATH, body, self.headers)
        answer = self.connection.getresponse()
        text = answer.read()
        self.took_s[rows].append(time.perf_counter() - began)
        assert answer.status == 200 and f'"accepted":{rows},'.encode() in text, (self.name, answer.status, text[:300])


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate of this machine, signed by itself, and its key."""
    cert, key = directory / "edge.pem", directory / "edge.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=edge"]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", "req", "-x509", *curve, *files], check=True, capture_output=True)
    return cert, key


def opened(name: str, directory: Path, loop: asyncio.AbstractEventLoop, **edge: Any) -> tuple[Door, Edge]:
    """An edge that serves, and a connection to it."""
    config = load_config(HERE / "game" / "eagleray.yaml", data_dir=directory / name, port=0, environ={})
    settings = config.edge.model_dump() | edge
    config = config.model_copy(update={"edge": type(config.edge).model_validate(settings)})
    headers = {"Content-Type": KIND}
    if config.edge.auth == "required":
        ensure_owner_key(config, SystemClock())
        headers["Authorization"] = f"Bearer {read_owner_key(config.data_dir)}"
    served = Edge(config, Backend(config, ValidateWorker(config)))
    port = asyncio.run_coroutine_threadsafe(served.start(), loop).result(60)
    if config.edge.tls is None:
        return Door(name, http.client.HTTPConnection("127.0.0.1", port), headers), served
    context = ssl.create_default_context(cafile=config.edge.tls.cert)
    return Door(name, http.client.HTTPSConnection("127.0.0.1", port, context=context), headers), served


def main() -> None:
    """Measure and print: medians, and each door's ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=400, help="of each kind, to each door")
    count = parser.parse_args().requests
    loop = uvloop.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="eagleray-bench-") as name:
        directory = Path(name)
        cert, key = certificate(directory)
        kinds: dict[str, dict[str, Any]] = {
            "auth off": {"auth": "off"},
            "a key": {"auth": "required"},
            "a key, TLS": {"auth": "required", "tls": {"cert": cert, "key": key}},
        }
        made = [opened(kind, directory, loop, **edge) for kind, edge in kinds.items()]
        doors = [door for door, _ in made]
        for rows in (1, 500):
            feed = Feed(rows, run=f"d{rows:03d}", pool=max(rows, 2000), seed=rows, form="ndjson")
            for number in range(count + 20):
                body = bytes(feed.body(FIRST_SEQ * (1 if rows == 1 else 2) + number * rows))
                for door in doors[number % 3 :] + doors[: number % 3]:
                    door.send(body, rows)
        for door, edge in made:
            door.connection.close()
            asyncio.run_coroutine_threadsafe(edge.drain(), loop).result(60)
    print("| | ack of one event, p50, ms | × | events/s, 500 a request, one connection | × |\n|---|---|---|---|---|")
    first = doors[0]
    for door in doors:
        ack, base = (statistics.median(one.took_s[1][20:]) for one in (door, first))
        full, most = (statistics.median(one.took_s[500][20:]) for one in (door, first))
        print(f"| {door.name} | {ack * 1000:.2f} | {ack / base:.2f} | {500 / full:,.0f} | {most / full:.2f} |")


if __name__ == "__main__":
    main()
