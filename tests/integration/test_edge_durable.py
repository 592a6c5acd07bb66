"""The edge over a real validate worker and the embedded log, in one process: what is acked is on disk."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from eagleray.actors.validate.worker import ValidateWorker
from eagleray.cluster.config import Config
from eagleray.cluster.errors import LogUnavailable
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import Answer, Submission
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.log.dedup.deduplicator import Deduplicator
from eagleray.cluster.log.reader import PartitionReader
from tests.edge_server import MemoryPlatform, ServedEdge, serve

SCHEMA = {
    "type": "object",
    "required": ["time", "n"],
    "properties": {
        "time": {"type": "string", "format": "date-time"},
        "n": {"type": "integer"},
        "id": {"type": "string"},
    },
}


class ValidatedPlatform(MemoryPlatform):
    """Takes events through a validate worker, as the platform does."""

    worker: ValidateWorker

    async def submit(self, submissions: list[Submission], timeout_s: float) -> list[Answer]:
        self.batches.append(len(submissions))
        return await asyncio.to_thread(self.worker.submit, submissions)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "ui.schema.json").write_text(json.dumps(SCHEMA))
    return Config.model_validate(
        {
            "file": str(tmp_path / "eagleray.yaml"),
            "data_dir": str(tmp_path / "data"),
            "edge": {"port": 0, "auth": "off"},
            "log": {"partitions": 2},
            "streams": {"ui": {"schema": "ui.schema.json", "time": "time"}},
        }
    )


@pytest.fixture
def edge(config: Config) -> Iterator[ServedEdge]:
    config.data_dir.mkdir()
    platform = ValidatedPlatform()
    platform.worker = ValidateWorker(config)
    with serve(config, platform) as served:
        yield served
    platform.worker.close()


def stored(config: Config) -> tuple[list[int], list[tuple[bytes, str]]]:
    """`n` of every event and (original, reason) of every rejection, read back from the files by someone else."""
    log, found = open_log(config), load_streams(config)["ui"]
    numbers: list[int] = []
    rejects: list[tuple[bytes, str]] = []
    for partition in range(config.log.partitions):
        reader = PartitionReader(log, found, partition, 0, Deduplicator(found.config.dedup_horizon))
        while chunk := reader.read(1 << 20):
            numbers += chunk.events["n"].to_pylist()
            rejects += [(row["original"], row["reason"]) for row in chunk.rejects.to_pylist()]
    log.close()
    return sorted(numbers), rejects


def event(n: object) -> bytes:
    return json.dumps({"time": "2026-01-01T00:00:00Z", "n": n}).encode()


def test_every_form_and_coding_is_on_disk_once_acked(edge: ServedEdge, config: Config) -> None:
    assert edge.post(event(1)).json == {"accepted": 1, "rejected": []}
    assert edge.post(b"[" + event(2) + b"," + event(3) + b"]").json["accepted"] == 2
    lines = event(4) + b"\n\n" + event(5) + b"\r\n"
    assert edge.post(gzip.compress(lines), "application/x-ndjson", Content_Encoding="gzip").json["accepted"] == 2
    assert stored(config) == ([1, 2, 3, 4, 5], [])


def test_rejected_events_are_answered_and_kept_as_they_came(edge: ServedEdge, config: Config) -> None:
    reply = edge.post(event(1) + b"\n" + event("x") + b"\n{broken\n" + event(2), "application/x-ndjson")
    assert reply.status == 200 and reply.json["accepted"] == 2
    assert [(row["index"], row["reason"]) for row in reply.json["rejected"]] == [(1, "schema"), (2, "json")]
    numbers, rejects = stored(config)
    assert numbers == [1, 2]
    assert sorted(rejects) == sorted([(event("x"), "schema"), (b"{broken", "json")])


@pytest.mark.parametrize("body", [b"[" + event(1), b"{", b"[1,]", b'"\xff"', event(1) + event(2), b" "])
def test_malformed_body_stores_nothing(edge: ServedEdge, config: Config, body: bytes) -> None:
    reply = edge.post(body)
    assert (reply.status, reply.json["error"]) == (400, "malformed")
    assert stored(config) == ([], [])


def test_concurrent_requests_share_batches_and_keep_their_own_verdicts(edge: ServedEdge, config: Config) -> None:
    bad: list[int] = []

    def send(sender: int) -> None:
        for number in range(25):
            n = sender * 100 + number
            reply = edge.post(event(n) if n % 5 else event("x"))
            if reply.json["accepted"] != (1 if n % 5 else 0):
                bad.append(n)

    senders = [threading.Thread(target=send, args=(sender,)) for sender in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert bad == []
    numbers, rejects = stored(config)
    assert numbers == sorted(s * 100 + n for s in range(8) for n in range(25) if n % 5)
    assert len(rejects) == 40
    assert sum(edge.platform.batches) == 200


def test_retried_request_with_an_idempotency_key_is_stored_once(edge: ServedEdge, config: Config) -> None:
    body = event(1) + b"\n" + event(1) + b"\n" + event(2)
    for key in ("order-7", "order-7", "order-8"):
        assert edge.post(body, "application/x-ndjson", Idempotency_Key=key).status == 200
    assert stored(config)[0] == [1, 1, 1, 1, 2, 2]


def test_log_that_cannot_be_written_is_503_and_no_ack(
    edge: ServedEdge, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert edge.post(event(1)).status == 200
    worker = edge.platform.worker  # type: ignore[attr-defined]

    def full(stream: str, entries: object) -> list[int]:
        raise LogUnavailable("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(worker._log, "append", full)
        reply = edge.post(event(2))
        assert (reply.status, reply.json["error"], reply.headers["Retry-After"]) == (503, "log_unavailable", "1")
    assert edge.post(event(3)).status == 200
    assert stored(config)[0] == [1, 3]
