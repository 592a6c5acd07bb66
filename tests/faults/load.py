"""Sends orders over HTTP until told to stop, and writes down, line by line, what it sent and what was acked.

A process of its own, started by the fault tests. Every producer has one key and numbers its events; it sends the next
batch only when the one before is acked, and repeats a batch that was not, whatever the reason. Among the orders are
repeated ids (from the same and other producers' connections), late events, events of the far future and broken ones.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KINDS = ("buy", "sell", "cancel")
RETRY_S = 0.1
REQUEST_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Batch:
    """The lines of one request; `bad` are the indices that must be rejected."""

    producer: int
    first: int
    lines: list[str]
    bad: dict[int, str]  # index → expected reason

    @property
    def body(self) -> bytes:
        """As NDJSON."""
        return "\n".join(self.lines).encode()


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def make_batch(rng: random.Random, producer: int, first: int, rows: int, now: float) -> Batch:
    """`rows` orders numbered from `first`; each number is used once, by a good or by a bad event."""
    lines, bad = [], {}
    for index in range(rows):
        seq = first + index
        order: dict[str, Any] = {"id": f"p{producer}-{seq}", "producer": producer, "seq": seq}
        chance = rng.random()
        behind = rng.uniform(20, 60) if chance < 0.02 else rng.expovariate(4)
        order |= {"time": _stamp(now - behind), "kind": rng.choice(KINDS), "amount": rng.randrange(-50, 1000)}
        if 0.02 <= chance < 0.03:
            order["time"], bad[index] = _stamp(now + 86_400), "future"
        elif 0.03 <= chance < 0.04:
            order["amount"], bad[index] = "many", "schema"
        line = json.dumps(order)
        if 0.04 <= chance < 0.05:
            line, bad[index] = line[:-1], "json"
        lines.append(line)
    return Batch(producer, first, lines, bad)


class Notes:
    """What was sent and what was acked: two files, one JSON object a line, flushed before anything else happens."""

    def __init__(self, directory: Path) -> None:
        """Append to sent.jsonl and acked.jsonl in `directory`."""
        self._sent = (directory / "sent.jsonl").open("a")
        self._acked = (directory / "acked.jsonl").open("a")
        self._lock = threading.Lock()

    def sent(self, batch: Batch) -> None:
        """Before the first attempt."""
        self._write(self._sent, {"producer": batch.producer, "first": batch.first, "rows": len(batch.lines)})

    def acked(self, batch: Batch, answer: dict[str, Any], attempts: int) -> None:
        """After a 200."""
        rejected = {row["index"]: row["reason"] for row in answer["rejected"]}
        good = [batch.first + i for i in range(len(batch.lines)) if i not in rejected]
        note: dict[str, Any] = {"producer": batch.producer, "seqs": good, "attempts": attempts, "at": time.monotonic()}
        note["rejected"] = [[batch.lines[index], reason] for index, reason in rejected.items()]
        if rejected != batch.bad or answer["accepted"] + answer.get("duplicates", 0) != len(good):
            note["wrong"] = f"expected rejections {batch.bad}, was told {answer}"
        self._write(self._acked, note)

    def gave_up(self, batch: Batch, attempts: int) -> None:
        """No ack within the patience that was asked for: acks have not resumed."""
        self._write(self._acked, {"wrong": f"p{batch.producer}-{batch.first} not acked in {attempts} attempts"})

    def _write(self, file: Any, note: dict[str, Any]) -> None:
        with self._lock:
            file.write(json.dumps(note) + "\n")
            file.flush()


class Producer(threading.Thread):
    """One key's orders over one connection at a time."""

    recent: list[Batch] = []  # acked batches of all producers, to be repeated by any  # noqa: RUF012

    def __init__(self, number: int, args: argparse.Namespace, notes: Notes, stop: threading.Event) -> None:
        """Start with `start`, ends after `stop` is set and the last batch is acked."""
        super().__init__(name=f"producer-{number}")
        self.number, self.args, self.notes, self.stop = number, args, notes, stop
        self.rng = random.Random(args.seed * 1000 + number)
        self.connection: http.client.HTTPConnection | None = None
        self.place = number  # which of the URLs
        self.headers = {"Content-Type": "application/x-ndjson", **({"X-API-Key": args.key} if args.key else {})}

    def run(self) -> None:
        """Send, repeat until acked, note, pause."""
        seq = self.args.first
        while not self.stop.is_set():
            rows = self.rng.randrange(1, 2 * self.args.rows)
            batch = make_batch(self.rng, self.number, seq, rows, time.clock_gettime(time.CLOCK_REALTIME))
            seq += rows
            self.notes.sent(batch)
            self._until_acked(batch)
            if self.recent and self.rng.random() < 0.05:
                self._post(self.rng.choice(self.recent[-20:]))  # the same ids again; not noted: nothing new may come
            self.stop.wait(self.rng.expovariate(1 / self.args.pause))

    def _until_acked(self, batch: Batch) -> None:
        attempts = 0
        gave_up = time.monotonic() + self.args.patience
        while time.monotonic() < gave_up:
            attempts += 1
            answer = self._post(batch)
            if answer is not None:
                self.notes.acked(batch, answer, attempts)
                self.recent.append(batch)
                return
            time.sleep(RETRY_S)
        self.notes.gave_up(batch, attempts)
        self.stop.set()

    def _post(self, batch: Batch) -> dict[str, Any] | None:
        """One attempt; None unless it was acked."""
        try:
            if self.connection is None or self.rng.random() < 0.02:
                place = urlsplit(self.args.url[self.place % len(self.args.url)])
                self.connection = http.client.HTTPConnection(
                    place.hostname or "", place.port, timeout=self.args.timeout
                )
            path = f"/v1/streams/{self.args.stream}/events"
            self.connection.request("POST", path, batch.body, self.headers)
            response = self.connection.getresponse()
            body = response.read()
            return dict(json.loads(body)) if response.status == 200 else None
        except (OSError, http.client.HTTPException):
            self.connection = None
            self.place += 1  # the next edge, as a balancer would choose
            return None


def main() -> None:
    """Run producers until SIGTERM; exits 0 if every batch was acked in the end."""
    parser = argparse.ArgumentParser(description="Send orders and note what was acked.")
    parser.add_argument("--url", required=True, action="append", help="of an edge; more of them by more options")
    parser.add_argument("--key", help="an API key")
    parser.add_argument("--timeout", type=float, default=REQUEST_TIMEOUT_S, help="seconds that an answer may take")
    parser.add_argument("--stream", default="orders")
    parser.add_argument("--notes", type=Path, required=True, help="directory for sent.jsonl and acked.jsonl")
    parser.add_argument("--producers", type=int, default=12)
    parser.add_argument("--rows", type=int, default=40, help="events per request, on average")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between requests, on average")
    parser.add_argument("--patience", type=float, default=90.0, help="seconds after which a batch is given up")
    parser.add_argument("--first", type=int, default=0, help="where each producer's numbers begin")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    notes = Notes(args.notes)
    producers = [Producer(number, args, notes, stop) for number in range(args.producers)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()


if __name__ == "__main__":
    main()
