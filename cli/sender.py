"""Sends batches with a bounded number of requests in flight and keeps account of what became of them. Used by `send`.

Promise: a batch counts as sent only when the platform has answered it; what was not is named by its place in the file.
With one request in flight (the default) the file's order is kept across batches; with more, within each batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from queue import Queue
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from eagleray.cli.batches import Batch, UnreadableInput
from eagleray.cluster.client.http import Client, Refused, Retries, Unreachable

REASONS_SHOWN = 5
PER_BATCH = frozenset({400, 413, 415})
"""Answers that condemn one body; any other error would meet the next batch as well."""


@dataclass
class Account:
    """What became of the events; `failures` name what could not be sent."""

    accepted: int = 0
    rejected: int = 0
    duplicates: int = 0
    retried: int = 0
    reasons: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)  # of refusals among them
    latencies_s: list[float] = field(default_factory=list)  # one per batch, retries included

    def answered(self, batch: Batch, answer: Any, latency_s: float) -> None:
        """Take in the platform's answer to `batch`."""
        self.latencies_s.append(latency_s)
        self.accepted += answer["accepted"]
        self.duplicates += answer.get("duplicates", 0)
        self.rejected += len(answer["rejected"])
        for one in answer["rejected"][: REASONS_SHOWN - len(self.reasons)]:
            self.reasons.append(f"{batch.unit} {batch.places[one['index']]}: {one['reason']}: {one['detail']}")

    def failed(self, batch: Batch, cause: Exception) -> None:
        """Note that nothing is known to have come of `batch`."""
        if isinstance(cause, Refused):
            self.codes.add(cause.code)
        first, last = batch.places[0], batch.places[-1]
        self.failures.append(f"{batch.unit}s {first}-{last} ({len(batch.places)} events): {cause}")


@dataclass
class Sender:
    """Sends to one stream. `connect` makes a client for each of `in_flight` threads."""

    connect: Callable[[], Client]
    stream: str
    in_flight: int = 1
    rate: float | None = None  # events a second, all requests together
    retries: Retries = field(default_factory=Retries)
    on_batch: Callable[[Batch], None] = lambda batch: None
    _run: str = field(default_factory=lambda: uuid4().hex)

    def send(self, batches: Iterable[Batch]) -> Account:
        """Send all of `batches`; returns when each is answered, or has failed and the rest was given up."""
        account, lock, stop = Account(), threading.Lock(), threading.Event()
        queue: Queue[tuple[int, Batch] | None] = Queue(maxsize=self.in_flight)
        threads = [
            threading.Thread(target=self._work, args=(queue, account, lock, stop), daemon=True)
            for _ in range(self.in_flight)
        ]
        for thread in threads:
            thread.start()
        try:
            self._feed(batches, queue, account, stop)
        finally:
            for _ in threads:
                queue.put(None)
        for thread in threads:
            thread.join()
        return account

    def _feed(
        self, batches: Iterable[Batch], queue: Queue[tuple[int, Batch] | None], account: Account, stop: threading.Event
    ) -> None:
        started, events = time.monotonic(), 0
        try:
            for number, batch in enumerate(batches):
                if self.rate:
                    stop.wait(max(0.0, started + events / self.rate - time.monotonic()))
                if stop.is_set():
                    account.failures.append(f"{batch.unit} {batch.places[0]} and everything after it: not tried")
                    return
                queue.put((number, batch))
                events += len(batch.places)
        except UnreadableInput as error:
            account.failures.append(f"the input {error}; the events before it were sent")

    def _work(
        self,
        queue: Queue[tuple[int, Batch] | None],
        account: Account,
        lock: threading.Lock,
        stop: threading.Event,
    ) -> None:
        with self.connect() as client:
            while (item := queue.get()) is not None:
                number, batch = item
                if stop.is_set():
                    with lock:
                        account.failed(batch, Unreachable("not tried"))
                    continue
                self._one(client, number, batch, account, lock, stop)
            with lock:
                account.retried += client.retried

    def _one(
        self, client: Client, number: int, batch: Batch, account: Account, lock: threading.Lock, stop: threading.Event
    ) -> None:
        headers = {"Content-Type": batch.content_type, "Idempotency-Key": f"{self._run}-{number}"}
        began = time.monotonic()
        try:
            answer = client.deliver(
                f"/v1/streams/{quote(self.stream, safe='')}/events", batch.body, headers, self.retries
            )
        except (Refused, Unreachable) as error:
            with lock:
                account.failed(batch, error)
            if not isinstance(error, Refused) or error.status not in PER_BATCH:
                stop.set()
        else:
            with lock:
                account.answered(batch, answer, time.monotonic() - began)
        self.on_batch(batch)
