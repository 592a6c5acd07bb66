"""Records and the reader: what is delivered is a function of the log alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from eagleray.cluster.clock import ManualClock
from eagleray.cluster.errors import LogCorrupt, OffsetOutOfRange
from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.events.schema import EventSchema
from eagleray.cluster.events.stream import REJECT_SCHEMA, Stream
from eagleray.cluster.log.dedup.deduplicator import Deduplicator
from eagleray.cluster.log.memory import MemoryLog
from eagleray.cluster.log.protocol import Bounds, Entry, Kind
from eagleray.cluster.log.reader import Chunk, PartitionReader
from eagleray.cluster.log.record import decode_batches, decode_control, encode_batch, encode_control
from eagleray.cluster.sections import StreamConfig
from eagleray.cluster.state.files import FilesPlace

EVENT = pa.schema([pa.field("user", pa.string()), pa.field("n", pa.int64()), pa.field("tags", pa.list_(pa.string()))])
MANY = 1 << 40


def stream(schema: pa.Schema = EVENT) -> Stream:
    config = StreamConfig.model_validate({"schema": "s.json", "time": "t", "dedup_horizon": 100})
    return Stream("s", config, EventSchema(schema, {}), FieldPath(("n",)), FieldPath(("n",)), None, {})


def batch(*numbers: int, ids: Callable[[int], bytes | None] | None = None) -> pa.RecordBatch:
    ids = ids or (lambda n: hashlib.md5(str(n).encode(), usedforsecurity=False).digest())
    rows = [
        {"user": f"u{n}", "n": n, "tags": [str(n)], "_time": n, "_id": ids(n), "_source": "key", "_extra": None}
        for n in numbers
    ]
    return pa.RecordBatch.from_pylist(rows, schema=stream().log_schema)


def rejects(*originals: bytes) -> pa.RecordBatch:
    rows = [{"original": o, "reason": "json", "detail": "", "source": "key", "attempt": 1} for o in originals]
    return pa.RecordBatch.from_pylist(rows, schema=REJECT_SCHEMA)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000)


@pytest.fixture
def log(clock: ManualClock) -> MemoryLog:
    return MemoryLog(1, clock)


def append(log: MemoryLog, *batches: pa.RecordBatch) -> None:
    kinds = [Kind.REJECTS if each.schema.equals(REJECT_SCHEMA) else Kind.EVENTS for each in batches]
    pairs = zip(kinds, batches, strict=True)
    log.append("s", [Entry(0, kind, each.num_rows, encode_batch(each)) for kind, each in pairs])


def read(reader: PartitionReader, max_bytes: int = MANY) -> Chunk:
    chunk = reader.read(max_bytes)
    assert chunk is not None
    return chunk


def test_a_chunk_covers_its_records_in_log_order(log: MemoryLog, clock: ManualClock) -> None:
    append(log, batch(1, 2), rejects(b"{"))
    clock.advance(5)
    log.append("s", [Entry(0, Kind.CONTROL, 0, encode_control({"advance": 7, "expected": 2}))])
    append(log, batch(3))
    reader = PartitionReader(log, stream(), 0, 0, None)
    assert reader.lag() == Bounds(0, 4)
    chunk = read(reader)
    assert (chunk.first, chunk.end, reader.position, chunk.duplicates) == (0, 4, 4, 0)
    assert chunk.bytes == sum(len(record.payload) for record in log.read("s", 0, 0, MANY))
    assert chunk.events.schema.names == [*stream().log_schema.names, "_ingested_at", "_offset", "_row"]
    places = chunk.events.select(["n", "_ingested_at", "_offset", "_row"]).to_pylist()
    assert [tuple(place.values()) for place in places] == [(1, 1000, 0, 0), (2, 1000, 0, 1), (3, 1005, 3, 0)]
    assert chunk.events.column("n").num_chunks == 1
    assert chunk.events.column("tags").to_pylist() == [["1"], ["2"], ["3"]]
    assert chunk.rejects.select(["original", "_offset", "_row"]).to_pylist() == [
        {"original": b"{", "_offset": 1, "_row": 0}
    ]
    assert [(c.offset, c.ingested_at_us, c.body) for c in chunk.controls] == [(2, 1005, {"advance": 7, "expected": 2})]
    assert reader.read(MANY) is None


def test_duplicates_are_dropped_and_rows_keep_their_place(log: MemoryLog, clock: ManualClock) -> None:
    append(log, batch(1, 2, 1), batch(2, 3))
    clock.advance(100)  # the horizon
    append(log, batch(1, 4))
    chunk = read(PartitionReader(log, stream(), 0, 0, Deduplicator(100), ["n"]))
    assert chunk.events.schema.names == ["n", "_ingested_at", "_offset", "_row"]
    assert chunk.duplicates == 2
    rows = chunk.events.select(["n", "_offset", "_row"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [(1, 0, 0), (2, 0, 1), (3, 1, 1), (1, 2, 0), (4, 2, 1)]


def test_read_size_changes_nothing(log: MemoryLog, clock: ManualClock) -> None:
    for i in range(40):
        append(log, batch(*(j % 17 for j in range(i, i + 5))))
        clock.advance(9)
    whole = read(PartitionReader(log, stream(), 0, 0, Deduplicator(100)))
    reader, parts = PartitionReader(log, stream(), 0, 0, Deduplicator(100)), []
    while part := reader.read(1):
        parts.append(part)
    assert len(parts) == 40
    assert pa.concat_tables([part.events for part in parts]).combine_chunks().equals(whole.events)
    assert sum(part.duplicates for part in parts) == whole.duplicates > 0


def test_events_without_id_are_never_duplicates(log: MemoryLog) -> None:
    append(log, batch(1, 1, ids=lambda n: None), batch(1, 1), batch(1, ids=lambda n: None))
    chunk = read(PartitionReader(log, stream(), 0, 0, Deduplicator(100), ["n"]))
    assert (chunk.events.num_rows, chunk.duplicates) == (4, 1)


def test_records_of_an_older_schema_are_read_as_the_present_one(log: MemoryLog) -> None:
    now = pa.schema([EVENT.field("user"), pa.field("n", pa.float64()), pa.field("new", pa.struct([("a", pa.int32())]))])
    append(log, batch(1, 2))
    row = {"user": "x", "n": 0.5, "new": {"a": 1}, "_time": 1, "_id": None, "_source": "key", "_extra": None}
    append(log, pa.RecordBatch.from_pylist([row], schema=stream(now).log_schema))
    append(log, batch(3))
    events = read(PartitionReader(log, stream(now), 0, 0, None)).events
    assert events.column("n").to_pylist() == [1.0, 2.0, 0.5, 3.0]
    assert events.column("new").to_pylist() == [None, None, {"a": 1}, None]
    assert events.column("_extra").to_pylist() == ['{"tags":["1"]}', '{"tags":["2"]}', None, '{"tags":["3"]}']


def test_what_is_json_text_is_said_by_each_record_itself() -> None:
    wanted = pa.schema([pa.field("v", pa.string(), metadata={"json": "1"})])
    for json, value in ((None, '"1"'), ({"json": "1"}, "1"), (None, '"1"')):
        schema = pa.schema([pa.field("v", pa.string(), metadata=json)])
        record = encode_batch(pa.RecordBatch.from_pylist([{"v": "1"}], schema=schema))
        assert decode_batches([record], wanted).to_pydict() == {"v": [value]}


def test_a_value_that_does_not_fit_its_new_type_is_kept_as_an_unknown_field(log: MemoryLog) -> None:
    changed = stream(pa.schema([pa.field("USER", pa.int64()), pa.field("tags", pa.list_(pa.int64()))]))
    append(log, batch(1))
    events = read(PartitionReader(log, changed, 0, 0, None)).events
    (row,) = events.select(["USER", "tags", "_extra"]).to_pylist()
    assert row == {"USER": None, "tags": [1], "_extra": '{"user":"u1","n":1}'}


def test_a_record_that_cannot_be_decoded_moves_and_remembers_nothing(log: MemoryLog) -> None:
    dedup = Deduplicator(100)
    append(log, batch(1))
    log.append("s", [Entry(0, Kind.CONTROL, 0, b"[]")])
    reader = PartitionReader(log, stream(), 0, 0, dedup)
    with pytest.raises(LogCorrupt, match="control record"):
        reader.read(MANY)
    assert read(reader, 1).events.num_rows == 1


def test_a_row_count_that_lies_is_corrupt(log: MemoryLog) -> None:
    log.append("s", [Entry(0, Kind.EVENTS, 3, encode_batch(batch(1, 2)))])
    with pytest.raises(LogCorrupt, match="2 rows where the records say 3"):
        PartitionReader(log, stream(), 0, 0, None).read(MANY)


def test_trimmed_positions_are_refused(log: MemoryLog, clock: ManualClock) -> None:
    append(log, batch(1), batch(2))
    clock.advance(1)
    log.trim("s", 0, 1, clock.now_us())
    with pytest.raises(OffsetOutOfRange):
        PartitionReader(log, stream(), 0, 0, None).read(MANY)


def test_no_columns_at_all_still_feeds_the_deduplicator(log: MemoryLog) -> None:
    append(log, batch(1, 2, 2))
    chunk = read(PartitionReader(log, stream(), 0, 0, Deduplicator(100), []))
    assert chunk.events.schema.names == ["_ingested_at", "_offset", "_row"]
    assert (chunk.events.num_rows, chunk.duplicates) == (2, 1)
    assert read(PartitionReader(log, stream(), 0, 0, None, [])).events.num_rows == 3


def test_a_reader_restored_from_saved_ids_answers_as_the_one_that_went_on(
    log: MemoryLog, clock: ManualClock, tmp_path: Path
) -> None:
    for i in range(20):
        append(log, batch(i, i - 3, i - 15))
        clock.advance(10)
    first = Deduplicator(100)
    first.restore(FilesPlace(tmp_path, "ids"), 0)
    reader = PartitionReader(log, stream(), 0, 0, first, ["n"])
    while reader.position < 12:
        read(reader, 1)
    first.save(FilesPlace(tmp_path, "ids"), 12)
    expected = read(reader)
    second = Deduplicator(100)
    assert second.restore(FilesPlace(tmp_path, "ids"), 12) == 12
    assert read(PartitionReader(log, stream(), 0, 12, second, ["n"])).events.equals(expected.events)


@pytest.mark.parametrize("rows", [0, 1, 500])
def test_a_batch_survives_its_record(rows: int) -> None:
    made = batch(*range(rows))
    payload = encode_batch(made)
    assert decode_batches([payload], made.schema).equals(pa.table(made))
    less = pa.schema([made.schema.field("tags"), ("missing", pa.int8())])
    expected = pa.table(made.select(["tags"])).append_column("missing", pa.nulls(rows, pa.int8()))
    assert decode_batches([payload], less).equals(expected)
    part = made.slice(rows // 2)
    assert decode_batches([encode_batch(part)], made.schema).equals(pa.table(part))


def test_a_record_of_one_event_is_small() -> None:
    assert len(encode_batch(batch(1))) < 1024


@pytest.mark.parametrize("damage", [b"", b"\x07", b"\x01\0\xff\xff\xff\xff\xff\xff", None])
def test_what_is_no_record_is_corrupt(damage: bytes | None) -> None:
    payload = encode_batch(batch(*range(100)))
    with pytest.raises(LogCorrupt):
        decode_batches([payload, payload[:-30] if damage is None else damage], EVENT)


def test_control_records_are_objects() -> None:
    assert decode_control(encode_control({"advance": -5, "text": "ü"})) == {"advance": -5, "text": "ü"}
    for payload in (b"", b"[1]", b"{", b"\xff"):
        with pytest.raises(LogCorrupt):
            decode_control(payload)
