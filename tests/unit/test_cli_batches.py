"""The cutting of files into requests: nothing lost, nothing changed, every event knows its place."""

from __future__ import annotations

import gzip
import io
import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cli.batches import Batch, UnreadableInput, read_batches


def cut(data: bytes, form: str = "auto", events: int = 3, size: int = 1 << 20) -> list[Batch]:
    return list(read_batches(io.BytesIO(data), form, events, size))  # type: ignore[arg-type]


def events_of(batch: Batch) -> list[bytes]:
    if batch.content_type == "application/x-ndjson":
        return batch.body.split(b"\n")
    return [json.dumps(value).encode() for value in json.loads(batch.body)]


def test_lines_keep_their_numbers_over_blank_ones() -> None:
    batches = cut(b'{"a":1}\n\n  \n{"a":2}\r\n{"a":3}\nbroken\n{"a":5}')
    assert [list(b.places) for b in batches] == [[1, 4, 5], [6, 7]]
    assert batches[1].body == b'broken\n{"a":5}'


def test_batches_are_bounded_in_bytes_too() -> None:
    batches = cut(b'{"a":"xxxxxxxxxx"}\n' * 10, events=100, size=60)
    assert all(len(b.body) <= 60 for b in batches)
    assert sum(len(b.places) for b in batches) == 10


@pytest.mark.parametrize("squeeze", [gzip.compress, zstandard.ZstdCompressor().compress, lambda data: data])
def test_compression_is_seen_by_content(squeeze: object) -> None:
    data = b"".join(b'{"n":%d}\n' % n for n in range(50_000))
    batches = cut(squeeze(data), events=1000)  # type: ignore[operator]
    assert b"\n".join(b.body for b in batches) + b"\n" == data


@pytest.mark.parametrize("squeeze", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_damaged_compression_is_told_after_what_was_readable(squeeze: object) -> None:
    data = squeeze(b"".join(b'{"n":%d}\n' % (n * 7919 % 65521) for n in range(500_000)))  # type: ignore[operator]
    damaged = data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :]
    seen: list[Batch] = []
    with pytest.raises(UnreadableInput):
        seen.extend(read_batches(io.BytesIO(damaged), "ndjson", 1000, 1 << 20))


def test_a_truncated_gzip_file_is_told() -> None:
    with pytest.raises(UnreadableInput):
        cut(gzip.compress(b'{"n":1}\n' * 1000)[:-20])


def test_an_array_is_cut_without_changing_an_element() -> None:
    numbers = '{"n": 1.10, "big": 123456789012345678901234567890, "text": "\\ud83d\\ude00 ü"}'
    batches = cut(f"[ {numbers},\n{numbers} , {numbers},{numbers}]".encode(), events=3)
    assert [list(b.places) for b in batches] == [[1, 2, 3], [4]]
    assert batches[0].body == f"[{numbers},{numbers},{numbers}]".encode()
    assert batches[0].content_type == "application/json"


def test_one_pretty_printed_object_is_one_event() -> None:
    (batch,) = cut(json.dumps({"a": {"b": [1, 2]}}, indent=2).encode())
    assert json.loads(batch.body) == [{"a": {"b": [1, 2]}}]


def test_an_empty_file_and_an_empty_array_hold_nothing() -> None:
    assert cut(b"") == [] and cut(b"\n\n") == [] and cut(b"[]") == [] and cut(b" [ ] \n") == []


@pytest.mark.parametrize("text", [b"[1,", b"[1 2]", b"[NaN]", b'[{"a":1}] x', b"[1,,2]", b"[" * 100_000, b"[\xff]"])
def test_what_is_not_json_is_told(text: bytes) -> None:
    with pytest.raises(UnreadableInput):
        cut(text)


def test_a_byte_order_mark_is_no_part_of_the_first_event() -> None:
    assert cut(b'\xef\xbb\xbf{"a":1}\n')[0].body == b'{"a":1}'


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.none(), max_size=3), max_size=20),
    st.booleans(),
    st.integers(1, 7),
    st.integers(1, 80),
)
def test_every_event_is_in_exactly_one_batch_in_order(
    events: list[dict[str, object]], as_array: bool, most: int, size: int
) -> None:
    data = json.dumps(events) if as_array else "".join(json.dumps(e) + "\n" for e in events)
    batches = cut(data.encode(), "json" if as_array else "ndjson", most, size)
    assert [json.loads(e) for b in batches for e in events_of(b)] == events
    assert [place for b in batches for place in b.places] == list(range(1, len(events) + 1))
    assert all(len(b.places) <= most for b in batches)
