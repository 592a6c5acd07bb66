"""The window worker with a real log, lake and committer: killed, moved or restored anywhere, windows are final once."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from time import sleep
from typing import Any

import pyarrow as pa
import pytest
import yaml

from eagleray.actors.committer import Committer
from eagleray.actors.messages import CLOSED, Outdated, PartitionId, Topology
from eagleray.actors.peer import LocalPeer
from eagleray.actors.window.worker import NotReady, WindowWorker
from eagleray.cluster.clock import ManualClock
from eagleray.cluster.config import load_config
from eagleray.cluster.errors import BadCursor, LogUnavailable
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.log.protocol import Entry, Kind, Record
from eagleray.cluster.log.record import decode_control, encode_batch
from eagleray.cluster.state.protocol import Fenced
from eagleray.cluster.windowing.watermark import NEVER

PARTITIONS = 2
SECOND = 1_000_000
BASE = 1_442_059_200 * SECOND  # 2015-09-12T12:00:00Z
SLACK, LATENESS, GAP = 4, 6, 5
SCHEMA = {
    "type": "object",
    "properties": {
        "time": {"type": "integer"},
        "user": {"type": "string"},
        "n": {"type": "integer"},
        "payload": {"type": "object"},
    },
    "required": ["time"],
}
WINDOWS = {
    "by_user": {"tumble": "10s", "group_by": ["user"], "aggregate": {"events": "count()", "total": "sum(n)"}},
    "hops": {"hop": "20s", "every": "8s", "aggregate": {"events": "count()", "last_n": "last(n)"}},
    "visits": {"session_gap": f"{GAP}s", "group_by": ["user"], "aggregate": {"events": "count()"}},
}


class Rig:
    """One stream `s` with a log in memory, a lake on disk, window workers driven by hand, and the real committer."""

    def __init__(self, directory: Path, workers: int = 1, **stream: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "s.json").write_text(json.dumps(SCHEMA))
        settings = {"schema": "s.json", "time": "time", "time_unit": "s", "windows": WINDOWS}
        settings |= {"max_out_of_orderness": f"{SLACK}s", "allowed_lateness": f"{LATENESS}s", "idle_timeout": "10s"}
        whole = {
            "log": {"backend": "memory", "partitions": PARTITIONS},
            "streams": {"s": settings | stream, "plain": settings | {"windows": {}}},
        }
        (directory / "eagleray.yaml").write_text(yaml.safe_dump(whole))
        self.config = load_config(directory / "eagleray.yaml", environ={})
        self.clock = ManualClock(BASE)
        self.wall = ManualClock(BASE + 1_000_000 * SECOND)  # the log's: no event is ahead of it unless a test says so
        self.log = open_log(self.config, self.wall)
        self.streams = load_streams(self.config)
        self.lake = Lake.open(self.config)
        self.lake.ensure(self.streams)
        self.committer = Committer(self.config, self.clock)
        self.workers = [self.new() for _ in range(workers)]
        self.owners = [partition % workers for partition in range(PARTITIONS)]

    def new(self) -> WindowWorker:
        return WindowWorker(self.config, self.clock, self.log, self.lake, background=False)

    def send(self, partition: int, events: Iterable[tuple[int, str, int]], **extra: Any) -> None:
        """One record of (seconds, user, n) events."""
        found = list(events)
        columns = {
            "time": [BASE // SECOND + t for t, _, _ in found],
            "user": [user for _, user, _ in found],
            "n": [n for *_, n in found],
            "payload": [extra.get("payload")] * len(found),
            "_time": [BASE + t * SECOND for t, _, _ in found],
            "_id": extra.get("ids", [None] * len(found)),
            "_source": ["test"] * len(found),
            "_extra": [extra.get("extra")] * len(found),
        }
        schema = self.streams["s"].log_schema
        batch = pa.RecordBatch.from_pydict({name: columns[name] for name in schema.names}, schema)
        self.log.append("s", [Entry(partition, Kind.EVENTS, len(found), encode_batch(batch))])

    def read(self) -> None:
        for worker in self.workers:
            while worker.turn():
                pass

    def round(self) -> bool:
        """One of the committer's rounds."""
        peers = [LocalPeer(f"window-{i}", worker) for i, worker in enumerate(self.workers)]
        owned: dict[PartitionId, Any] = {("s", p): peers[self.owners[p]] for p in range(PARTITIONS)}
        owned |= {("plain", p): peers[0] for p in range(PARTITIONS)}
        self.committer.topology = Topology((1, 0), owned)
        return asyncio.run(self.committer.window_round())

    def settle(self) -> None:
        """Rounds until nothing moves any more."""
        for _ in range(4):
            self.round()
            self.read()
        self.round()

    def kill(self, index: int = 0, snapshot: bool = False) -> None:
        """A worker goes without a word, and another starts in its place."""
        if snapshot:
            for partition in self.workers[index]._held.values():
                partition.snapshot()
        for partition in self.workers[index]._held.values():
            partition.close()
        self.workers[index] = self.new()

    def rows(self, window: str) -> list[tuple]:
        table = self.lake.read(f"s.{window}")
        times = [[at // SECOND - BASE // SECOND for at in _us(table, n)] for n in ("window_start", "window_end")]
        rest = [table.column(name).to_pylist() for name in table.column_names[2:]]
        return sorted(zip(*times, *rest, strict=True))

    def late(self) -> list[tuple]:
        table = self.lake.read("s.late")
        starts = [at // SECOND - BASE // SECOND for at in _us(table, "window_start")]
        columns = (table.column(name).to_pylist() for name in ("_partition", "_offset", "_row"))
        return sorted(zip(table.column("window").to_pylist(), starts, *columns, strict=True))

    def closing(self) -> None:
        """Move every watermark far ahead, so that all windows close."""
        for partition in range(PARTITIONS):
            self.send(partition, [(100_000, "end", 0)])


def _us(table: pa.Table, name: str) -> list[int]:
    return table.column(name).cast(pa.int64()).to_pylist()


def windows_at(window: str, time: int) -> list[tuple[int, int]]:
    """Windows of an event, as (start, end); a session: the one it would be alone."""
    if window == "visits":
        return [(time, time + GAP)]
    size, every = (10, 10) if window == "by_user" else (20, 8)
    return [(start, start + size) for start in range(time // every * every, time - size, -every)]


Traffic = list[tuple[int, list[tuple[int, str, int]]]]


def oracle(window: str, traffic: Traffic) -> tuple[list[tuple], list[tuple]]:
    """Final rows and late rows, from the definitions."""
    counted, late = [], []
    watermarks = [-(10**9)] * PARTITIONS
    offsets = [0] * PARTITIONS
    for partition, events in traffic:
        for row, (time, user, n) in enumerate(events):
            for start, end in windows_at(window, time):
                place = (window, start, partition, offsets[partition], row)
                if watermarks[partition] >= end + LATENESS:
                    late.append(place)
                else:
                    counted.append((start, end, user, time, n, place[2:]))
            watermarks[partition] = max(watermarks[partition], time - SLACK)
        offsets[partition] += 1
    return sorted(_rows(window, counted)), sorted(late)


def _rows(window: str, counted: list[tuple]) -> Iterable[tuple]:
    if window == "visits":
        for user in {user for _, _, user, *_ in counted}:
            run: list[int] = []
            for time in [*sorted(t for _, _, u, t, *_ in counted if u == user), 10**9]:
                if run and time - run[-1] > GAP:
                    yield run[0], run[-1] + GAP, user, len(run)
                    run = []
                run.append(time)
        return
    for key in {(start, end, user if window == "by_user" else "") for start, end, user, *_ in counted}:
        mine = [c for c in counted if (c[0], c[1], c[2] if window == "by_user" else "") == key]
        if window == "by_user":
            yield *key, len(mine), sum(c[4] for c in mine)
        else:
            yield *key[:2], len(mine), max(mine, key=lambda c: (c[3], c[5]))[4]


def traffic_of(seed: int, records: int = 60) -> Traffic:
    """Records with events that wander forward in time; some far behind."""
    chance, now, found = random.Random(seed), 0, []
    for number in range(records):
        now += chance.randrange(6)
        events = [
            (now - chance.choice([0, 1, 3, 3, 12, 40]), chance.choice("abc"), number * 10 + i)
            for i in range(chance.randrange(1, 5))
        ]
        found.append((chance.randrange(PARTITIONS), events))
    return found


def check(rig: Rig, traffic: Traffic) -> None:
    """Everything in the tables equals the oracle; the windows of the closing events stay open."""
    late: list[tuple] = []
    for window in WINDOWS:
        expected, missed = oracle(window, traffic)
        assert rig.rows(window) == expected
        late += missed
    assert rig.late() == sorted(late)


@pytest.mark.parametrize("seed", range(3))
def test_windows_are_final_once_and_late_events_are_kept_once(tmp_path: Path, seed: int) -> None:
    rig, traffic = Rig(tmp_path), traffic_of(seed)
    for number, (partition, events) in enumerate(traffic):
        rig.send(partition, events)
        if number % 7 == 0:
            rig.round()
            rig.read()
    rig.closing()
    rig.settle()
    check(rig, traffic)


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_point_the_tables_are_the_same(tmp_path: Path, seed: int) -> None:
    rig, traffic, chance = Rig(tmp_path, workers=1 + seed % 2), traffic_of(seed), random.Random(seed)
    for partition, events in traffic:
        rig.send(partition, events)
        step = chance.random()
        if step < 0.3:
            rig.round()
        elif step < 0.6:
            rig.read()
        elif step < 0.7:
            rig.kill(chance.randrange(len(rig.workers)), snapshot=chance.random() < 0.6)
        elif step < 0.75:
            rig.owners = [chance.randrange(len(rig.workers)) for _ in rig.owners]
        elif step < 0.78:
            shutil.rmtree(rig.config.state_dir, ignore_errors=True)
    rig.closing()
    rig.settle()
    check(rig, traffic)


def test_a_worker_killed_after_writing_late_rows_offers_them_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send(0, [(1000, "a", 1)])
    rig.send(0, [(5, "a", 2)])
    owned: list[PartitionId] = [("s", 0)]
    rig.workers[0].collect(owned, {})
    rig.read()
    first = rig.workers[0].collect(owned, {}).staged
    assert [(batch.table, batch.begins, batch.ends) for batch in first] == [
        ("s.late", {"p0": 0, "w0": NEVER}, {"p0": 2, "w0": BASE + (1000 - SLACK) * SECOND})
    ]
    assert rig.workers[0].collect(owned, {}).staged == first  # not landed: the same files again
    rig.kill()
    rig.workers[0].collect(owned, {})
    rig.read()
    again = rig.workers[0].collect(owned, {}).staged[0]
    assert (again.begins, again.ends, again.rows) == (first[0].begins, first[0].ends, first[0].rows)
    rig.lake.commit(again.table, again.files, again.begins, again.ends)
    assert rig.workers[0].collect(owned, {"s.late": {"p0": 2}}).staged == []
    rig.kill()
    rig.workers[0].collect(owned, {"s.late": {"p0": 2}})
    rig.read()
    assert rig.workers[0].collect(owned, {"s.late": {"p0": 2}}).staged == []  # replayed, and known to be there


def test_late_rows_hold_the_whole_event(tmp_path: Path) -> None:
    rig = Rig(tmp_path, allowed_lateness="0s")
    rig.send(0, [(1000, "a", 1)])
    rig.send(0, [(5, "ä", 2)], payload='{"deep": [1, 1.50]}', extra='{"unknown": 12345678901234567890}')
    rig.round()
    rig.read()
    rig.round()
    rows = rig.lake.read("s.late").to_pylist()
    assert {row["window"] for row in rows} == set(WINDOWS)
    expected = '{"time":1442059205,"user":"ä","n":2,"payload":{"deep": [1, 1.50]},"unknown":12345678901234567890}'
    assert {row["event"] for row in rows} == {expected}


def test_a_worker_whose_partition_has_another_owner_lets_it_go_until_newer_orders(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send(0, [(1, "a", 1)])
    rig.round()
    rig.read()
    zombie, owner = rig.workers[0], rig.new()
    rig.workers[0] = owner
    rig.round()
    rig.read()
    rig.send(0, [(2, "a", 1)])
    rig.read()
    zombie.turn()  # its orders still name the partition
    zombie._held["s", 0].step()
    zombie._held["s", 0]._save_at = 0.0
    zombie.turn()
    assert ("s", 0) not in zombie._held
    zombie.turn()
    assert ("s", 0) not in zombie._held and owner._held["s", 0].epoch == 2
    owner._held["s", 0].snapshot()  # and the owner was not fenced by it
    zombie.collect([("s", 0)], {}, {})
    zombie._retry_at.clear()
    zombie.turn()
    assert zombie._held["s", 0].epoch == 3


def test_a_former_owner_writes_no_control_record(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send(0, [(500, "a", 1)])
    rig.round()
    rig.read()
    zombie = rig.workers[0]._held["s", 1]
    rig.workers[0] = rig.new()
    rig.round()
    rig.read()
    rig.clock.advance(11 * SECOND)
    with pytest.raises(Fenced):
        zombie.advance(BASE + 501 * SECOND)
    assert rig.log.read("s", 1, 0, 1 << 20) == []


@pytest.mark.parametrize("broken", [1, 3])
def test_late_events_are_kept_where_the_log_goes_away_while_their_texts_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    rig = Rig(tmp_path, allowed_lateness="0s")
    monkeypatch.setattr("eagleray.actors.window.worker.RETRY_S", 0.0)
    rig.send(0, [(1000, "a", 1), (1001, "b", 1)])
    rig.send(0, [(5, "late", 2), (1002, "on time", 3)])
    real, left = rig.log.read, [broken]

    def read(stream: str, partition: int, offset: int, max_bytes: int) -> list[Record]:
        if max_bytes == 1 and left[0]:  # as the texts of late events are read
            left[0] -= 1
            raise LogUnavailable("brokers away")
        return real(stream, partition, offset, max_bytes)

    monkeypatch.setattr(rig.log, "read", read)
    rig.round()
    for _ in range(broken + 1):
        rig.read()
    assert left == [0]
    rig.closing()
    rig.settle()
    assert {(window, row) for window, _, _, offset, row in rig.late() if offset == 1} == {(w, 0) for w in WINDOWS}
    counted = [row for row in rig.rows("by_user") if "late" in row or "on time" in row]
    assert len(counted) == 1 and "on time" in counted[0]


def test_a_silent_partition_stops_holding_back_after_the_idle_timeout(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send(0, [(1, "a", 1), (2, "b", 2)])
    rig.round()
    rig.read()
    rig.send(0, [(500, "a", 3)])
    rig.read()
    rig.settle()
    assert rig.rows("by_user") == []  # partition 1 never had an event, and may yet have one
    rig.clock.advance(9 * SECOND)
    rig.send(0, [(501, "a", 4)])
    rig.read()
    rig.settle()
    assert rig.rows("by_user") == []
    rig.clock.advance(SECOND)
    rig.settle()
    assert rig.rows("by_user") == [(0, 10, "a", 1, 1), (0, 10, "b", 1, 2)]
    controls = [decode_control(r.payload) for r in rig.log.read("s", 1, 0, 1 << 20) if r.kind == Kind.CONTROL]
    assert controls == [{"advance": BASE + (501 - SLACK) * SECOND, "expected": 0, "epoch": 1}]
    # From the log alone, a new worker comes to the same watermark.
    rig.kill()
    rig.round()
    rig.read()
    report = rig.workers[0].collect([("s", 1)], {}).partitions["s", 1]
    assert report.watermark_us == BASE + (501 - SLACK) * SECOND


def test_one_clock_that_is_ahead_makes_nobody_late(tmp_path: Path) -> None:
    rig = Rig(tmp_path, clock_slack="1s")
    rig.wall.advance(-1_000_000 * SECOND)
    rig.send(0, [(0, "a", 1)])
    rig.send(0, [(3300, "ahead", 7)])  # 55 minutes
    on_time = 0
    for second in range(0, 300, 6):  # events up to as late as they may be, for five minutes
        rig.send(0, [(second, "a", 1), (second - SLACK - LATENESS + 1, "b", 1)])
        rig.send(1, [(second, "c", 1)])
        rig.wall.advance(6 * SECOND)
        on_time += 3
    rig.read()
    rig.settle()
    assert rig.late() == []
    rig.kill()  # a replay computes the same
    rig.wall.advance(4000 * SECOND)
    for partition in range(PARTITIONS):
        rig.send(partition, [(4000, "end", 0)])
    rig.settle()
    rows = rig.rows("by_user")
    assert sum(n for _, _, user, n, _ in rows if user in "abc") == on_time + 1
    assert [row for row in rows if row[2] == "ahead"] == [(3300, 3310, "ahead", 1, 7)]
    assert rig.late() == []


def test_a_partition_that_is_behind_is_not_idle(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    owned: list[PartitionId] = [("s", 0), ("s", 1)]
    rig.workers[0].collect(owned, {})
    rig.read()
    rig.clock.advance(60 * SECOND)
    rig.send(1, [(1, "a", 1)])
    found = rig.workers[0].collect(owned, {}).partitions
    assert found["s", 0].idle and not found["s", 1].idle
    # The order to advance comes too late: there is an event now, and nothing may overtake it.
    rig.workers[0].collect(owned, {}, {"s": BASE + 1000 * SECOND})
    rig.workers[0].turn()
    assert [record.kind for record in rig.log.read("s", 1, 0, 1 << 20)] == [Kind.EVENTS]


def test_a_stale_advance_is_ignored(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send(0, [(10, "a", 1)])
    stale = json.dumps({"advance": BASE + 10_000 * SECOND, "expected": 0}).encode()
    rig.log.append("s", [Entry(0, Kind.CONTROL, 0, stale)])
    rig.workers[0].collect([("s", 0)], {})
    rig.read()
    report = rig.workers[0].collect([("s", 0)], {}).partitions["s", 0]
    assert report.watermark_us == BASE + (10 - SLACK) * SECOND


def test_the_same_id_counts_once_across_restarts(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for restart in (None, True, False):
        if restart is not None:
            rig.kill(snapshot=restart)
        rig.send(0, [(1, "a", 1), (2, "a", 2)], ids=[b"1" * 16, b"2" * 16])
        rig.round()
        rig.read()
    rig.closing()
    rig.settle()
    assert rig.rows("by_user") == [(0, 10, "a", 2, 3)]


def test_the_filter_decides_what_counts_but_not_the_watermark(tmp_path: Path) -> None:
    rig = Rig(tmp_path, filter="n > 10 and USER <> 'x'")
    rig.send(0, [(1, "a", 1), (2, "a", 11), (3, "x", 12), (100, "a", 0), (4, "a", 1), (5, "a", 20)])
    rig.round()
    rig.read()
    rig.closing()
    rig.settle()
    assert rig.rows("by_user") == [(0, 10, "a", 1, 11)]
    assert {(offset, row) for _, _, _, offset, row in rig.late()} == {(0, 5)}


def test_open_windows_can_be_seen(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send(0, [(1, "a", 1), (12, "b", 5)])
    rig.send(1, [(3, "a", 2)])
    rig.round()
    rig.read()
    rig.round()
    found, cursor = asyncio.run(rig.committer.windows("s", "by_user", None, None, None, 10))
    assert cursor is None
    assert found == [
        {
            "window_start": "2015-09-12T12:00:00Z",
            "window_end": "2015-09-12T12:00:10Z",
            "user": "a",
            "events": 2,
            "total": 3,
            "final": False,
        },
        {
            "window_start": "2015-09-12T12:00:10Z",
            "window_end": "2015-09-12T12:00:20Z",
            "user": "b",
            "events": 1,
            "total": 5,
            "final": False,
        },
    ]
    later, _ = asyncio.run(rig.committer.windows("s", "by_user", BASE + 10 * SECOND, None, None, 10))
    assert [row["user"] for row in later] == ["b"]


def test_pages_of_final_and_open_windows_hold_every_row_once_and_in_order(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for at in range(0, 60, 3):
        rig.send(at % 2, [(at, user, 1) for user in ("b", "a", None, "c")])
    rig.round()
    rig.read()
    rig.round()
    rig.round()
    whole, _ = asyncio.run(rig.committer.windows("s", "by_user", None, None, None, 1000))
    assert {row["final"] for row in whole} == {True, False}  # the pages go over the edge between the two
    assert [row["user"] for row in whole[:4]] == ["a", "b", "c", None]
    for size in (1, 3, 4, 7):
        rows, cursor, pages = [], None, 0
        while True:
            page, cursor = asyncio.run(rig.committer.windows("s", "by_user", None, None, cursor, size))
            assert len(page) <= size
            rows += page
            pages += 1
            if cursor is None:
                break
        assert rows == whole and pages == -(-len(whole) // size)
    for bad in ([], [1], ["x", 1, "a"], [1, 2, 3], [2**70, 1, "a"]):
        with pytest.raises(BadCursor):
            asyncio.run(rig.committer.windows("s", "by_user", None, None, bad, 10))


def test_partials_are_refused_until_the_partition_is_there(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    worker = rig.workers[0]
    with pytest.raises(NotReady):
        worker.partials("s", "by_user", [0], 0, 1)
    worker.collect([("s", 0)], {})
    rig.read()
    with pytest.raises(NotReady):
        worker.partials("s", "by_user", [0], 0, BASE)


def test_a_stream_without_windows_is_not_read(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.log.append("plain", [Entry(1, Kind.EVENTS, 1, b"never looked at")])
    report = rig.workers[0].collect([("plain", 1)], {})
    rig.read()
    found = report.partitions["plain", 1]
    assert (found.position, found.end, found.safe, found.idle) == (1, 1, 1, False)


def test_state_of_committed_windows_is_let_go(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for step in range(30):
        rig.send(step % 2, [(step * 20, user, 1) for user in "abcdef"])
        rig.send(1 - step % 2, [(step * 20 + 2, user, 1) for user in "abcdef"])
        rig.round()
        rig.read()
    rig.settle()
    for view in (partition.view for partition in rig.workers[0]._held.values()):
        for name, runs in view.runs.items():
            assert sum(run.table.num_rows for run in runs) <= 40, name


def test_a_restored_worker_says_what_it_still_needs_of_the_log(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    safe = []
    for step in range(3):
        rig.send(0, [(step, "a", 1)])
        rig.round()
        rig.read()
        rig.kill(snapshot=True)
        rig.round()
        rig.read()
        safe.append(rig.workers[0].collect([("s", 0)], {}).partitions["s", 0].safe)
    assert safe == [0, 1, 2]


def test_trimmed_log_continues_from_the_snapshot(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for step in range(6):
        rig.send(0, [(step, "a", step)])
        rig.send(1, [(step, "a", step)])
        rig.round()
        rig.read()
        rig.kill(snapshot=True)
    rig.log.trim("s", 0, 4, 2 * BASE)
    rig.closing()
    rig.settle()
    assert rig.rows("by_user") == [(0, 10, "a", 12, 30)]
    assert rig.lake.progress("s.by_user")[CLOSED] > BASE


def test_background_thread_reads_and_stops(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    worker = WindowWorker(rig.config, rig.clock, rig.log, rig.lake)
    rig.send(0, [(1, "a", 1)])
    for _ in range(500):
        report = worker.collect([("s", 0)], {}).partitions.get(("s", 0))
        if report is not None and report.position == 1:
            break
        sleep(0.02)
    assert report is not None and report.position == 1
    worker.stop()
    assert worker._thread is not None and not worker._thread.is_alive()
    assert list((rig.config.state_dir / "s" / "window" / "p0").glob("*.snap"))


def test_a_collect_that_comes_after_its_successor_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send(0, [(1, "a", 1)])
    rig.settle()
    (worker,) = rig.workers
    owned = [("s", 0), ("s", 1)]
    worker.collect(owned, {}, {}, (2, 1, 7))
    for older in [(2, 1, 7), (2, 1, 6), (2, 0, 900), (1, 99, 99)]:
        with pytest.raises(Outdated, match=r"came after \(2, 1, 7\)"):
            worker.collect([], {}, {}, older)
        worker.turn()
    assert set(worker.collect(owned, {}, {}, (2, 2, 1)).partitions) == set(owned)  # nothing was let go


def test_windows_without_rows_are_looked_at_once_for_each_watermark(tmp_path: Path) -> None:
    rig = Rig(tmp_path, filter="n > 100", windows={"by_user": WINDOWS["by_user"]})
    asked: list[str] = []

    class Counting(LocalPeer):
        async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
            asked.append(method)
            return await super().call(method, *args, timeout_s=timeout_s)

    def rounds(count: int) -> int:
        peer = Counting("window-0", rig.workers[0])
        rig.committer.topology = Topology((1, 0), {(s, p): peer for s in ("s", "plain") for p in range(PARTITIONS)})
        asked.clear()
        for _ in range(count):
            asyncio.run(rig.committer.window_round())
            rig.read()
        return asked.count("merge")

    for partition in range(PARTITIONS):
        rig.send(partition, [(1, "a", 1), (1000, "a", 1)])
    assert rounds(8) == 1
    for partition in range(PARTITIONS):
        rig.send(partition, [(1100, "a", 1)])
    assert rounds(8) == 1
    for partition in range(PARTITIONS):
        rig.send(partition, [(1105, "a", 200), (1200, "a", 1)])
    assert rounds(8) == 1 and rig.rows("by_user") == [(1100, 1110, "a", 2, 400)]
