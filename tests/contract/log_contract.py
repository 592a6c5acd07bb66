"""What every `EventLog` promises. A module that has a fixture `log`, and its `clock`, takes all of it as a class."""

from __future__ import annotations

import threading

import pytest

from eagleray.cluster.clock import ManualClock
from eagleray.cluster.errors import OffsetOutOfRange
from eagleray.cluster.log.protocol import Bounds, Entry, Epoch, EventLog, Kind

MANY = 1 << 40


def events(partition: int, *payloads: bytes) -> list[Entry]:
    """A record of one event for each payload."""
    return [Entry(partition, Kind.EVENTS, 1, payload) for payload in payloads]


def payloads(log: EventLog, partition: int = 0, offset: int = 0) -> list[bytes]:
    """What a partition of the stream `s` holds from `offset` on, as far as one read goes."""
    return [record.payload for record in log.read("s", partition, offset, MANY)]


class EventLogContract:
    """`log` has four partitions and no stream; `clock` stands at one second."""

    def test_offsets_count_from_zero_without_gaps_in_each_partition(self, log: EventLog) -> None:
        assert log.partitions == 4
        assert log.append("s", events(0, b"a", b"b")) == [0, 1]
        assert log.append("s", [*events(1, b"x"), *events(0, b"c"), *events(1, b"y")]) == [0, 2, 1]
        assert log.append("other", events(0, b"z")) == [0]
        assert payloads(log, 0) == [b"a", b"b", b"c"]
        assert payloads(log, 1) == [b"x", b"y"]

    def test_a_record_comes_back_as_it_was_appended(self, log: EventLog, clock: ManualClock) -> None:
        log.append("s", [Entry(3, Kind.REJECTS, 7, memoryview(b"\0\xff" * 100_000)), Entry(3, Kind.CONTROL, 0, b"")])
        first, second = log.read("s", 3, 0, MANY)
        assert first == (0, Kind.REJECTS, 7, clock.now_us(), b"\0\xff" * 100_000)
        assert second == (1, Kind.CONTROL, 0, clock.now_us(), b"")
        assert type(first.kind) is Kind
        assert type(first.payload) is bytes

    def test_nothing_to_append_is_nothing_written(self, log: EventLog) -> None:
        assert log.append("s", []) == []
        assert log.bounds("s", 0) == Bounds(0, 0)

    def test_a_partition_never_written_is_empty(self, log: EventLog) -> None:
        assert log.bounds("s", 2) == Bounds(0, 0)
        assert log.read("s", 2, 0, MANY) == []
        assert log.trim("s", 2, 10, MANY) == 0

    def test_a_partition_that_does_not_exist_is_refused_before_anything_is_kept(self, log: EventLog) -> None:
        with pytest.raises(ValueError, match="partition 4 of 4"):
            log.append("s", [*events(0, b"a"), *events(4, b"b")])
        assert log.bounds("s", 0) == Bounds(0, 0)

    def test_reading_is_bounded_by_bytes_but_never_stuck(self, log: EventLog) -> None:
        log.append("s", events(0, b"x" * 100, b"y" * 100, b"z" * 100))
        assert [record.offset for record in log.read("s", 0, 0, 1)] == [0]
        assert [record.offset for record in log.read("s", 0, 0, 250)] == [0, 1]
        assert [record.offset for record in log.read("s", 0, 1, MANY)] == [1, 2]
        assert log.read("s", 0, 3, MANY) == []

    def test_ingestion_time_never_steps_back(self, log: EventLog, clock: ManualClock) -> None:
        log.append("s", events(0, b"a"))
        clock.advance(-500_000)
        log.append("s", events(0, b"b"))
        log.trim("s", 0, 2, MANY)
        log.append("s", events(0, b"c"))
        clock.advance(600_000)
        log.append("s", events(0, b"d"))
        assert [record.ingested_at_us for record in log.read("s", 0, 2, MANY)] == [1_000_000, 1_100_000]

    def test_trim_needs_both_the_offset_and_the_age(self, log: EventLog, clock: ManualClock) -> None:
        for payload in (b"a", b"b", b"c", b"d"):
            log.append("s", events(0, payload))
            clock.advance(10_000)
        assert log.trim("s", 0, 3, 1_010_000) == 1
        assert log.trim("s", 0, 2, 1_100_000) == 1
        assert log.bounds("s", 0) == Bounds(2, 4)
        assert log.trim("s", 0, 2, 1_100_000) == 0
        assert payloads(log, offset=2) == [b"c", b"d"]

    def test_end_never_moves_when_everything_is_trimmed(self, log: EventLog, clock: ManualClock) -> None:
        log.append("s", events(0, *(b"%d" % i for i in range(600))))
        clock.advance(1)
        gone = log.trim("s", 0, 10_000, clock.now_us())
        assert gone in (599, 600)  # the newest may stay
        assert log.bounds("s", 0) == Bounds(gone, 600)
        assert log.read("s", 0, 600, MANY) == []
        assert log.append("s", events(0, b"next")) == [600]
        assert log.bounds("s", 0) == Bounds(gone, 601)

    def test_trimmed_offsets_and_offsets_never_reached_are_out_of_range(
        self, log: EventLog, clock: ManualClock
    ) -> None:
        log.append("s", events(0, b"a", b"b"))
        clock.advance(1)
        log.trim("s", 0, 1, clock.now_us())
        for offset in (0, 3):
            with pytest.raises(OffsetOutOfRange):
                log.read("s", 0, offset, MANY)
        with pytest.raises(OffsetOutOfRange):
            log.read("s", 1, 1, MANY)

    def test_threads_append_together_and_each_gets_its_own_offsets(self, log: EventLog) -> None:
        acked: dict[int, bytes] = {}

        def appender(name: int) -> None:
            for i in range(50):
                mine = [b"%d-%d-%d" % (name, i, part) for part in range(2)]
                acked.update(zip(log.append("s", events(0, *mine)), mine, strict=True))

        threads = [threading.Thread(target=appender, args=(name,)) for name in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.bounds("s", 0) == Bounds(0, 600)
        assert payloads(log) == [acked[offset] for offset in range(600)]
        for name in range(6):
            mine = [payload for payload in payloads(log) if payload.startswith(b"%d-" % name)]
            assert mine == [b"%d-%d-%d" % (name, i, part) for i in range(50) for part in range(2)]

    def test_a_new_epoch_goes_on_from_its_bases_and_never_back_in_time(self, log: EventLog, clock: ManualClock) -> None:
        assert log.epoch("s") is None
        log.append("s", events(0, b"a", b"b"))
        first = log.epoch("s")
        assert first is not None and log.epoch("s") == first
        old = log.read("s", 0, 0, MANY)
        log.begin("s", Epoch("dropped", {"p0": 50}))
        log.begin("s", Epoch("second", {"p0": 100, "p1": 200}), 7_000_000)
        begun = log.begun("s")
        assert begun is not None and (begun.log, dict(begun.bases)) == ("second", {"p0": 100, "p1": 200})
        log.carry("s", 0, [old[1]._replace(ingested_at_us=8_000_000), old[1]])
        assert log.bounds("s", 0) == Bounds(0, 2)  # nothing moved yet
        log.activate("s")
        second = log.epoch("s")
        assert second is not None and (second.log, dict(second.bases)) == (begun.log, dict(begun.bases))
        assert log.begun("s") is None
        assert [log.bounds("s", partition) for partition in range(3)] == [
            Bounds(100, 102),
            Bounds(200, 200),
            Bounds(0, 0),
        ]
        assert log.append("s", [*events(0, b"c"), *events(1, b"d")]) == [102, 200]
        assert [(r.payload, r.ingested_at_us) for r in log.read("s", 0, 100, MANY)] == [
            (b"b", 8_000_000),
            (b"b", 8_000_000),
            (b"c", 8_000_000),
        ]
        assert log.read("s", 1, 200, MANY)[0].ingested_at_us == 7_000_000
        assert [log.newest_us("s", partition) for partition in range(2)] == [8_000_000, 7_000_000]
        with pytest.raises(OffsetOutOfRange):
            log.read("s", 0, 1, MANY)
