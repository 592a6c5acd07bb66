from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.actors.edge import event_count as count

VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a,[]{}"\\\n ') | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='a,"\\['), inner, max_size=3),
    max_leaves=8,
)


@given(events=st.lists(VALUES, min_size=1, max_size=12), indent=st.sampled_from([None, 1]), most=st.integers(1, 14))
def test_elements_of_an_array_are_counted_exactly(events: list[object], indent: int | None, most: int) -> None:
    body = json.dumps(events, indent=indent).encode()
    assert min(count.count(body, "json", most), most + 1) == min(max(1, len(events)), most + 1)
    if count.surely_within(body, "json", most):
        assert len(events) <= most


@given(
    events=st.lists(VALUES, max_size=12), blank=st.sampled_from([b"\n", b"\n \t\n", b"\r\n\n"]), most=st.integers(1, 14)
)
def test_lines_are_counted_exactly(events: list[object], blank: bytes, most: int) -> None:
    body = blank.join(json.dumps(event).encode() for event in events)
    assert count.count(body, "ndjson", most) == min(len(events), most + 1)
    if count.surely_within(body, "ndjson", most):
        assert len(events) <= most


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_count_does_not_depend_on_where_blocks_end(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "_BLOCK", block)
    body = rb'[{"a,": "\"\\", "b": [1, [2, 3], {}]}, "],[", 3, [4, 5]]'
    assert count.count(body, "json", 4) == 4 and count.count(body, "json", 3) > 3


@given(body=st.binary(max_size=200), most=st.integers(1, 5))
def test_any_bytes_are_counted_without_an_error(body: bytes, most: int) -> None:
    count.count(b"[" + body, "json", most)
    count.count(body, "ndjson", most)


def test_one_object_is_one_event_however_many_fields() -> None:
    assert count.count(b' {"a":1,"b":2,"c":3}', "json", 1) == 1
