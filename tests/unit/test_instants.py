"""Times read from text: the vectorised half never disagrees with the rule, and the rule with Python's own datetime."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.clock import iso
from eagleray.cluster.events.formats import FORMATS
from eagleray.cluster.events.instants import MAX_US, MIN_US, day, days, instant_text, instant_us, instants
from eagleray.cluster.events.patterns import python_pattern

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
digits = st.text("0123456789", min_size=1, max_size=12)
zones = st.one_of(
    st.sampled_from(["Z", "z", "", "+00:00", "-00:00", "+24:00", "+01:60", "+1:00"]),
    st.builds("{}{:02d}:{:02d}".format, st.sampled_from("+-"), st.integers(0, 25), st.integers(0, 61)),
)
texts = st.builds(
    "{:04d}-{:02d}-{:02d}{}{:02d}:{:02d}:{:02d}{}{}".format,
    st.one_of(st.integers(1900, 2100), st.sampled_from([0, 1, 9999])),
    st.integers(0, 13),
    st.integers(0, 32),
    st.sampled_from(["T", "T", "T", "t", " ", "_"]),
    st.integers(0, 25),
    st.integers(0, 61),
    st.integers(0, 61),
    st.one_of(st.just(""), st.just("."), digits.map(lambda part: "." + part)),
    zones,
)
odd = st.one_of(st.text(max_size=30), st.sampled_from(["2020-01-01", "2020-01-01T00:00Z", "٢٠٢٠-01-01T00:00:00Z"]))


@given(st.lists(st.one_of(st.none(), texts, texts, texts, odd), max_size=20))
def test_the_fast_half_takes_only_what_the_rule_takes_with_the_same_value(column: list[str | None]) -> None:
    found, bad = instants(pa.array(column, pa.string()))
    values = found.cast(pa.int64()).to_pylist()
    for at, text in enumerate(column):
        if text is None:
            assert values[at] is None
            assert bad is None or not bad[at]
        elif bad is None or not bad[at]:
            assert values[at] == instant_us(text) is not None
        else:
            assert values[at] is None


@given(st.lists(texts, min_size=1, max_size=5), st.integers(1, 4))
def test_slices_and_uniform_columns_read_alike(column: list[str], begin: int) -> None:
    for texts_ in (column, [column[0]] * 7):
        whole = pa.array(["x", "y", None, "z", *texts_], pa.string())
        (sliced, bad), (plain, plain_bad) = instants(whole.slice(4)), instants(pa.array(texts_, pa.string()))
        assert sliced.equals(plain)
        assert (bad is None) == (plain_bad is None)


offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(timezones=offsets))
def test_the_rule_reads_what_python_writes(moment: datetime) -> None:
    expected: int | None = (moment - EPOCH) // timedelta(microseconds=1)
    if not MIN_US <= expected <= MAX_US:
        expected = None
    assert instant_us(moment.isoformat()) == expected
    found, bad = instants(pa.array([moment.isoformat()]))
    assert (bad is None) == (expected is not None)
    assert found.cast(pa.int64()).to_pylist() == [expected]


@given(st.integers(MIN_US, MAX_US))
def test_the_arbiters_text_is_read_back_for_certain(time_us: int) -> None:
    text = instant_text(time_us)
    assert instant_us(text) == time_us
    found, bad = instants(pa.array([text]))
    assert bad is None
    assert found.cast(pa.int64()).to_pylist() == [time_us]


@pytest.mark.parametrize("text", ["0000-12-31T23:59:59Z", "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"])
def test_instants_beyond_years_1_to_9999_are_refused(text: str) -> None:
    assert instant_us(text) is None
    assert instants(pa.array([text]))[1] is not None


@given(st.lists(st.one_of(st.none(), st.dates().map(str), odd, texts.map(lambda text: text[:10])), max_size=10))
def test_days_read_as_the_rule_does(column: list[str | None]) -> None:
    found, bad = days(pa.array(column, pa.string()))
    for at, (text, value) in enumerate(zip(column, found.cast(pa.int32()).to_pylist(), strict=True)):
        assert value == (None if text is None else day(text))
        assert (bad is not None and bad[at]) == (text is not None and value is None)


@pytest.mark.parametrize(
    ("name", "text", "valid"),
    [
        ("uuid", "123E4567-e89b-12d3-a456-426614174000", True),
        ("uuid", "123e4567e89b12d3a456426614174000", False),
        ("email", "a.b@example.org", True),
        ("email", '"a b"@example.org', True),
        ("email", "a..b@example.org", False),
        ("email", "a@[127.0.0.1]", True),
        ("email", "a@[300.0.0.1]", False),
        ("uri", "https://example.org/a?b=c#d", True),
        ("uri", "urn:isbn:0451450523", True),
        ("uri", "//example.org", False),
        ("uri", "http://[::1]/", True),
        ("uri", "http://[::ffff:1.2.3.04]/", False),
        ("date", "2024-02-29", True),
        ("date", "2023-02-29", False),
    ],
)
def test_formats(name: str, text: str, valid: bool) -> None:
    assert FORMATS[name](text) is valid


@pytest.mark.parametrize(
    ("pattern", "said"),
    [(r"^\d+$", r"^[0-9]+\Z"), (r"[\d$]", "[0-9$]"), (r"a\$", r"a\$"), ("(?<n>x)", "(?P<n>x)"), ("(?<=x)", "(?<=x)")],
)
def test_patterns_are_said_in_pythons_dialect(pattern: str, said: str) -> None:
    assert python_pattern(pattern) == said


def test_every_instant_is_written_as_it_is_read() -> None:
    assert [iso(at) for at in (MIN_US, 0, MAX_US)] == [
        "0001-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
    ]
