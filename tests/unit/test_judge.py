"""The judge's rules, one by one: limits, numbers, text, times, ids, unknown fields, forms of a body."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.events.arbiter import Arbiter
from eagleray.cluster.events.columns import EventColumns
from eagleray.cluster.events.judge import Judge, Judged
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import Submission
from eagleray.cluster.sections import EdgeConfig, StreamConfig

DATA = Path(os.environ.get("EAGLERAY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
NOW_US = 1_767_225_600_000_000  # 2026-01-01
PROPERTIES = {
    "id": {"type": "string"},
    "t": {"type": "string", "format": "date-time"},
    "n": {"type": "integer"},
    "x": {"type": "number"},
    "s": {"type": ["string", "null"]},
    "free": {"type": "object"},
    "actor": {"type": "object", "properties": {"login": {"type": "string"}}},
    "items": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


def judge_of(
    directory: Path, edge: EdgeConfig | None = None, document: dict[str, Any] | None = None, **stream: Any
) -> Judge:
    (directory / "s.json").write_text(json.dumps(document or {"type": "object", "properties": PROPERTIES}))
    settings = {"time": "t", **stream}
    config = Config(file=directory / "e.yaml", streams={"s": StreamConfig(schema="s.json", **settings)})
    return Judge(load_streams(config)["s"], edge or EdgeConfig(), 1)


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    return judge_of(tmp_path)


def lines(judge: Judge, *events: bytes, **more: Any) -> Judged:
    return judge.judge([Submission("s", "ndjson", b"\n".join(events), **more)], NOW_US)


def event(**fields: Any) -> bytes:
    return json.dumps({"t": "2025-12-31T12:00:00Z", **fields}).encode()


def with_raw(name: str, raw: bytes) -> bytes:
    return b'{"t":"2025-12-31T12:00:00Z","' + name.encode() + b'":' + raw + b"}"


def refusal(judge: Judge, sent: bytes) -> tuple[str, str]:
    """Reason and detail of one event that must be rejected, with its bytes kept."""
    found = lines(judge, sent)
    ((index, reason, detail),) = found.answers[0].rejected
    assert (index, found.answers[0].accepted, found.batch.num_rows) == (0, 0, 0)
    ((rejection, submission),) = found.rejects
    assert (rejection.original, submission.source) == (sent, "anonymous")
    return reason, detail


def stored(judge: Judge, sent: bytes) -> dict[str, Any]:
    found = lines(judge, sent)
    assert found.answers[0].rejected == []
    row: dict[str, Any] = found.batch.to_pylist()[0]
    return row


def test_verdicts_name_index_field_and_cause(judge: Judge) -> None:
    found = lines(judge, event(n=1), b"", event(n="x"), b"  ", b"{broken", event(n=2), event(actor={"login": 7}))
    assert found.answers[0].accepted == 2
    assert found.answers[0].rejected == [
        (1, "schema", "n: 'x' is not of type 'integer'"),
        (2, "json", "expected '\"' (byte 1)"),
        (4, "schema", "actor.login: 7 is not of type 'string'"),
    ]
    assert [r.original for r, _ in found.rejects] == [event(n="x"), b"{broken", event(actor={"login": 7})]
    assert found.batch.column("n").to_pylist() == [1, 2]


def test_rows_are_in_the_order_of_requests_and_events(judge: Judge) -> None:
    submissions = [
        Submission("s", "ndjson", event(n=0) + b"\r\n" + event(n="no") + b"\r\n" + event(n=1), "a"),
        Submission("s", "json", event(n=2), "b"),
        Submission("s", "json", b"[" + event(n=3) + b", 5 ," + event(n=4) + b"]", "a"),
        Submission("s", "json", b"[" + event(n=9) + b",]", "b"),
        Submission("s", "ndjson", b"", "b"),
        Submission("s", "json", b"[]", "b"),
        Submission("s", "json", b"", "b"),
    ]
    found = judge.judge(submissions, NOW_US)
    assert found.batch.schema.equals(judge.stream.log_schema)
    assert found.batch.column("n").to_pylist() == [0, 1, 2, 3, 4]
    assert found.batch.column("_source").to_pylist() == ["a", "a", "b", "a", "a"]
    assert [answer.accepted for answer in found.answers] == [2, 1, 2, 0, 0, 0, 0]
    assert found.answers[2].rejected == [(1, "schema", "expected an object, found a number")]
    assert [answer.malformed is not None for answer in found.answers] == [False, False, False, True, False, False, True]
    assert [submission.source for _, submission in found.rejects] == ["a", "a"]


@pytest.mark.parametrize(
    ("raw", "held"),
    [
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"1.0", 1),
        (b"1e3", 1000),
        (b"-0", 0),
        (b"9007199254740992.0", 2**53),
        (b"1e18", 10**18),
    ],
)
def test_integers_are_held_exactly(judge: Judge, raw: bytes, held: int) -> None:
    assert stored(judge, with_raw("n", raw))["n"] == held


@pytest.mark.parametrize(
    "raw",
    [
        b"9223372036854775808",
        b"18446744073709551616",
        b"1" * 10000,
        b"1.5",
        b"9007199254740993.0",
        b"1e19",
        b"1e400",
        b"1e-400",
        b"1.00000000000000000001",
    ],
)
def test_what_no_integer_holds_is_refused(judge: Judge, raw: bytes) -> None:
    reason, detail = refusal(judge, with_raw("n", raw))
    assert reason == "schema"
    assert detail.startswith("n: ")
    assert len(detail) <= 310


@pytest.mark.parametrize("raw", [b"9007199254740993", b"-9007199254740993", b"1e400", b"-1e400", b"1" * 10_000])
def test_numbers_are_never_changed_in_silence(judge: Judge, raw: bytes) -> None:
    reason, detail = refusal(judge, with_raw("x", raw))
    assert reason == "schema"
    assert detail.startswith("x: ")


@pytest.mark.parametrize("raw", [b"9007199254740994", b"1e22", b"0.1", b"-0.0", b"1e-400", b"1.7976931348623157e308"])
def test_numbers_are_the_nearest_double(judge: Judge, raw: bytes) -> None:
    assert repr(stored(judge, with_raw("x", raw))["x"]) == repr(float(raw))


@pytest.mark.parametrize("raw", [b"NaN", b"Infinity", b"-Infinity", b"0x1", b"+1", b"01", b"1."])
def test_what_is_no_json_number_is_refused(judge: Judge, raw: bytes) -> None:
    assert refusal(judge, with_raw("x", raw))[0] == "json"


def test_free_form_objects_keep_their_text(judge: Judge) -> None:
    raw = b'{ "big" : 123456789012345678901234567890, "e":1e999 , "a":1, "a":2, "u":"\\u00e9" }'
    row = stored(judge, with_raw("free", raw))
    assert row["free"].encode() == raw
    for wrong in (b"[]", b"null", b'"x"', b"1"):
        assert refusal(judge, with_raw("free", wrong))[0] == "schema"


@pytest.mark.parametrize(
    "raw", [b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"a\x00b"', b'"\\x41"']
)
@pytest.mark.parametrize("name", ["s", "free", "zz"])
def test_what_is_no_text_is_refused(judge: Judge, name: str, raw: bytes) -> None:
    value = b'{"k":' + raw + b"}" if name == "free" else raw
    assert refusal(judge, with_raw(name, value))[0] == "json"


@pytest.mark.parametrize(
    ("raw", "text"), [(b'"\\u0000"', "\x00"), (b'"\\ud83d\\ude00"', "😀"), ('"é😀"'.encode(), "é😀"), (b'""', "")]
)
def test_text_makes_the_round_trip(judge: Judge, raw: bytes, text: str) -> None:
    assert stored(judge, with_raw("s", raw))["s"] == text


def test_one_byte_order_mark_before_the_body_is_dropped(judge: Judge) -> None:
    mark = b"\xef\xbb\xbf"
    assert judge.judge([Submission("s", "json", mark + event())], NOW_US).answers[0].accepted == 1
    found = lines(judge, mark + event(), mark + event())
    assert [(index, reason) for index, reason, _ in found.answers[0].rejected] == [(1, "json")]


def test_the_last_of_equal_keys_wins(judge: Judge) -> None:
    sent = b'{"t":7,"n":"x","zz":1,"t":"2025-12-31T12:00:00Z","n":1,"n":2,"zz":3}'
    row = stored(judge, sent)
    assert (row["n"], row["_extra"]) == (2, '{"zz":3}')
    assert refusal(judge, with_raw("n", b'1,"n":"x"'))[0] == "schema"


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("form", ["json", "ndjson", "array"])
def test_a_hundred_thousand_levels_are_one_rejection(judge: Judge, opening: bytes, form: str) -> None:
    closing = b"]" if opening == b"[" else b"}"
    deep = with_raw("free", b'{"d":' + opening * 100_000 + b"1" + closing * 100_000 + b"}")
    body = {"json": deep, "ndjson": event() + b"\n" + deep, "array": b"[" + event() + b"," + deep + b"]"}[form]
    found = judge.judge([Submission("s", "ndjson" if form == "ndjson" else "json", body)], NOW_US)
    at = 0 if form == "json" else 1
    assert [(index, reason) for index, reason, _ in found.answers[0].rejected] == [(at, "too_deep")]
    assert found.answers[0].accepted == at


@pytest.mark.parametrize("name", ["free", "zz"])
def test_depth_is_exact(tmp_path: Path, name: str) -> None:
    judge = judge_of(tmp_path, EdgeConfig(depth_max=20))
    nested = b'{"[{[{":' * 18 + b"1" + b"}" * 18
    assert stored(judge, with_raw(name, b'{"a":' + nested + b"}"))
    assert refusal(judge, with_raw(name, b'{"a":{"b":' + nested + b"}}"))[0] == "too_deep"


def test_size_is_per_event(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, EdgeConfig(event_bytes_max=200))
    assert refusal(judge, event(s="x" * 200))[0] == "too_large"
    assert lines(judge, *[event(s="x" * 50)] * 10).answers[0].accepted == 10
    body = b"[" + b",".join([event(s="x" * 50), event(s="x" * 200), event()]) + b"]"
    (answer,) = judge.judge([Submission("s", "json", body)], NOW_US).answers
    assert (answer.accepted, [(i, r) for i, r, _ in answer.rejected]) == (2, [(1, "too_large")])


@pytest.mark.parametrize(
    ("text", "time_us"),
    [
        ("2025-12-31T12:00:00Z", 1_767_182_400_000_000),
        ("2025-12-31t12:00:00.5z", 1_767_182_400_500_000),
        ("2025-12-31T12:00:00.123456789Z", 1_767_182_400_123_456),
        ("2025-12-31T13:30:00+01:30", 1_767_182_400_000_000),
        ("1990-12-31T23:59:60Z", 662_688_000_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
    ],
)
def test_event_time_is_read_to_the_microsecond(judge: Judge, text: str, time_us: int) -> None:
    found = lines(judge, event(t=text))
    assert found.batch.column("_time").to_pylist() == [time_us]
    assert found.batch.column("t").cast(pa.int64()).to_pylist() == [time_us]


@pytest.mark.parametrize("value", [None, 5, "soon", "2025-02-30T00:00:00Z", "2025-12-31", "2025-12-31T12:00:00", ""])
def test_an_event_without_a_readable_time_is_refused_as_such(judge: Judge, value: Any) -> None:
    reason, detail = refusal(judge, event(t=value))
    assert reason == "time"
    assert detail.startswith("t: ")


def test_an_event_too_far_ahead_is_refused(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, max_future="1h")
    found = lines(judge, event(n=1), event(t="2026-01-01T01:00:00Z", n=2), event(t="2026-01-01T01:00:00.000001Z", n=3))
    assert found.batch.column("n").to_pylist() == [1, 2]
    expected = "t: 2026-01-01T01:00:00.000001Z is more than 1h ahead of the clock (max_future)"
    assert found.answers[0].rejected == [(2, "future", expected)]
    assert refusal(judge, event(t="9999-12-31T23:59:59Z"))[0] == "future"


@pytest.mark.parametrize(
    ("unit", "raw", "verdict"),
    [
        ("s", b"1767182400", 1_767_182_400_000_000),
        ("s", b"1767182400.0", 1_767_182_400_000_000),
        ("ms", b"1767182400123", 1_767_182_400_123_000),
        ("us", b"1767182400123456", 1_767_182_400_123_456),
        ("ns", b"1767182400123456789", 1_767_182_400_123_456),
        ("ns", b"-1", -1),
        ("s", b"1767182400.5", "time"),
        ("s", b"9223372036854775807", "future"),
        ("s", b"-9223372036854775808", "time"),
        ("ms", b"true", "time"),
        ("ms", b'"1767182400123"', "time"),
        ("ms", b"null", "time"),
    ],
)
def test_integer_times_have_a_unit(tmp_path: Path, unit: str, raw: bytes, verdict: Any) -> None:
    document = {"type": "object", "properties": {"at": {"type": "object", "properties": {"ts": {"type": "integer"}}}}}
    judge = judge_of(tmp_path, document=document, time="at.ts", time_unit=unit)
    sent = b'{"at":{"ts":' + raw + b"}}"
    if isinstance(verdict, int):
        assert stored(judge, sent)["_time"] == verdict
    else:
        assert refusal(judge, sent)[0] == verdict
    assert refusal(judge, b"{}")[0] == "time"
    assert refusal(judge, b'{"at":null}')[0] == "time"


def test_unknown_fields_are_kept_at_any_level(judge: Judge) -> None:
    sent = b'{"t":"2025-12-31T12:00:00Z","zz":{"k": 1e999},"actor":{"login":"a","site":"b"},"items":[{"a":1},{"b":2}]}'
    row = stored(judge, sent)
    assert row["_extra"] == '{"zz":{"k": 1e999},"actor":{"site":"b"},"items":[{},{"b":2}]}'
    assert row["actor"] == {"login": "a"}
    assert row["items"] == [{"a": 1}, {"a": None}]
    assert stored(judge, event())["_extra"] is None
    mixed = lines(judge, event(), event(zz=1), event(n="x"), event(zz=2))
    assert mixed.batch.column("_extra").to_pylist() == [None, '{"zz":1}', '{"zz":2}']


def test_unknown_fields_are_refused_where_the_schema_says_so(tmp_path: Path) -> None:
    document = {"type": "object", "properties": PROPERTIES, "additionalProperties": False}
    judge = judge_of(tmp_path, document=document)
    assert refusal(judge, event(zz=1))[0] == "schema"
    assert stored(judge, event(actor={"login": "a", "more": 1}))["_extra"] == '{"actor":{"more":1}}'


def test_ids_are_hashed_and_missing_ones_refused(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, id="id")
    ids = lines(judge, event(id="a"), event(id="b"), event(id="a")).batch.column("_id").to_pylist()
    assert ids[0] == ids[2] != ids[1]
    assert len(ids[0]) == 16
    for sent in (event(), event(id=None), event(id=["a"]), event(id=True)):
        assert refusal(judge, sent)[0] == "id"
    other = Judge(judge.stream, EdgeConfig(), 2)
    assert lines(other, event(id="a")).batch.column("_id").to_pylist() != ids[:1]


def test_repeated_ids_within_a_batch_are_counted_and_kept(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, id="id")
    first = Submission("s", "ndjson", event(id="a") + b"\n" + event(id="a"))
    found = judge.judge([first, Submission("s", "json", event(id="a")), Submission("s", "json", event(id="b"))], NOW_US)
    assert [answer.duplicates for answer in found.answers] == [1, 1, 0]
    assert found.batch.num_rows == 4


def test_an_idempotency_key_names_events_that_have_no_id(judge: Judge) -> None:
    first = lines(judge, event(n=1), event(n="x"), event(n=2), idempotency_key="k")
    again = lines(judge, event(n=1), event(n="x"), event(n=2), idempotency_key="k")
    assert first.batch.column("_id").equals(again.batch.column("_id"))
    assert np.array_equal(first.partition_hash, again.partition_hash)
    assert len(set(first.batch.column("_id").to_pylist())) == 2
    others = [lines(judge, event(n=1), idempotency_key="l"), lines(judge, event(n=1), idempotency_key="k", source="z")]
    assert not {other.batch.column("_id")[0] for other in others} & set(first.batch.column("_id"))
    assert lines(judge, event(n=1)).batch.column("_id").to_pylist() == [None]


def test_partitions_follow_the_key_then_the_id_then_turns(tmp_path: Path) -> None:
    keyed = lines(
        judge_of(tmp_path, id="id", key="actor.login"),
        *(
            event(id=str(n), actor={"login": login} if login else None) if login else event(id=str(n))
            for n, login in enumerate(["a", "b", "a", None, None])
        ),
    ).partition_hash
    assert keyed[0] == keyed[2] != keyed[1]
    assert keyed[3] != keyed[4]  # no key: by id
    by_id = lines(judge_of(tmp_path, id="id"), event(id="a"), event(id="b"), event(id="a")).partition_hash
    assert by_id[0] == by_id[2] != by_id[1]
    judge = judge_of(tmp_path)
    turns = [lines(judge, event(), event()).partition_hash.tolist() for _ in range(3)]
    assert turns == [[0, 0], [1, 1], [2, 2]]


def test_an_event_that_nobody_foresaw_is_rejected_alone(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    build = EventColumns.pivot

    def fails(self: EventColumns, structs: Any, suspects: Any) -> Any:
        if any(struct.f4 == "poison" for struct in structs):
            raise OverflowError("cannot be held")
        return build(self, structs, suspects)

    monkeypatch.setattr(EventColumns, "pivot", fails)
    monkeypatch.setattr(EventColumns, "verify", lambda *_: {}["nor can these"])
    found = lines(judge, *(event(s="poison" if n == 5 else "ok", n=n) for n in range(9)))
    assert found.answers[0].accepted == 8
    assert found.answers[0].rejected == [(5, "schema", "could not be judged: OverflowError: cannot be held")]
    assert [rejection.original for rejection, _ in found.rejects] == [event(s="poison", n=5)]


def gz_lines(name: str) -> list[bytes]:
    file = DATA / "events" / name
    if not file.exists():
        pytest.skip(f"no test data at {file}")
    return gzip.decompress(file.read_bytes()).splitlines()


WIKIPEDIA = {
    "type": "object",
    "required": ["time", "page", "user"],
    "additionalProperties": False,
    "properties": {
        "time": {"type": "string", "format": "date-time"},
        **{name: {"type": "string"} for name in ("channel", "comment", "namespace", "page", "user")},
        **{name: {"type": "boolean"} for name in ("isAnonymous", "isMinor", "isNew", "isRobot", "isUnpatrolled")},
        **{name: {"type": "integer"} for name in ("delta", "added", "deleted")},
        **{
            name: {"type": ["string", "null"]}
            for name in ("cityName", "countryIsoCode", "countryName", "regionIsoCode", "regionName")
        },
        "metroCode": {"type": ["integer", "null"]},
    },
}


def test_wikipedia_decodes_wholly_on_the_fast_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = gz_lines("wikipedia/wikiticker-2015-09-12-sampled.json.gz")
    judge = judge_of(tmp_path, document=WIKIPEDIA, time="time", key="page")
    monkeypatch.setattr(Arbiter, "judge", lambda *_: pytest.fail("the arbiter was asked"))
    found = judge.judge([Submission("s", "ndjson", b"\n".join(sent))], NOW_US)
    assert found.answers[0].accepted == len(sent) == 39_244
    assert sum(found.batch.column("added").to_pylist()) == sum(json.loads(line)["added"] for line in sent)


def test_github_payloads_survive_as_the_same_json(tmp_path: Path) -> None:
    sent = gz_lines("gharchive/2015-01-01-0.json.gz")
    user = {"type": "object", "properties": {"id": {"type": "integer"}, "login": {"type": "string"}}}
    properties = {"id": {"type": "string"}, "created_at": {"type": "string", "format": "date-time"}, "actor": user}
    document = {"type": "object", "properties": {**properties, "payload": {"type": "object"}, "org": user}}
    judge = judge_of(tmp_path, document=document, time="created_at", id="id", key="actor.login")
    found = judge.judge([Submission("s", "ndjson", b"\n".join(sent))], NOW_US)
    assert found.answers[0].accepted == len(sent) == 7_702
    for line, payload, extra in zip(sent, found.batch.column("payload"), found.batch.column("_extra"), strict=True):
        event, beyond = json.loads(line), json.loads(extra.as_py())
        assert json.loads(payload.as_py()) == event["payload"]
        assert beyond["repo"] == event["repo"]
        assert beyond["actor"] == {k: v for k, v in event["actor"].items() if k not in ("id", "login")}


@pytest.mark.parametrize("fields", ['"u":{},"u":1', '"free":{},"free":{{"a":1}}', '"actor":{{"u":{}}},"actor":{{}}'])
@pytest.mark.parametrize("form", ["ndjson", "json", "array"])
def test_a_value_that_a_later_one_of_its_name_replaces_counts_for_depth(judge: Judge, fields: str, form: str) -> None:
    deep = fields.format("[" * 70 + "]" * 70).replace("{{", "{").replace("}}", "}")
    sent = b'{"t":"2025-12-31T12:00:00Z",' + deep.encode() + b"}"
    body = b"[" + event(n=1) + b"," + sent + b"]" if form == "array" else sent
    found = judge.judge([Submission("s", "ndjson" if form == "ndjson" else "json", body)], NOW_US)
    assert [(index, reason) for index, reason, _ in found.answers[0].rejected] == [(int(form == "array"), "too_deep")]
