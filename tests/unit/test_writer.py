"""The writer worker's laws: killed, overtaken or moved at any point, each event is in its table once."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray.actors.messages import Outdated, PartitionId, Staged, WorkerReport
from eagleray.actors.writer import worker as worker_module
from eagleray.actors.writer.worker import WriterWorker
from eagleray.cluster.clock import ManualClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import CommitFailed, LogUnavailable
from eagleray.cluster.events.stream import REJECT_SCHEMA, Stream
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.log.memory import MemoryLog
from eagleray.cluster.log.protocol import Entry, Kind
from eagleray.cluster.log.record import encode_batch
from eagleray.cluster.seen_ids import LogUpTo
from tests.lake_tables import NOON_US, TIME, make_config, make_stream

PARTITIONS = 2
OWNED: list[PartitionId] = [("s", 0), ("s", 1)]
EVENTS, DEAD_LETTERS = "s.events", "s.dead_letters"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "POLL_S", 0.001)


class Bench:
    """A log, a lake, a worker, and what the committer does to them."""

    def __init__(self, directory: Path, *streams: Stream) -> None:
        self.clock = ManualClock(NOON_US)
        self.config: Config = make_config(directory)
        self.streams = {stream.name: stream for stream in streams or [make_stream(id="n")]}
        self.log = MemoryLog(PARTITIONS, self.clock)
        self.lake = Lake.open(self.config)
        self.lake.ensure(self.streams)
        self.worker = self.start()

    def start(self) -> WriterWorker:
        return WriterWorker(self.config, self.streams, self.log, Lake.open(self.config))

    def kill(self, worker: WriterWorker | None = None) -> None:
        """What SIGKILL does, as far as anyone else can tell: nothing is saved, nothing is said."""
        killed = worker or self.worker
        killed._stopping.set()
        killed._reading.join()

    def restart(self) -> None:
        self.kill()
        self.worker = self.start()

    def events(self, numbers: Iterable[int], partition: int = 0, stream: str = "s") -> None:
        found = list(numbers)
        rows = pa.table(
            {
                "time": pa.array([NOON_US + n for n in found], TIME),
                "user": [f"user-{n % 3}" for n in found],
                "n": found,
                "_time": [NOON_US + n for n in found],
                "_id": pa.array([n.to_bytes(16, "big") for n in found], pa.binary(16)),
                "_source": ["test"] * len(found),
                "_extra": pa.nulls(len(found), pa.string()),
            },
            schema=self.streams[stream].log_schema,
        )
        self._append(stream, partition, Kind.EVENTS, rows)

    def rejects(self, originals: Iterable[bytes], partition: int = 0) -> None:
        rows = [
            {"original": original, "reason": "json", "detail": "broken", "source": "test", "attempt": 1}
            for original in originals
        ]
        self._append("s", partition, Kind.REJECTS, pa.Table.from_pylist(rows, REJECT_SCHEMA))

    def control(self, partition: int = 0) -> None:
        body = b'{"advance": 1, "expected": 0}'
        self.log.append("s", [Entry(partition, Kind.CONTROL, 0, body)])

    def _append(self, stream: str, partition: int, kind: Kind, rows: pa.Table) -> None:
        payload = encode_batch(rows.combine_chunks().to_batches()[0])
        self.log.append(stream, [Entry(partition, kind, rows.num_rows, payload)])

    def progress(self) -> dict[str, dict[str, int]]:
        return {table: self.lake.progress(table) for table in self.lake.tables()}

    def collect(self, owned: list[PartitionId] | None = None, worker: WriterWorker | None = None) -> WorkerReport:
        return (worker or self.worker).collect(OWNED if owned is None else owned, self.progress())

    def commit(self, staged: Iterable[Staged]) -> bool:
        """In order, as the committer does; False if one was refused."""
        try:
            return all([self.lake.commit(s.table, s.files, s.begins, s.ends) for s in staged])
        except CommitFailed:
            return False

    def staged(self, tables: Iterable[str], owned: list[PartitionId] | None = None) -> list[Staged]:
        """Collect, committing nothing, until batches of `tables` with all that the log holds are on offer."""
        for report in self.rounds(owned):
            caught_up = all(r.position >= r.end for r in report.partitions.values()) and report.partitions
            if caught_up and [s.table for s in report.staged] == list(tables):
                return report.staged
            self.commit(report.staged)
        raise AssertionError("unreachable")

    def drain(self, owned: list[PartitionId] | None = None) -> WorkerReport:
        """Collect and commit until nothing is left."""
        for report in self.rounds(owned):
            caught_up = [r for r in report.partitions.values() if r.position >= r.end]
            if not report.staged and len(caught_up) == len(OWNED if owned is None else owned):
                return report
            self.commit(report.staged)
        raise AssertionError("unreachable")

    def caught_up(self) -> None:
        """Wait until the worker has read all that the log holds, without collecting; it has collected once before."""
        for _ in self._tries():
            taps = self.worker._taps()
            # The reader's own position moves before its chunk is there.
            ends = [tap._chunks[-1][0].end if tap._chunks else tap.position for tap in taps]
            held = [self.log.bounds(tap.stream.name, tap.partition).end for tap in taps]
            if taps and all(end >= there for end, there in zip(ends, held, strict=True)):
                return

    def rounds(self, owned: list[PartitionId] | None = None) -> Iterator[WorkerReport]:
        return (self.collect(owned) for _ in self._tries())

    def _tries(self) -> Iterator[None]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            yield
            time.sleep(0.002)
        raise AssertionError("not within a minute")

    def numbers(self, stream: str = "s") -> list[int]:
        return sorted(self.lake.read(f"{stream}.events", ["n"])["n"].to_pylist())

    def letters(self) -> list[bytes]:
        return sorted(self.lake.read(DEAD_LETTERS, ["original"])["original"].to_pylist())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.kill()


def test_each_event_is_stored_once_with_its_place_in_the_log(bench: Bench) -> None:
    bench.events([1, 2])
    bench.events([3], partition=1)
    bench.events([4])
    bench.drain()
    rows = bench.lake.read(EVENTS).sort_by("n")
    places = rows.select(["n", "_partition", "_offset", "_row", "_source"]).to_pylist()
    assert [tuple(row.values()) for row in places] == [
        (1, 0, 0, 0, "test"),
        (2, 0, 0, 1, "test"),
        (3, 1, 0, 0, "test"),
        (4, 0, 1, 0, "test"),
    ]
    assert rows["_ingested_at"].cast(pa.int64()).to_pylist() == [NOON_US] * 4
    assert bench.lake.progress(EVENTS) == {"p0": 2, "p1": 1}


def test_one_batch_for_each_table_dead_letters_first(bench: Bench) -> None:
    bench.collect()
    bench.events([1])
    bench.rejects([b"{"], partition=1)
    bench.events([2], partition=1)
    bench.caught_up()
    report = bench.collect()
    assert [staged.table for staged in report.staged] == [DEAD_LETTERS, EVENTS]
    assert [staged.ends for staged in report.staged] == [{"p0": 1, "p1": 2}] * 2
    assert [len(staged.files) for staged in report.staged] == [1, 1]
    assert [staged.rows for staged in report.staged] == [1, 2]


def test_uncommitted_batch_is_offered_again_the_same(bench: Bench) -> None:
    bench.events([1, 2])
    first = bench.staged([EVENTS])
    bench.events([3])
    bench.caught_up()
    assert bench.collect().staged == first
    assert bench.collect().staged == first
    bench.drain()
    assert bench.numbers() == [1, 2, 3]


def test_worker_killed_between_staging_and_commit_loses_nothing(bench: Bench) -> None:
    bench.events([1, 2])
    bench.rejects([b"{"])
    bench.staged([DEAD_LETTERS, EVENTS])
    bench.restart()
    bench.drain()
    assert bench.numbers() == [1, 2]
    assert bench.letters() == [b"{"]


def test_worker_killed_between_dead_letters_and_events_doubles_nothing(bench: Bench) -> None:
    bench.events([1])
    bench.rejects([b"a"])
    bench.commit(bench.staged([DEAD_LETTERS, EVENTS])[:1])
    bench.restart()
    bench.rejects([b"b"])
    bench.events([2])
    bench.drain()
    assert bench.letters() == [b"a", b"b"]
    assert bench.numbers() == [1, 2]


def test_batch_of_a_dead_worker_that_lands_late_doubles_nothing(bench: Bench) -> None:
    bench.events([1])
    late = bench.staged([EVENTS])
    bench.restart()
    bench.events([2])
    mine = bench.staged([EVENTS])
    assert mine[0].ends == {"p0": 2}
    assert bench.commit(late)
    assert not bench.commit(mine)
    bench.drain()
    assert bench.numbers() == [1, 2]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_in_whatever_order_every_event_is_stored_once(bench: Bench, seed: int) -> None:
    draw = random.Random(seed)
    sent: list[int] = []
    letters: list[bytes] = []
    zombies: list[list[Staged]] = []
    for _ in range(40):
        act = draw.choice(
            ["events", "events", "repeat", "rejects", "control", "round", "round", "half", "kill", "late"]
        )
        partition = draw.randrange(PARTITIONS)
        if act == "events":
            fresh = range(len(sent), len(sent) + draw.randint(1, 5))
            bench.events(fresh, partition=0)
            sent += fresh
        elif act == "repeat" and sent:
            bench.events(draw.sample(sent, 1), partition=0)
        elif act == "rejects":
            letters.append(f"{len(letters):03}".encode())
            bench.rejects(letters[-1:], partition)
        elif act == "control":
            bench.control(partition)
        elif act == "round":
            bench.commit(bench.collect().staged)
        elif act == "half":
            report = bench.collect()
            bench.commit(report.staged[: draw.randint(0, 1)])
            zombies.append(report.staged)
        elif act == "kill":
            bench.restart()
        elif act == "late" and zombies:
            bench.commit(zombies.pop())
    bench.drain()
    assert bench.numbers() == sent
    assert bench.letters() == letters


def test_range_of_rejects_only_moves_the_worker_and_leaves_events_alone(bench: Bench) -> None:
    bench.rejects([b"a"])
    report = bench.drain()
    assert bench.lake.progress(EVENTS) == {}
    assert bench.lake.progress(DEAD_LETTERS) == {"p0": 1}
    assert report.partitions["s", 0].position == 1
    assert report.partitions["s", 0].safe == 0  # a successor starts where `events` stands
    bench.events([1])
    staged = bench.staged([EVENTS])
    assert (staged[0].begins, staged[0].ends) == ({"p0": 0}, {"p0": 2})
    bench.drain()
    assert bench.letters() == [b"a"]


def test_range_without_rows_commits_nothing(bench: Bench) -> None:
    bench.control()
    report = bench.drain()
    assert report.partitions["s", 0].position == 1
    assert bench.lake.load(EVENTS).metadata.snapshots == []


@pytest.mark.parametrize("state", ["saved", "lost", "killed"])
def test_duplicate_across_a_restart_is_dropped(bench: Bench, state: str) -> None:
    bench.events([1, 2])
    bench.drain()
    if state == "killed":
        bench.kill()
    else:
        bench.worker.stop()
    if state == "lost":
        shutil.rmtree(bench.config.state_dir)
    bench.clock.advance(60_000_000)
    bench.events([2, 3])
    bench.worker = bench.start()
    bench.drain()
    assert bench.numbers() == [1, 2, 3]


def test_same_id_after_the_horizon_is_a_new_event(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_stream(id="n", dedup_horizon="1m"))
    bench.events([1])
    bench.drain()
    bench.restart()
    bench.clock.advance(61_000_000)
    bench.events([1])
    bench.drain()
    assert bench.numbers() == [1, 1]
    bench.kill()


def test_identifiers_are_saved_before_the_log_may_be_trimmed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eagleray.actors.writer.partition_reader.SAVE_INTERVAL_S", 0.0)
    bench.events([1])
    for report in bench.rounds():
        if report.partitions and report.partitions["s", 0].safe == 1:
            break
        bench.commit(report.staged)
    bench.log.trim("s", 0, 1, NOON_US + 1)
    bench.events([1, 2])
    bench.restart()
    bench.drain()
    assert bench.numbers() == [1, 2]


def test_partition_moves_to_another_worker_without_gap_or_overlap(bench: Bench) -> None:
    other = bench.start()
    bench.collect()
    bench.events([1])
    bench.events([2], partition=1)
    bench.caught_up()
    old = bench.staged([EVENTS])
    assert old[0].ends == {"p0": 1, "p1": 1}
    # p1 goes to the other worker while both are in the batch: neither may commit half of it
    report = bench.collect([("s", 0)])
    assert report.staged == []
    mine, bench.worker = bench.worker, other
    bench.drain([("s", 1)])
    bench.worker = mine
    assert not bench.commit(old)
    bench.drain([("s", 0)])
    assert bench.numbers() == [1, 2]
    bench.kill(other)


def test_released_partition_is_no_longer_reported(bench: Bench) -> None:
    bench.events([1])
    bench.drain()
    assert bench.collect([("s", 1)]).partitions.keys() == {("s", 1)}
    assert bench.collect([]).partitions == {}


def test_full_disk_holds_up_one_stream_and_loses_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_stream(), make_stream(name="t"))
    owned = [("s", 0), ("t", 0)]
    real = bench.worker._lake.write
    full = [True]

    def write(table: str, rows: pa.Table) -> list[Any]:
        if full and table == EVENTS:
            raise OSError("no space left on device")
        return real(table, rows)

    bench.worker._shares["s"]._write = write
    bench.events([1])
    bench.events([2], stream="t")
    for report in bench.rounds(owned):
        bench.commit(report.staged)
        if bench.numbers("t") == [2] and any("OSError" in name for name in bench.worker.stats()):
            break
    assert bench.numbers() == []
    full.clear()
    bench.drain(owned)
    assert bench.numbers() == [1]
    bench.kill()


def test_stream_of_rejected_events_alone_is_trimmed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eagleray.actors.writer.partition_reader.SAVE_INTERVAL_S", 0.0)
    for n in range(5):
        bench.rejects([b"broken %d" % n])
    before = bench.drain()
    assert before.partitions["s", 0].safe == 0 and bench.lake.progress(EVENTS) == {}
    monkeypatch.setattr("eagleray.actors.writer.stream_writer.EMPTY_STEP_S", 0.0)
    for report in bench.rounds():
        bench.commit(report.staged)
        if report.partitions and report.partitions["s", 0].safe == 5:
            break
    assert bench.log.trim("s", 0, 5, NOON_US + 1) == 5
    # what comes after a restart is stored once, and nothing of it is asked of the records that are gone
    bench.restart()
    bench.events([1, 2])
    bench.rejects([b"broken 5"])
    bench.drain()
    assert bench.numbers() == [1, 2]
    assert bench.letters() == [b"broken %d" % n for n in range(6)]
    assert bench.lake.progress(EVENTS)["p0"] == 7
    bench.kill()


def test_idle_stream_is_never_committed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eagleray.actors.writer.stream_writer.EMPTY_STEP_S", 0.0)
    bench.events([1])
    bench.drain()
    assert [bench.collect().staged for _ in range(100)] == [[]] * 100
    bench.kill()


def test_damaged_record_stops_its_partition_and_no_other(bench: Bench) -> None:
    bench.events([1])
    bench.log.append("s", [Entry(0, Kind.EVENTS, 1, b"not an Arrow stream")])
    bench.events([2])
    bench.events([3], partition=1)
    for report in bench.rounds():
        bench.commit(report.staged)
        if bench.numbers() == [1, 3] and any(name.startswith("writer_errors_total") for name in bench.worker.stats()):
            break
    for _ in range(3):
        bench.commit(bench.collect().staged)
    assert bench.numbers() == [1, 3]
    assert bench.lake.progress(EVENTS)["p0"] == 1


def test_log_that_cannot_be_read_for_a_while_is_read_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eagleray.actors.writer.partition_reader.RETRY_S", 0.001)
    real, failures = bench.log.read, [LogUnavailable("locked")] * 5

    def read(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*args)

    monkeypatch.setattr(bench.log, "read", read)
    bench.events([1])
    bench.drain()
    assert bench.numbers() == [1]
    assert not failures


def test_reading_ahead_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "READ_AHEAD_BYTES_MAX", 10_000)
    monkeypatch.setattr("eagleray.actors.writer.partition_reader.READ_BYTES", 1)
    for start in range(0, 4000, 100):
        bench.events(range(start, start + 100))
    bench.collect()
    time.sleep(0.2)
    assert 10_000 <= bench.worker.stats()["writer_buffered_bytes"] < 30_000
    bench.drain()
    assert bench.numbers() == list(range(4000))


def test_counters_tell_rows_and_duplicates(bench: Bench) -> None:
    bench.events([1, 2, 1])
    bench.drain()
    stats: Mapping[str, float] = bench.worker.stats()
    assert stats["writer_rows_total{table=s.events}"] == 2
    assert stats["writer_duplicates_total{stream=s}"] == 1
    bench.worker.stop()
    assert not bench.worker._reading.is_alive()


def test_view_of_a_log_ends_where_it_is_told() -> None:
    log = MemoryLog(1, ManualClock(NOON_US))
    for _ in range(5):
        log.append("s", [Entry(0, Kind.CONTROL, 0, b"{}")])
    view = LogUpTo(log, 3)
    assert [record.offset for record in view.read("s", 0, 1, 1 << 20)] == [1, 2]
    assert view.read("s", 0, 3, 1 << 20) == []
    assert tuple(view.bounds("s", 0)) == (0, 3)


def test_files_that_waited_longer_than_orphans_may_are_written_again(bench: Bench) -> None:
    bench.events(range(3))
    (first,) = bench.staged([EVENTS])
    for file in first.files:
        os.utime(file.file_path, times=(1.0, 1.0))  # worker or committer were stopped for very long
    assert not bench.commit([first])
    (again,) = bench.staged([EVENTS])
    assert {file.file_path for file in again.files}.isdisjoint(file.file_path for file in first.files)
    bench.drain()
    assert bench.numbers() == [0, 1, 2]


def test_a_collect_that_comes_after_its_successor_is_refused_and_changes_nothing(bench: Bench) -> None:
    bench.events(range(10))
    staged = bench.staged([EVENTS])
    progress = bench.progress()
    bench.worker.collect(OWNED, progress, (2, 1, 7))
    for older in [(2, 1, 7), (2, 1, 6), (2, 0, 900), (1, 99, 99)]:  # also of a committer before, or a controller
        with pytest.raises(Outdated, match=r"came after \(2, 1, 7\)"):
            bench.worker.collect([], {}, older)
    again = bench.worker.collect(OWNED, progress, (2, 2, 1)).staged
    assert [s.files for s in again] == [s.files for s in staged]  # it still owns what it staged
    assert bench.commit(again)
    assert bench.lake.read(EVENTS).num_rows == 10


def test_a_table_that_another_engine_partitions_otherwise_goes_on(bench: Bench) -> None:
    """What was staged for the old partitions is written again, and what comes later is written for the new ones."""
    bench.events(range(10))
    staged = bench.staged([EVENTS])
    with Lake.open(bench.config).load(EVENTS).update_spec() as change:
        change.add_field("user", "bucket[4]")
    assert not bench.commit(staged)
    bench.drain()
    bench.events(range(10, 20))
    bench.drain()
    found = bench.lake.read(EVENTS)
    assert sorted(found.column("n").to_pylist()) == list(range(20))
    assert {file.spec_id for file in bench.lake.pin(EVENTS).plan().data_files} == {
        bench.lake.load(EVENTS).spec().spec_id
    }
