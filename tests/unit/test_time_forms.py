"""Event time as people have it: every form is one instant, on every path, and what is none is rejected with why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.clock import iso
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.judge import Judge
from eagleray.cluster.events.stream import Stream, load_streams
from eagleray.cluster.events.verdict import Submission
from eagleray.cluster.sections import StreamConfig
from tests.examples import examples
from tests.unit.test_judge_agrees import EDGE, NOW_US, assert_same, by_arbiter, general

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
EITHER = {"type": ["string", "number", "null"]}
AT = "2026-01-05T10:00:00Z"
AT_S = 1_767_607_200


def stream_of(directory: Path, field: Any, **settings: Any) -> Stream:
    (directory / "s.json").write_text(json.dumps({"type": "object", "properties": {"t": field, "a": {}}}))
    stream = StreamConfig.model_validate({"schema": "s.json", "time": "t", **settings})
    return load_streams(Config(file=directory / "eagleray.yaml", streams={"s": stream}))["s"]


def time_of(stream: Stream, *values: Any) -> list[str]:
    """For each value sent as the time: the instant, or why it is rejected."""
    lines = [json.dumps({"t": value}).encode() for value in values]
    judged = Judge(stream, EDGE, 1).judge([Submission("s", "ndjson", b"\n".join(lines))], NOW_US)
    refused = {index: f"{reason}: {detail}" for index, reason, detail in judged.answers[0].rejected}
    times = iter(judged.batch.column("_time").to_pylist())
    return [refused[at] if at in refused else iso(next(times)) for at in range(len(values))]


@pytest.mark.parametrize(
    ("field", "settings", "value"),
    [
        (TEXT, {}, "2026-01-05 10:00:00Z"),
        (TEXT, {}, "2026-01-05t10:00:00z"),
        (TEXT, {}, "2026-01-05 12:00+02"),
        (TEXT, {}, "2026-01-05 10:00:00 UTC"),
        (TEXT, {}, "2026-01-05T11:00:00.000+0100"),
        (TEXT, {"time_zone": "UTC"}, "2026-01-05 10:00:00"),
        (TEXT, {"time_zone": "Europe/Berlin"}, "2026-01-05T11:00:00"),
        (TEXT, {"time_zone": "Europe/Berlin"}, AT),
        ({"type": "integer"}, {"time_unit": "s"}, AT_S),
        ({"type": "integer"}, {"time_unit": "auto"}, AT_S),
        ({"type": "integer"}, {"time_unit": "auto"}, AT_S * 1000),
        ({"type": "integer"}, {"time_unit": "auto"}, AT_S * 1_000_000),
        ({"type": "integer"}, {"time_unit": "auto"}, AT_S * 1_000_000_000),
        (NUMBER, {"time_unit": "s"}, float(AT_S)),
        (NUMBER, {"time_unit": "auto"}, AT_S),
        (TEXT, {"time_unit": "s"}, str(AT_S)),
        (TEXT, {"time_unit": "ms"}, f"{AT_S}000.0"),
        (TEXT, {"time_unit": "ns"}, f"{AT_S}000000000"),
        (TEXT, {"time_unit": "auto"}, AT),
        (TEXT, {"time_unit": "auto"}, f"{AT_S}.0"),
        (TEXT, {"time_unit": "auto", "time_zone": "UTC"}, "2026-01-05 10:00"),
        (EITHER, {"time_unit": "auto"}, AT_S),
        (EITHER, {"time_unit": "auto"}, "2026-01-05 10:00:00Z"),
        (EITHER, {"time_unit": "s"}, str(AT_S)),
    ],
)
def test_every_form_is_its_instant(tmp_path: Path, field: Any, settings: Any, value: Any) -> None:
    assert time_of(stream_of(tmp_path, field, **settings), value) == [AT]


def test_fractions_are_kept_to_the_microsecond(tmp_path: Path) -> None:
    found = time_of(stream_of(tmp_path, NUMBER, time_unit="s"), AT_S + 0.123456, AT_S + 0.5, -0.25)
    assert found == ["2026-01-05T10:00:00.123456Z", "2026-01-05T10:00:00.5Z", "1969-12-31T23:59:59.75Z"]
    found = time_of(stream_of(tmp_path, TEXT, time_unit="ms"), f"{AT_S}123.4567")
    assert found == ["2026-01-05T10:00:00.123456Z"]


def test_an_hour_that_comes_twice_is_the_first_and_one_left_out_goes_on(tmp_path: Path) -> None:
    stream = stream_of(tmp_path, TEXT, time_zone="Europe/Berlin")
    assert time_of(stream, "2025-10-26 02:30", "2025-03-30 02:30") == ["2025-10-26T00:30:00Z", "2025-03-30T01:30:00Z"]


def test_what_is_no_time_is_rejected_with_what_was_expected(tmp_path: Path) -> None:
    plain = stream_of(tmp_path, TEXT)
    assert time_of(plain, "2026-01-05 10:00:00", "1767607200", "x") == ["time: t: not an RFC 3339 date-time"] * 3
    zoned = stream_of(tmp_path, TEXT, time_zone="UTC")
    assert time_of(zoned, "05.01.2026")[0] == "time: t: not a date and time"
    number = stream_of(tmp_path, TEXT, time_unit="s")
    assert time_of(number, AT, "1e9") == ["time: t: not a number of seconds since 1970"] * 2
    either = stream_of(tmp_path, EITHER, time_unit="auto")
    assert time_of(either, "soon", None)[0].startswith(
        "time: t: not an RFC 3339 date-time or a number since 1970 in s, "
    )
    whole = stream_of(tmp_path, {"type": "integer"}, time_unit="auto")
    (found,) = time_of(whole, 1767607200.5)
    assert found.startswith("schema: ") or found.startswith("time: t: not a whole number since 1970 in s, ms, us or ns")
    assert [why.partition(":")[0] for why in time_of(either, 1e30, -1e30)] == ["future", "time"]


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ({"type": ["string", "null"], "format": "date-time"}, {}),
        ({"type": ["string", "null"]}, {}),
        ({"type": ["integer", "null"]}, {"time_unit": "us"}),
        ({"type": ["integer", "null"]}, {"time_unit": "auto"}),
        ({"type": ["number", "null"]}, {"time_unit": "s"}),
        (EITHER, {"time_unit": "auto"}),
    ],
)
def test_a_missing_time_is_the_arrival_where_the_stream_says_so(tmp_path: Path, field: Any, settings: Any) -> None:
    assert time_of(stream_of(tmp_path, field, **settings), None) == ["time: t: missing"]
    stream = stream_of(tmp_path, field, time_missing="arrival", **settings)
    for body in (b'{"a":1}', b'{"t":null}', b'{"a":1,"unknown":2}'):
        judged = Judge(stream, EDGE, 1).judge([Submission("s", "json", body)], NOW_US)
        assert judged.batch.column("_time").to_pylist() == [NOW_US]
        assert judged.batch.column("t").null_count == 0  # as an event would have sent it


@pytest.mark.parametrize(
    ("field", "settings", "named"),
    [
        (TEXT, {"time_zone": "Mars/Base"}, "unknown time zone"),
        ({"type": "string", "format": "date-time"}, {"time_zone": "UTC"}, "without format"),
        (EITHER, {}, "no one type"),
        ({"type": "boolean"}, {"time_unit": "s"}, "expected integer or double or string"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, field: Any, settings: Any, named: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=named):
        stream_of(tmp_path, field, **settings)


FIELDS = st.sampled_from(
    [{"type": ["integer", "null"]}, NUMBER, TEXT, EITHER, {"type": "string", "format": "date-time"}]
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "time_unit": st.sampled_from(["s", "ms", "us", "ns", "auto"]),
        "time_zone": st.sampled_from(["UTC", "America/New_York"]),
        "time_missing": st.sampled_from(["arrival"]),
    },
)
TIMES = st.one_of(
    st.sampled_from(
        [None, True, 0, -1, 1.5, 1e400, -1e400, AT_S, AT_S * 1000, 10**11, 10**14, 10**17, 2**63, 1e20, 1e19]
    ),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.integers(-(10**19), 10**19).map(str),
    st.builds(
        "{}-{:02d}-{:02d}{}{:02d}:{:02d}{}{}".format,
        st.sampled_from(["2026", "0001", "9999", "0000"]),
        st.integers(1, 13),
        st.sampled_from([1, 29, 31]),
        st.sampled_from("Tt _"),
        st.integers(0, 24),
        st.integers(0, 60),
        st.sampled_from(["", ":00", ":60", ":07.25", ":07.123456789", ":07,5"]),
        st.sampled_from(["", "Z", "z", " UTC", "+02", "-0530", "+14:00", "+99:00"]),
    ),
)


@examples(60)
@given(FIELDS, SETTINGS, st.lists(TIMES, min_size=2, max_size=6))
def test_all_paths_agree_on_every_time(
    tmp_path_factory: pytest.TempPathFactory, field: Any, settings: dict[str, Any], times: list[Any]
) -> None:
    try:
        stream = stream_of(tmp_path_factory.mktemp("time"), field, **settings)
    except ConfigError:
        return
    lines = [json.dumps({"t": time, "a": at}).replace("Infinity", "1e999").encode() for at, time in enumerate(times)]
    slow = by_arbiter(stream, lines)
    for fast in (Judge(stream, EDGE, 1), general(stream)):
        assert_same(fast.judge([Submission("s", "ndjson", b"\n".join(lines))], NOW_US), slow)
        each = [fast.judge([Submission("s", "ndjson", line)], NOW_US) for line in lines]
        assert pa.concat_tables([pa.table(one.batch) for one in each]).to_pylist() == slow.batch.to_pylist()
