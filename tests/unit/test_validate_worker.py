"""The validate worker: stored before it answers, split by key with order kept, dead letters besides."""

from __future__ import annotations

import json
import random
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eagleray.actors.validate.log_health import TRY_AGAIN_S
from eagleray.actors.validate.worker import ValidateWorker
from eagleray.cluster.clock import ManualClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, LogUnavailable
from eagleray.cluster.events.seeded_hash import SEED_FILE, hash_seed
from eagleray.cluster.events.stream import REJECT_SCHEMA
from eagleray.cluster.events.verdict import Answer, Submission, pack, unpack_answers, unpack_submissions
from eagleray.cluster.log.protocol import Kind
from eagleray.cluster.log.record import decode_batches
from eagleray.cluster.sections import LogConfig, StreamConfig

NOW_US = 1_767_225_600_000_000
TIME = "2025-12-31T12:00:00Z"
DOCUMENT = {
    "type": "object",
    "properties": {
        "t": {"type": "string", "format": "date-time"},
        "user": {"type": "string"},
        "seq": {"type": "integer"},
    },
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "s.json").write_text(json.dumps(DOCUMENT))
    keyed = StreamConfig(schema="s.json", time="t", key="user")
    free = StreamConfig(schema="s.json", time="t")
    log = LogConfig(backend="memory", partitions=4)
    return Config(file=tmp_path / "e.yaml", data_dir=tmp_path / "data", log=log, streams={"keyed": keyed, "free": free})


@pytest.fixture
def worker(config: Config) -> ValidateWorker:
    return ValidateWorker(config, ManualClock(NOW_US))


def body(*events: dict[str, Any]) -> bytes:
    return b"\n".join(json.dumps({"t": TIME, **event}).encode() for event in events)


def records(worker: ValidateWorker, stream: str, kind: Kind) -> dict[int, list[dict[str, Any]]]:
    """Rows of a stream's log by partition, in log order."""
    found: dict[int, list[dict[str, Any]]] = {}
    schema = REJECT_SCHEMA if kind is Kind.REJECTS else worker._judges[stream].stream.log_schema
    for partition in range(worker._log.partitions):
        for record in worker._log.read(stream, partition, 0, 1 << 30):
            if record.kind == kind:
                rows = decode_batches([record.payload], schema).to_pylist()
                assert len(rows) == record.rows
                found.setdefault(partition, []).extend(rows)
    return found


def test_each_key_has_one_partition_and_keeps_its_order(worker: ValidateWorker) -> None:
    sent = [{"user": f"u{at % 23}", "seq": at} for at in range(1000)]
    for begin in range(0, 1000, 125):
        submissions = [Submission("keyed", "ndjson", body(*sent[at : at + 25])) for at in range(begin, begin + 125, 25)]
        assert [answer.accepted for answer in worker.submit(submissions)] == [25] * 5
    stored = records(worker, "keyed", Kind.EVENTS)
    assert len(stored) == 4
    place = {row["user"]: partition for partition, rows in stored.items() for row in rows}
    for user, partition in place.items():
        mine = [row["seq"] for rows in stored.values() for row in rows if row["user"] == user]
        assert mine == [event["seq"] for event in sent if event["user"] == user]
        assert {row["user"] for row in stored[partition]} >= {user}
    assert sum(map(len, stored.values())) == 1000


def test_submissions_and_answers_cross_processes_as_bytes(worker: ValidateWorker) -> None:
    condemned = Submission("free", "ndjson", body({"seq": 1}, {"seq": 2}), "ü", "k", 2, {1: "ended its process"})
    answers = unpack_answers(worker.serve(pack([condemned, Submission("free", "json", b"[")])))
    assert answers[0] == Answer(1, [(1, "crash", "ended its process")])
    assert answers[1].malformed
    assert unpack_submissions(pack([condemned])) == [condemned]


def test_streams_share_a_call_and_answers_keep_its_order(worker: ValidateWorker) -> None:
    submissions = [
        Submission("free", "ndjson", body({"seq": 1}, {"seq": "x"}), "a"),
        Submission("keyed", "json", body({"seq": 2})),
        Submission("free", "json", b"[", "b"),
        Submission("free", "json", body({"seq": 3}), "b"),
    ]
    answers = worker.submit(submissions)
    assert [answer.accepted for answer in answers] == [1, 1, 0, 1]
    assert [bool(answer.malformed) for answer in answers] == [False, False, True, False]
    (rows,) = records(worker, "free", Kind.EVENTS).values()
    assert [(row["seq"], row["_source"]) for row in rows] == [(1, "a"), (3, "b")]
    ((reject,),) = records(worker, "free", Kind.REJECTS).values()
    assert reject == {
        "original": body({"seq": "x"}),
        "reason": "schema",
        "detail": "seq: 'x' is not of type 'integer'",
        "source": "a",
        "attempt": 1,
    }


def test_batches_without_key_or_id_take_turns(worker: ValidateWorker) -> None:
    for at in range(8):
        worker.submit([Submission("free", "json", body({"seq": at}))])
        worker.submit([Submission("free", "ndjson", b"{broken")])
    assert {p: len(rows) for p, rows in records(worker, "free", Kind.EVENTS).items()} == dict.fromkeys(range(4), 2)
    assert {p: len(rows) for p, rows in records(worker, "free", Kind.REJECTS).items()} == dict.fromkeys(range(4), 2)


def random_text(size: int) -> str:
    return random.Random(size).randbytes(size // 2).hex()


def test_batches_become_as_many_records_as_the_log_asks_for(
    worker: ValidateWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(worker._log), "record_bytes_max", 8000)
    sent = [{"user": "u", "seq": at, "rest": random_text(1000 + at)} for at in range(40)]
    assert worker.submit([Submission("keyed", "ndjson", body(*sent))]) == [Answer(40)]
    found = [record for p in range(4) for record in worker._log.read("keyed", p, 0, 1 << 30)]
    assert len(found) > 4 and max(len(record.payload) for record in found) <= 8000
    ((_, rows),) = records(worker, "keyed", Kind.EVENTS).items()
    assert [row["seq"] for row in rows] == list(range(40))


def test_an_event_that_no_record_can_hold_is_refused_and_its_neighbours_are_stored(
    worker: ValidateWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(worker._log), "record_bytes_max", 8000)
    small, large = body({"seq": 1}), body({"seq": 2, "rest": random_text(40_000)})
    answers = worker.submit([Submission("free", "json", one) for one in (small, large, small)])
    assert [answer.accepted for answer in answers] == [1, 0, 1]
    assert answers[1].too_large is not None and "at most 8000" in answers[1].too_large
    rows = [row for found in records(worker, "free", Kind.EVENTS).values() for row in found]
    assert [row["seq"] for row in rows] == [1, 1]


def test_of_a_rejected_event_that_no_record_can_hold_the_beginning_is_kept(
    worker: ValidateWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(worker._log), "record_bytes_max", 8000)
    broken = b"{" + random_text(40_000).encode()
    (answer,) = worker.submit([Submission("free", "ndjson", broken)])
    assert [reason for _, reason, _ in answer.rejected] == ["json"]
    ((reject,),) = records(worker, "free", Kind.REJECTS).values()
    assert reject["original"] == broken[:4000]
    assert reject["detail"].endswith("; the first 4000 bytes are kept")


def test_nothing_is_appended_for_nothing(worker: ValidateWorker) -> None:
    (answer,) = worker.submit([Submission("free", "ndjson", b"\n\n")])
    assert (answer.accepted, answer.rejected) == (0, [])
    assert worker.submit([]) == []
    assert [worker._log.bounds("free", partition).end for partition in range(4)] == [0] * 4


def test_nothing_is_answered_when_the_log_refuses(worker: ValidateWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[int]:
        raise LogUnavailable("disk full")

    monkeypatch.setattr(worker._log, "append", refuse)
    with pytest.raises(LogUnavailable):
        worker.submit([Submission("free", "json", body({"seq": 1}))])
    assert not any(name.endswith("_total") for name in worker.stats())


@pytest.mark.parametrize("offsets", [[], [0, 1, 2]], ids=["none", "too many"])
def test_nothing_is_answered_unless_every_record_has_an_offset(
    worker: ValidateWorker, monkeypatch: pytest.MonkeyPatch, offsets: list[int]
) -> None:
    monkeypatch.setattr(worker._log, "append", lambda *_: offsets)
    with pytest.raises(LogUnavailable, match=f"{len(offsets)} offsets for 1 records"):
        worker.submit([Submission("free", "json", body({"seq": 1}))])
    assert not any(name.endswith("_total") for name in worker.stats())


def test_an_unknown_stream_is_the_callers_mistake(worker: ValidateWorker) -> None:
    with pytest.raises(KeyError, match="absent"):
        worker.submit([Submission("free", "json", body({"seq": 1})), Submission("absent", "json", b"{}")])
    assert worker._log.bounds("free", 0).end == 0


def test_threads_share_a_worker_and_counters_add_up(worker: ValidateWorker) -> None:
    def send(at: int) -> int:
        events = [{"user": f"u{n}", "seq": n, **({"odd": n} if at % 2 else {})} for n in range(20)]
        broken = {"seq": "x"}
        return worker.submit([Submission("keyed", "ndjson", body(*events, broken))])[0].accepted

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(send, range(40))) == 800
    stats = worker.stats()
    assert stats["validate_events_total{stream=keyed}"] == 800
    assert stats["validate_rejections_total{stream=keyed,reason=schema}"] == 40
    assert sum(len(rows) for rows in records(worker, "keyed", Kind.EVENTS).values()) == 800


def test_a_directory_draws_its_seed_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        seeds = set(pool.map(lambda _: hash_seed(Config(data_dir=tmp_path / "data")), range(16)))
    assert len(seeds) == 1
    assert [file.name for file in (tmp_path / "data").iterdir()] == [SEED_FILE]
    assert hash_seed(Config(data_dir=tmp_path / "other")) not in seeds
    (tmp_path / "data" / SEED_FILE).write_text("nonsense")
    with pytest.raises(ConfigError, match=r"hash\.seed"):
        hash_seed(Config(data_dir=tmp_path / "data"))


def test_a_log_that_cannot_be_written_is_told_until_it_can_again(config: Config) -> None:
    """Without an event that would find out: who asks for readiness sends none."""
    embedded = config.model_copy(update={"log": LogConfig(partitions=4)})
    worker = ValidateWorker(embedded, ManualClock(NOW_US))
    assert worker.submit([Submission("keyed", "ndjson", body({"user": "a", "seq": 1}))])[0].accepted == 1
    assert worker.problems() == {}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as it does on a full disk
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        with pytest.raises(LogUnavailable):
            worker.submit([Submission("keyed", "ndjson", body({"user": "a", "seq": 2}))])
        assert "log keyed: append" in worker.problems()["log"]
        time.sleep(2 * TRY_AGAIN_S)
        assert worker.problems()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    deadline = time.monotonic() + 60
    while worker.problems() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert worker.problems() == {}
    assert worker.submit([Submission("keyed", "ndjson", body({"user": "a", "seq": 3}))])[0].accepted == 1
    stored = [row["seq"] for rows in records(worker, "keyed", Kind.EVENTS).values() for row in rows]
    assert stored == [1, 3]
    worker.close()
