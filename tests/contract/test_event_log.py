"""The contract of `EventLog`, in memory and in files; then what only a log in files can promise."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eagleray.cluster.clock import ManualClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, LogCorrupt, LogMismatch, LogUnavailable
from eagleray.cluster.log import stream_file as streamfile
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.log.embedded import EmbeddedLog
from eagleray.cluster.log.memory import MemoryLog
from eagleray.cluster.log.protocol import Bounds, Epoch, EventLog
from eagleray.cluster.sections import LogConfig
from tests.contract.log_contract import MANY, EventLogContract, events, payloads

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000)


@pytest.fixture(params=["memory", "embedded"])
def log(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[EventLog]:
    made: EventLog = MemoryLog(4, clock) if request.param == "memory" else EmbeddedLog(tmp_path, 4, 2.0, clock)
    yield made
    made.close()


@pytest.fixture
def embedded(tmp_path: Path, clock: ManualClock) -> Iterator[Callable[..., EmbeddedLog]]:
    """Opens logs on one directory, each with connections of its own as another process would have."""
    with contextlib.ExitStack() as stack:

        def open_another(**options: float) -> EmbeddedLog:
            log = EmbeddedLog(tmp_path, 4, clock=clock, **options)
            stack.callback(log.close)
            return log

        yield open_another


class TestEventLog(EventLogContract):
    """In memory and in files; in Kafka: tests/backends/test_kafka_log.py."""


# -- in files --------------------------------------------------------------------------------

APPENDER = """
import os, sys
from pathlib import Path
from eagleray.cluster.log.embedded import EmbeddedLog
from eagleray.cluster.log.protocol import Entry, Kind

directory, name, count, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
log = EmbeddedLog(directory, 4)
for i in range(count):
    payload = f"{name}-{i}-".encode() + os.urandom(size)
    offsets = log.append("s", [Entry(partition, Kind.EVENTS, 1, payload) for partition in range(4)])
    os.write(1, f"{i} {offsets}\\n".replace(",", "").replace("[", "").replace("]", "").encode())
"""


def spawn(directory: Path, name: str, count: int, size: int = 100) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", APPENDER, str(directory), name, str(count), str(size)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def acked_lines(output: bytes) -> list[tuple[int, list[int]]]:
    lines = [[int(part) for part in line.split()] for line in output.split(b"\n")[:-1]]
    return [(line[0], line[1:]) for line in lines]


def test_processes_append_to_the_same_partitions_without_gap_or_loss(tmp_path: Path) -> None:
    appenders = {name: spawn(tmp_path, name, 100) for name in "abc"}
    log = EmbeddedLog(tmp_path, 4)
    outputs = {name: appender.communicate(timeout=120) for name, appender in appenders.items()}
    for name, (output, errors) in outputs.items():
        acked = acked_lines(output)
        assert len(acked) == 100, errors.decode()
        for i, offsets in acked:
            for partition, offset in enumerate(offsets):
                assert log.read("s", partition, offset, 1)[0].payload.startswith(b"%s-%d-" % (name.encode(), i))
    assert [log.bounds("s", partition) for partition in range(4)] == [Bounds(0, 300)] * 4
    log.close()


@pytest.mark.faults
def test_what_was_acked_survives_kill_9_of_an_appender_mid_append(tmp_path: Path) -> None:
    for round_ in range(3):
        appender = spawn(tmp_path, f"r{round_}", 1_000_000, 40_000)
        bystander = spawn(tmp_path, f"b{round_}", 30, 1_000)
        assert appender.stdout is not None
        head = b"".join(appender.stdout.readline() for _ in range(30 + 17 * round_))
        appender.send_signal(signal.SIGKILL)
        rest, _ = appender.communicate()
        output, errors = bystander.communicate(timeout=60)  # the lock of the dead is free at once
        assert len(acked_lines(output)) == 30, errors.decode()
        log = EmbeddedLog(tmp_path, 4)
        for i, offsets in acked_lines(head + rest):
            for partition, offset in enumerate(offsets):
                assert log.read("s", partition, offset, 1)[0].payload.startswith(b"r%d-%d-" % (round_, i))
        for partition in range(4):
            first, end = log.bounds("s", partition)
            assert [record.offset for record in log.read("s", partition, 0, MANY)] == list(range(first, end))
        assert log.append("s", events(0, b"and on it goes")) == [log.bounds("s", 0).end - 1]
        log.close()


def killed_with_records_in_the_wal(directory: Path) -> Path:
    appender = spawn(directory, "x", 1_000_000, 3_000)
    assert appender.stdout is not None
    for _ in range(40):
        appender.stdout.readline()
    appender.kill()
    appender.communicate()
    return directory / "s" / "records.db-wal"


@pytest.mark.faults
def test_a_torn_last_transaction_is_dropped_and_the_others_are_there(tmp_path: Path) -> None:
    wal = killed_with_records_in_the_wal(tmp_path)
    os.truncate(wal, wal.stat().st_size - 5_000)
    log = EmbeddedLog(tmp_path, 4)
    records = log.read("s", 0, 0, MANY)
    assert len(records) >= 38
    assert log.append("s", events(0, b"next")) == [len(records)]
    log.close()


@pytest.mark.faults
@pytest.mark.parametrize("where", [20, 60_000], ids=["header", "middle"])
def test_acked_records_behind_damage_in_the_wal_are_not_lost_in_silence(tmp_path: Path, where: int) -> None:
    wal = killed_with_records_in_the_wal(tmp_path)
    data = bytearray(wal.read_bytes())
    data[where] ^= 1
    wal.write_bytes(data)
    log = EmbeddedLog(tmp_path, 4)
    for _ in range(2):
        with pytest.raises(LogCorrupt, match="damaged"):
            log.read("s", 0, 0, MANY)
        with pytest.raises(LogCorrupt, match="damaged"):
            log.append("s", events(0, b"x"))
    assert log.append("other", events(0, b"x")) == [0]  # other streams go on
    log.close()
    data[where] ^= 1
    assert wal.stat().st_size == len(data)  # nothing was touched: repaired from elsewhere, all is there
    wal.write_bytes(data)
    repaired = EmbeddedLog(tmp_path, 4)
    assert len(repaired.read("s", 0, 0, MANY)) >= 39
    repaired.close()


def test_a_stopped_appender_costs_its_neighbours_the_time_limit_and_no_more(
    embedded: Callable[..., EmbeddedLog], tmp_path: Path
) -> None:
    log = embedded(append_timeout_s=0.2)
    log.append("s", events(0, b"a"))
    with (tmp_path / "s" / "records.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for _ in range(3):
            with pytest.raises(LogUnavailable, match="another process"):
                log.append("s", events(0, b"lost"))
        assert log.append("other", events(1, b"b")) == [0]  # other streams are not touched
        assert payloads(log) == [b"a"]
    assert log.append("s", events(0, b"c")) == [1]
    assert embedded(append_timeout_s=2.0).append("s", events(0, b"d")) == [2]  # nobody kept the lock


def test_a_locked_database_is_unavailable_and_recovers(embedded: Callable[..., EmbeddedLog], tmp_path: Path) -> None:
    log = embedded(append_timeout_s=0.2)
    log.append("s", events(0, b"a"))
    with contextlib.closing(sqlite3.connect(tmp_path / "s" / "records.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailable, match="locked"):
            log.append("s", events(0, b"b"))
        other.execute("ROLLBACK")
    assert log.append("s", events(0, b"c")) == [1]


def test_a_full_disk_acks_nothing_and_recovers_by_itself(
    embedded: Callable[..., EmbeddedLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = embedded()
    log.append("s", events(0, b"a"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as it does on a full disk
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        for _ in range(2):
            with pytest.raises(LogUnavailable):
                log.append("s", [*events(0, b"b" * 400_000), *events(1, b"b" * 400_000)])
        assert payloads(log) == [b"a"]
        assert log.append("s", events(2, b"small")) == [0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert log.append("s", events(0, b"c" * 400_000)) == [1]
    assert payloads(log) == [b"a", b"c" * 400_000]
    assert log.append("s", events(1, b"c")) == [0]


def test_an_append_that_fails_fails_for_everyone_who_waited_with_it(
    embedded: Callable[..., EmbeddedLog], tmp_path: Path
) -> None:
    log = embedded(append_timeout_s=0.5)
    log.append("s", events(0, b"a"))
    failures: list[LogUnavailable] = []

    def append() -> None:
        try:
            log.append("s", events(0, b"b"))
        except LogUnavailable as error:
            failures.append(error)

    with contextlib.closing(sqlite3.connect(tmp_path / "s" / "records.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        threads = [threading.Thread(target=append) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        other.execute("ROLLBACK")
    assert len(failures) == 5
    assert payloads(log) == [b"a"]
    assert log.append("s", events(0, b"c")) == [1]


class Ended(BaseException):
    """What ends a thread, and is no Exception."""


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("odd"), ValueError("odd"), Ended()], ids=repr)
@pytest.mark.parametrize("where", ["insert", "end"])
def test_whatever_ends_a_commit_fails_everyone_in_it_and_nothing_of_it_is_stored(
    embedded: Callable[..., EmbeddedLog], monkeypatch: pytest.MonkeyPatch, failure: BaseException, where: str
) -> None:
    log = embedded()
    log.append("s", events(0, b"a"))
    file = log._file("s")
    outcomes: list[object] = []

    def append(payload: bytes) -> None:
        try:
            outcomes.append(log.append("s", events(0, payload)))
        except BaseException as error:
            outcomes.append(error)

    def fail(*_: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(streamfile.database, where, fail)
        threads = [threading.Thread(target=append, args=(b"lost",)) for _ in range(5)]
        with file._write_mutex:  # all of them gather behind one that is under way
            for thread in threads:
                thread.start()
            while len(file._waiting) < 5:
                threading.Event().wait(0.001)
        for thread in threads:
            thread.join()
    assert len(outcomes) == 5
    assert all(isinstance(outcome, LogUnavailable | Ended) for outcome in outcomes), outcomes
    assert sum(isinstance(outcome, LogUnavailable) for outcome in outcomes) >= (4 if isinstance(failure, Ended) else 5)
    assert payloads(log) == [b"a"]
    assert log.append("s", events(0, b"c")) == [1]


def test_an_append_that_lost_its_group_is_never_taken_for_stored(
    embedded: Callable[..., EmbeddedLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = embedded()
    monkeypatch.setattr(streamfile.StreamFile, "_group", lambda _: [])
    with pytest.raises(LogUnavailable, match="did not end"):
        log.append("s", events(0, b"a"))


@pytest.mark.parametrize("column", ["payload", "ingested_at_us", "rows", "kind"])
def test_an_altered_record_is_corrupt_and_the_ones_before_it_are_not(
    embedded: Callable[..., EmbeddedLog], tmp_path: Path, column: str
) -> None:
    log = embedded()
    log.append("s", events(0, b"a", b"b", b"c"))
    with contextlib.closing(sqlite3.connect(tmp_path / "s" / "records.db", isolation_level=None)) as other:
        value = b"x" if column == "payload" else 2
        other.execute(f"UPDATE records SET {column} = ? WHERE key = 1", (value,))
    assert payloads(log) == [b"a"]
    with pytest.raises(LogCorrupt, match="record 1"):
        log.read("s", 0, 1, MANY)


def test_a_flipped_bit_in_the_file_is_detected(embedded: Callable[..., EmbeddedLog], tmp_path: Path) -> None:
    log = embedded()
    log.append("s", events(0, b"a" * 50_000, b"needle" * 10_000, b"c"))
    log.close()
    path = tmp_path / "s" / "records.db"
    data = bytearray(path.read_bytes())
    data[data.rindex(b"needleneedle")] ^= 4
    path.write_bytes(data)
    reopened = embedded()
    assert payloads(reopened) == [b"a" * 50_000]
    with pytest.raises(LogCorrupt, match="s/0"):
        reopened.read("s", 0, 1, MANY)


def test_a_record_that_vanished_is_corrupt_not_skipped(embedded: Callable[..., EmbeddedLog], tmp_path: Path) -> None:
    log = embedded()
    log.append("s", events(0, b"a", b"b", b"c"))
    with contextlib.closing(sqlite3.connect(tmp_path / "s" / "records.db", isolation_level=None)) as other:
        other.execute("DELETE FROM records WHERE key = 1")
    assert payloads(log) == [b"a"]
    with pytest.raises(LogCorrupt, match="missing"):
        log.read("s", 0, 1, MANY)


def test_a_file_that_is_no_database_is_corrupt(embedded: Callable[..., EmbeddedLog], tmp_path: Path) -> None:
    log = embedded()
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "records.db").write_bytes(b"not a database, by any means" * 1000)
    with pytest.raises(LogCorrupt):
        log.read("s", 0, 0, MANY)
    with pytest.raises(LogCorrupt, match="log s: append"):
        log.append("s", events(0, b"a"))


def test_records_survive_reopening(embedded: Callable[..., EmbeddedLog]) -> None:
    log = embedded()
    log.append("s", events(0, b"a", b"b"))
    log.trim("s", 0, 2, MANY)
    log.append("s", events(0, b"c"))
    log.close()
    again = embedded()
    assert again.bounds("s", 0) == Bounds(2, 3)
    assert payloads(again, offset=2) == [b"c"]


def test_the_write_ahead_log_does_not_grow_without_bound(
    embedded: Callable[..., EmbeddedLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamfile, "CHECKPOINT_BYTES", 1 << 20)
    log, reader = embedded(), embedded()
    position = 0
    for _ in range(400):
        log.append("s", events(0, os.urandom(100_000)))
        position += len(reader.read("s", 0, position, 1 << 20))
    assert (tmp_path / "s" / "records.db-wal").stat().st_size < 20 << 20  # 40 MB were written
    assert position == 400


def test_the_number_of_partitions_is_fixed_at_first_use(tmp_path: Path) -> None:
    def config(partitions: int) -> Config:
        return Config(file=Path("eagleray.yaml"), data_dir=tmp_path, log=LogConfig(partitions=partitions))

    open_log(config(4)).close()
    with pytest.raises(ConfigError, match=r"eagleray.yaml: log.partitions: .* made with 4 partitions, not 8"):
        open_log(config(8))
    open_log(config(4)).close()


def test_a_log_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"version": 1, "partitions": 4}))
    with pytest.raises(ConfigError, match="format"):
        EmbeddedLog(tmp_path, 4)


def test_a_log_that_is_expected_is_never_made_and_another_never_read(tmp_path: Path) -> None:
    with contextlib.closing(EmbeddedLog(tmp_path, 4, epochs={"s": Epoch("mine")})) as log:
        for work in (lambda: log.append("s", events(0, b"a")), lambda: log.bounds("s", 0), lambda: log.epoch("s")):
            with pytest.raises(LogMismatch, match=r"records\.db is gone"):
                work()
        log.begin("s", Epoch("another"))
        log.activate("s")
        for work in (lambda: log.append("s", events(0, b"a")), lambda: log.read("s", 0, 0, 1)):
            with pytest.raises(LogMismatch, match="another log"):
                work()
        log.begin("s", Epoch("mine"))
        log.activate("s")
        assert log.append("s", events(0, b"a")) == [0]
    kept = [path.name for path in (tmp_path / "s").glob("replaced-*.db")]
    assert len(kept) == 1


def test_a_log_from_before_logs_had_names_is_given_one(tmp_path: Path) -> None:
    with contextlib.closing(EmbeddedLog(tmp_path, 4)) as log:
        log.append("s", events(0, b"a"))
    with contextlib.closing(sqlite3.connect(tmp_path / "s" / "records.db")) as old:
        old.execute("DROP TABLE about")
    with contextlib.closing(EmbeddedLog(tmp_path, 4)) as log:
        assert payloads(log) == [b"a"]
        given = log.epoch("s")
        assert given is not None and given.log
    with contextlib.closing(EmbeddedLog(tmp_path, 4, epochs={"s": given})) as log:
        assert log.append("s", events(0, b"b")) == [1]


def test_memory_is_one_log_per_data_directory_in_this_process(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, log=LogConfig(backend="memory"))
    open_log(config).append("s", events(0, b"a"))
    assert payloads(open_log(config)) == [b"a"]
    with pytest.raises(ConfigError, match="partitions"):
        open_log(Config(data_dir=tmp_path, log=LogConfig(backend="memory", partitions=2)))
