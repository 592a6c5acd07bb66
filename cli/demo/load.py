"""The demo's load: sends a `Game` to a platform at a steady rate and keeps account of every event and every wait.

Open loop: a tick that could not be sent in time counts from when it was due, so that a stall shows in the latencies.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from eagleray.cli.demo.events import STREAMS, Game, Sent
from eagleray.cluster.client.http import Client, Retries
from eagleray.cluster.clock import SystemClock, iso
from eagleray.cluster.errors import EaglerayError

TICKS_PER_S = 10
PROBE_EVERY_S = 1.0
PROBE_TIMEOUT_S = 20.0
HEADERS = {"Content-Type": "application/x-ndjson"}


@dataclass
class Account:
    """What became of one stream's events."""

    sent: int = 0
    rejected: int = 0
    repeated: int = 0  # the same event once more
    ids: set[str] = field(default_factory=set)  # accepted
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)  # reason → how often, one detail
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, batch: list[Sent], answer: Any) -> None:
        """Take in the platform's verdicts on `batch`."""
        with self._lock:
            self._take(batch, answer)

    def _take(self, batch: list[Sent], answer: Any) -> None:
        refused = {one["index"] for one in answer["rejected"]}
        for one in answer["rejected"]:
            count, detail = self.reasons.get(one["reason"], (0, one["detail"]))
            self.reasons[one["reason"]] = (count + 1, detail)
        self.sent += len(batch)
        self.rejected += len(refused)
        for index, sent in enumerate(batch):
            if index not in refused:
                identity = sent.id or "a broken event was accepted"
                self.repeated += identity in self.ids
                self.ids.add(identity)


@dataclass
class Load:
    """Sends events; `accounts`, `latencies_s` and `freshness_s` can be read when `stream` has returned."""

    url: str
    key: str | None
    seed: int
    accounts: dict[str, Account] = field(default_factory=lambda: {stream: Account() for stream in STREAMS})
    latencies_s: list[float] = field(default_factory=list)  # one per request, from when it was due
    freshness_s: list[float] = field(default_factory=list)  # from sending an event to seeing it in SQL
    seconds: float = 0.0
    _failed: list[BaseException] = field(default_factory=list)

    def stream(self, seconds: float, rate: int, advance: Callable[[float, int], None]) -> None:
        """Send about `rate` events a second for `seconds`; raises what a sender failed with."""
        queues: dict[str, SimpleQueue[tuple[float, list[Sent]] | None]] = {s: SimpleQueue() for s in STREAMS}
        threads = [threading.Thread(target=self._send, args=(s, q), daemon=True) for s, q in queues.items()]
        done = threading.Event()
        probe = threading.Thread(target=self._probe, args=(done,), daemon=True)
        for thread in (*threads, probe):
            thread.start()
        game, began = Game(self.seed), time.monotonic()
        began_us = SystemClock().now_us()
        for tick in range(round(seconds * TICKS_PER_S)):
            due = began + tick / TICKS_PER_S
            made = game.tick(began_us + tick * 1_000_000 // TICKS_PER_S, rate // TICKS_PER_S)
            time.sleep(max(0.0, due - time.monotonic()))
            for name, events in made.items():
                queues[name].put((due, events))
            advance(due - began, self.acked)
            if self._failed:
                break
        for queue in queues.values():
            queue.put(None)
        done.set()
        for thread in (*threads, probe):
            thread.join()
        self.seconds = time.monotonic() - began
        if self._failed:
            raise self._failed[0]

    @property
    def acked(self) -> int:
        """Events answered so far, accepted or rejected."""
        return sum(account.sent for account in self.accounts.values())

    def _send(self, stream: str, queue: SimpleQueue[tuple[float, list[Sent]] | None]) -> None:
        try:
            with Client(self.url, self.key) as client:
                number = 0
                while (item := queue.get()) is not None:
                    due, events = item
                    number += 1
                    headers = {**HEADERS, "Idempotency-Key": f"demo-{stream}-{number}"}
                    body = b"\n".join(sent.line for sent in events)
                    answer = client.deliver(f"/v1/streams/{stream}/events", body, headers, Retries())
                    self.latencies_s.append(time.monotonic() - due)
                    self.accounts[stream].take(events, answer)
        except EaglerayError as error:
            self._failed.append(error)

    def _probe(self, done: threading.Event) -> None:
        """Now and then: one event of its own, and how long until SQL sees it."""
        number = 0
        try:
            with Client(self.url, self.key) as client:
                while not done.wait(PROBE_EVERY_S):
                    number += 1
                    self._see(client, f"probe-{number}")
        except EaglerayError as error:
            self._failed.append(error)

    def _see(self, client: Client, identity: str) -> None:
        event = {"event_id": identity, "time": iso(SystemClock().now_us()), "player": "probe"}
        line = json.dumps(event | {"screen": "home", "action": "open"}).encode()
        began = time.monotonic()
        path = "/v1/streams/ui_events/events"
        answer = client.deliver(path, line, HEADERS | {"Idempotency-Key": identity}, Retries())
        self.accounts["ui_events"].take([Sent(line, identity)], answer)
        sql = {"query": f"SELECT count(*) FROM ui_events.events WHERE event_id = '{identity}'"}
        while time.monotonic() - began < PROBE_TIMEOUT_S:
            if client.post("/v1/sql", sql)["rows"][0][0]:
                self.freshness_s.append(time.monotonic() - began)
                return
            time.sleep(0.1)
