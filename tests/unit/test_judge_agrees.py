"""The fast path and the arbiter never disagree: over generated schemas, and over events meant to part them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.arbiter import Acceptance
from eagleray.cluster.events.json_reader import Reader, Reading
from eagleray.cluster.events.judge import Judge
from eagleray.cluster.events.stream import Stream, load_streams
from eagleray.cluster.events.verdict import Submission
from eagleray.cluster.sections import EdgeConfig, StreamConfig
from tests.examples import examples

NOW_US = 1_800_000_000_000_000
EDGE = EdgeConfig(depth_max=8, event_bytes_max=100_000)
IDS = ("id", "t")

texts = st.one_of(st.text(max_size=5), st.sampled_from(["a", "b", "", "\x00", "é", "😀", "2020-02-30", "2020-02-29"]))
numbers = st.one_of(
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False, width=64),
    st.sampled_from([0.1, 0.3, 1.0, -0.0, 2**53, 2**53 + 1, 2**63, -(2**63), 2**63 - 1, 2**64, 1e308]),
)


def scalar_schemas() -> st.SearchStrategy[Any]:
    bounds = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 2**53 + 1, -(2**63), 1e300]))
    limited = {"minimum": bounds, "exclusiveMinimum": bounds, "maximum": bounds, "exclusiveMaximum": bounds}
    steps = st.sampled_from([1, 2, 3, 0.1, 0.5, 2.0])
    number = st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number", ["number", "null"], ["integer", "null"]])},
        optional={**limited, "multipleOf": steps, "enum": st.lists(st.integers(-2, 2), min_size=1)},
    )
    lengths = st.integers(0, 4)
    text = st.fixed_dictionaries(
        {"type": st.sampled_from(["string", ["string", "null"]])},
        optional={
            "minLength": lengths,
            "maxLength": lengths,
            "pattern": st.sampled_from(["^a", "b$", r"\d"]),
            "enum": st.lists(st.sampled_from(["a", "b", "", None]), min_size=1),
            "format": st.sampled_from(["date-time", "date", "uuid", "email", "uri"]),
        },
    )
    other = st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "boolean", "const": True},
            {"type": "object"},
            {"type": ["object", "null"]},
            {"type": "array"},
            {"type": ["string", "integer"]},
            {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
            {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]},
            {"minimum": 2},
            {"const": 1},
            {"enum": [1, "a", None, {"x": 1}]},
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"$ref": "#/$defs/tree"},
            {},
            True,
        ]
    )
    return st.one_of(number, text, other)


def nested(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from(["p", "q"]), below, min_size=1)},
        optional={
            "additionalProperties": st.sampled_from([True, False, {"type": "integer"}]),
            "required": st.sampled_from([["p"], ["q"], ["r"]]),
        },
    )
    lists = st.fixed_dictionaries(
        {"type": st.sampled_from(["array", ["array", "null"]]), "items": below},
        optional={"minItems": st.integers(0, 2), "maxItems": st.integers(0, 3), "uniqueItems": st.booleans()},
    )
    return st.one_of(objects, lists)


schemas = st.recursive(scalar_schemas(), nested, max_leaves=4)
TREE = {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/tree"}}}
documents = st.fixed_dictionaries(
    {
        "type": st.just("object"),
        "$defs": st.just({"tree": TREE}),
        "required": st.sampled_from([["t"], ["t", "a"], ["t", "z"]]),
        "properties": st.fixed_dictionaries(
            {"t": st.just({"type": "integer"})},
            optional={"a": schemas, "b": schemas, "id": st.just({"type": "string"})},
        ),
    },
    optional={"additionalProperties": st.sampled_from([True, False, {"type": "string"}])},
)

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        numbers,
        texts,
        st.sampled_from(
            [
                "2020-01-01T00:00:00Z",
                "2020-01-01t00:00:00.1234567z",
                "1990-12-31T23:59:60Z",
                "2020-01-01T25:00:00Z",
                "9999-12-31T23:59:59-01:00",
                "2020-01-01T00:00:00.5+01:30",
                "123e4567-e89b-12d3-a456-426614174000",
                "a@b.example",
                "http://x/y",
            ]
        ),
    ),
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(st.sampled_from(["p", "q", "r", "v", "next"]), below, max_size=3)
    ),
    max_leaves=5,
)
literals = st.from_regex(rb"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
HOSTILE = [
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"-1e400",
    b"18446744073709551616",
    b"9007199254740993",
    b"9007199254740993.0",
    b"1.0",
    b"1e2",
    b"1" * 10_000,
    b"0." + b"1" * 10_000,
    b'"\\ud800"',
    b'"\\udc00x"',
    b'"\\ud83d\\ude00"',
    b'"\\ud83d\\u0041"',
    b'"\\u00e9\\n\\/\\x"',
    b'"\\u00e9\\n\\/\\t\\"\\\\"',
    b'"\\u00g0"',
    b'"a\tb"',
    b"-0",
    b"-0.0",
    b"0e-400",
    b"4.9e-324",
    b"1.7976931348623157e308",
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b'"\x00"',
    b'"\\u0000"',
    b"[" * 9 + b"]" * 9,
    b"[" * 2000 + b"]" * 2000,
    b'{"p":' * 7 + b"1" + b"}" * 7,
    b'{"p":1,"p":2}',
    b'{"p":"x","p":2}',
    b"01",
    b"tru",
    b'"a',
    b"",
    b"{}}",
    b"1 2",
    b"\xef\xbb\xbf1",
]


@st.composite
def dumped(draw: st.DrawFn, value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def events(draw: st.DrawFn) -> bytes:
    plain = values.flatmap(dumped)
    value = st.integers(0, 9).flatmap(lambda at: [st.sampled_from(HOSTILE), literals, *[plain] * 8][at])
    names = draw(st.lists(st.sampled_from(["a", "b", "x", "z", "a"]), max_size=4))
    fields = [(name, draw(value)) for name in names]
    fields.insert(
        draw(st.integers(0, len(fields))),
        ("t", draw(st.sampled_from([b"1", b"5", b"7", b"8", b"9", b"6", b"null", b'"x"', b"1.0"]))),
    )
    if draw(st.booleans()):
        fields.append(("id", draw(st.sampled_from([b'"a"', b'"b"', b'"c"', b'"d"', b"1", b"null"]))))
    colon, comma = draw(st.sampled_from([(b":", b","), (b" : ", b" , ")]))
    event = b"{" + comma.join(b'"' + name.encode() + b'"' + colon + raw for name, raw in fields) + b"}"
    return draw(st.sampled_from([event] * 20 + [event + b"x", event[:-1], b"[" + event + b"]"]))


def stream_of(document: dict[str, Any], directory: Path) -> Stream:
    (directory / "s.json").write_text(json.dumps(document))
    key = "id" if "id" in document["properties"] else None
    config = Config(
        file=directory / "eagleray.yaml",
        streams={"s": StreamConfig(schema="s.json", time="t", time_unit="s", id=key, key=key)},
    )
    try:
        return load_streams(config)["s"]
    except ConfigError:  # such as a required field that nothing declares
        reject()


class ArbiterOnly(Reader):
    """Sends every event to the arbiter."""

    def _decode(self, events: Any, ascii_: bool = False) -> Any:
        return super()._decode([b"x" * 200_000])

    def _array(self, body: bytes) -> Reading:
        raise NotImplementedError


def general(stream: Stream) -> Judge:
    """A judge that knows of no clean bodies."""
    judge = Judge(stream, EDGE, 1)
    judge._clean._read = None
    return judge


def by_arbiter(stream: Stream, lines: list[bytes]) -> Any:
    judge = general(stream)
    judge._reader = ArbiterOnly(stream.events.shape(), judge._arbiter, EDGE.event_bytes_max, judge._reader._items)
    return judge.judge([Submission("s", "ndjson", b"\n".join(lines))], NOW_US)


def assert_same(fast: Any, slow: Any) -> None:
    assert fast.answers == slow.answers
    assert [rejection for rejection, _ in fast.rejects] == [rejection for rejection, _ in slow.rejects]
    assert fast.batch.equals(slow.batch) or fast.batch.to_pylist() == slow.batch.to_pylist()


@examples(150)
@given(documents, st.lists(events(), min_size=1, max_size=5))
def test_fast_path_and_arbiter_give_one_verdict_and_one_value(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], sent: list[bytes]
) -> None:
    stream = stream_of(document, tmp_path_factory.mktemp("schema"))
    lines = [line.replace(b"\n", b" ") for line in sent]
    slow = by_arbiter(stream, lines)
    for fast in (Judge(stream, EDGE, 1), general(stream)):
        assert_same(fast.judge([Submission("s", "ndjson", b"\n".join(lines))], NOW_US), slow)
        assert_same(fast.judge([Submission("s", "ndjson", b"\r\n\n".join(lines) + b"\n")], NOW_US), slow)
        each = [Submission("s", "ndjson", line) for line in lines]
        rows = pa.concat_tables([pa.table(fast.judge([one], NOW_US).batch) for one in each])
        assert rows.to_pylist() == pa.table(slow.batch).to_pylist()
        together = fast.judge(each, NOW_US)
        assert together.batch.to_pylist() == rows.to_pylist()
        assert [answer.accepted for answer in together.answers] == [
            at not in {index for index, _, _ in slow.answers[0].rejected} for at in range(len(lines))
        ]


@examples(50)
@given(documents, st.lists(events(), min_size=1, max_size=5))
def test_an_array_is_judged_as_its_elements_are_as_lines(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], sent: list[bytes]
) -> None:
    stream = stream_of(document, tmp_path_factory.mktemp("schema"))
    slow = by_arbiter(stream, sent)
    refused_as_json = {"json", "too_deep"} & {reason for _, reason, _ in slow.answers[0].rejected}
    for judge in (Judge(stream, EDGE, 1), general(stream)):
        fast = judge.judge([Submission("s", "json", b"[" + b",".join(sent) + b"]")], NOW_US)
        if fast.answers[0].malformed is None:
            assert_same(fast, slow)
        else:
            assert refused_as_json
            assert fast.batch.num_rows == 0


def test_the_arbiter_alone_accepts_what_these_tests_feed_it(tmp_path: Path) -> None:
    stream = stream_of(
        {"type": "object", "properties": {"t": {"type": "integer"}, "a": {}}, "required": ["t"]}, tmp_path
    )
    verdict = Judge(stream, EDGE, 1)._arbiter.judge(b'{"t": 1.0, "a": {"x": 1e400}, "z": 2}')
    assert isinstance(verdict, Acceptance)
    assert verdict.extra == b'{"z":2}'


KINDS = {
    "whole": {"type": "integer"},
    "real": {"type": ["number", "null"]},
    "text": {"type": "string"},
    "flag": {"type": "boolean"},
    "at": {"type": "string", "format": "date-time"},
    "free": {"type": ["object", "array", "null"]},
    "any": {},
    "either": {"type": ["string", "integer"]},
    "reals": {"type": "array", "items": {"type": "number"}},
    "inner": {"type": "object", "properties": {"p": {"type": "number"}, "q": {}}},
}


def test_every_hostile_value_in_every_kind_of_field(tmp_path: Path) -> None:
    stream = stream_of({"type": "object", "properties": {"t": {"type": "integer"}, **KINDS}}, tmp_path)
    odd = [*HOSTILE, b"9007199254740994", b"-9007199254740993", b"1e22", b"null", b"{}", b'"2020-01-01T00:00:00Z"']
    places = [*(b'"%s":%%b' % name.encode() for name in [*KINDS, "unknown"]), b'"reals":[1,%b]', b'"inner":{"q":%b}']
    sent = [b'{"t":1,' + place.replace(b"%b", value) + b"}" for place in places for value in odd]
    lines = [line for line in sent if b"\n" not in line]
    fast = Judge(stream, EDGE, 1)
    slow = by_arbiter(stream, lines)
    assert 100 < slow.answers[0].accepted < len(lines)
    assert_same(fast.judge([Submission("s", "ndjson", b"\n".join(lines))], NOW_US), slow)
    each = fast.judge([Submission("s", "ndjson", line) for line in lines], NOW_US)
    assert each.batch.to_pylist() == slow.batch.to_pylist()
    good = [line for at, line in enumerate(lines) if at not in {index for index, _, _ in slow.answers[0].rejected}]
    assert_same(fast.judge([Submission("s", "ndjson", b"\n".join(good))], NOW_US), by_arbiter(stream, good))
