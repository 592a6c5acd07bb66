"""Bodies straight into columns: what is taken has the values that Python reads, and what is refused leaves no trace."""

import json
import math
import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.events import fast_path as clean
from eagleray.cluster.events.array_items import ItemLimits
from eagleray.cluster.events.fast_path import CleanReader, library, load
from eagleray.cluster.events.instants import day, instant_us
from eagleray.cluster.events.shape import root_shape
from eagleray.cluster.events.verdict import Submission
from tests.examples import examples

if library() is None and shutil.which("cc") is None:
    pytest.skip("the library was not built: there is no C compiler", allow_module_level=True)

DOCUMENT = {
    "type": "object",
    "required": ["n"],
    "properties": {
        "n": {"type": "integer"},
        "real": {"type": ["number", "null"]},
        "text": {"type": "string"},
        "flag": {"type": "boolean"},
        "at": {"type": "string", "format": "date-time"},
        "day": {"type": "string", "format": "date"},
        "free": {"type": ["object", "array", "string", "number", "boolean", "null"]},
        "kind": {"enum": ["a", "bé", ""]},
        "few": {"type": "array", "items": {"type": ["string", "null"]}, "maxItems": 3},
        "inner": {
            "type": ["object", "null"],
            "required": ["p"],
            "properties": {
                "p": {"type": "boolean"},
                "deep": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "number"}}}},
                },
            },
        },
    },
}


def reader(
    document: dict[str, Any] = DOCUMENT,
    event_bytes_max: int = 100_000,
    items_max: int = 1000,
    body_items_max: int = 1_000_000,
) -> CleanReader:
    return CleanReader(root_shape("s.json", document), 8, event_bytes_max, ItemLimits(items_max, body_items_max))


READER = reader()


def rows(reader: CleanReader, *bodies: bytes, form: Any = "json") -> tuple[list[int], list[dict[str, Any]]]:
    found = reader.read([Submission("s", form, body) for body in bodies])
    assert found is not None
    table = pa.table(dict(zip(reader._schema.names, [*found.arrays, found.extras], strict=True)))
    table.validate(full=True)
    return found.counts.tolist(), table.to_pylist()


def value(field: str, raw: str | bytes) -> list[Any]:
    """The value of a field that is sent as `raw`; empty: it was not taken."""
    sent = raw.encode() if isinstance(raw, str) else raw
    counts, found = rows(READER, b'{"n":1,"%b":%b}' % (field.encode(), sent))
    assert counts == [len(found) or -1]
    return [row[field] for row in found]


def test_the_library_was_built_where_there_is_a_compiler() -> None:
    assert library() is not None


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(
    ("written", "changed", "used"),
    [
        ("", "", True),
        ("return 4;\n}\n\n/* Where", "return 3;\n}\n\n/* Where", False),
        ("int64_t key_length;", "int64_t key_length, and_another;", False),
        ("int64_t length, null_count, offset,", "int64_t null_count, length, offset,", False),
        ("uint8_t kind, nullable, required, spare[5];", "uint8_t kind, required, nullable, spare[5];", False),
    ],
)
def test_a_library_is_used_only_if_version_and_structs_are_the_ones_expected(
    written: str, changed: str, used: bool, tmp_path: Path
) -> None:
    source = Path(clean.__file__).with_name("columnar.c").read_text()
    assert written in source
    (tmp_path / "columnar.c").write_text(source.replace(written, changed, 1))
    command = ["cc", "-std=gnu11", "-shared", "-fPIC", "columnar.c", "-o", "columnar.so", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (load(tmp_path / "columnar.so") is not None) is used


def test_what_is_no_library_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "columnar.so").write_bytes(b"of another architecture")
    assert load(tmp_path / "columnar.so") is None


@pytest.mark.parametrize(
    ("form", "body", "count"),
    [
        ("json", b'{"n":1}', 1),
        ("json", b' \t\r\n{ "n" : 1 }\n', 1),
        ("json", b'[{"n":1},\n{"n":2 } ]', 2),
        ("json", b"[]", 0),
        ("ndjson", b'{"n":1}\n{"n":2}', 2),
        ("ndjson", b'\n \r\n{"n":1}\r\n\n{"n":2}\n', 2),
        ("ndjson", b"\n\n", 0),
        *(("json", body, -1) for body in (b"", b" ", b"[", b'[{"n":1},]', b'[{"n":1}', b'{"n":1}{"n":2}', b'{"n":1},')),
        *(("json", body, -1) for body in (b"{}", b'{"n":1,}', b'{"n":1,"n":1}', b'{"n":1,"z"}', b'{"n":1', b"[1]")),
        *(("json", body, -1) for body in (b'{"n":1}\x00', b'\xef\xbb\xbf{"n":1}', b'{"n":1,"text":"\xff"}', b'{"n"1}')),
        *(("ndjson", body, -1) for body in (b'{"n":\n1}', b'{"n":1} {"n":2}', b'[{"n":1}]', b'{"n":1}\x00\n')),
    ],
)
def test_forms_of_bodies(form: Any, body: bytes, count: int) -> None:
    counts, found = rows(READER, body, form=form)
    assert (counts, [row["n"] for row in found]) == ([count], list(range(1, count + 1)))


def test_events_beyond_the_limit_and_condemned_submissions_are_left() -> None:
    small = reader(event_bytes_max=20)
    assert rows(small, b'[{"n":1}, {"n":22}]', b'{"n":1234567890123456}')[0] == [2, -1]
    found = READER.read([Submission("s", "ndjson", b'{"n":1}', condemned={0: "crash"})])
    assert found is not None
    assert found.counts.tolist() == [-1]


@pytest.mark.parametrize(
    "field",
    [
        {"type": "string", "format": "date-time", "pattern": "Z$"},
        {"type": "string", "format": "date", "enum": ["2020-01-01"]},
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    ],
)
def test_shapes_with_rules_that_columns_cannot_check_are_left(field: Any) -> None:
    document = {"type": "object", "properties": {"n": {"type": "integer"}, "o": {"type": "array", "items": field}}}
    assert reader(document).read([Submission("s", "json", b'{"n":1}')]) is None


@examples(150)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["r", ".17g", ".20e", ".3f", ".25f", "g"]))
def test_a_number_is_the_double_nearest_to_it(number: float, form: str) -> None:
    sent = repr(number) if form == "r" else format(number, form)
    found = value("real", sent)
    if abs(float(sent)) >= 2**53 or (float(sent) == 0 and not {".", "e"} & set(sent)):
        assert found in ([], [float(sent)])
    else:
        assert found == [float(sent)]
        assert math.copysign(1, found[0]) == math.copysign(1, float(sent))


@examples(150)
@given(st.from_regex(r"-?[0-9]{0,22}(\.[0-9]{0,22})?([eE][+-]?[0-9]{0,4})?", fullmatch=True))
def test_a_number_follows_the_grammar(sent: str) -> None:
    found = value("real", sent)
    assert found in ([], [float(sent)] if found else [])
    if found:
        assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", sent)
    assert bool(value("free", sent)) == bool(re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", sent))


@given(st.one_of(st.integers(-(2**65), 2**65), st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 0])))
def test_an_integer_is_taken_within_64_bits(number: int) -> None:
    counts, found = rows(READER, b'{"n":%d}' % number)
    assert counts == [1 if -(2**63) <= number < 2**63 else -1]
    assert [row["n"] for row in found] == ([number] if counts == [1] else [])


@pytest.mark.parametrize("sent", ["01", "-", "+1", "1.0", "1e2", "00", "-01", '"1"', "1x", "0x1", "true", "null", ""])
def test_what_is_no_plain_integer_is_left(sent: str) -> None:
    assert rows(READER, b'{"n":%b}' % sent.encode()) == ([-1], [])


@examples(100)
@given(st.text(), st.booleans())
def test_text_is_what_json_says(text: str, ascii_: bool) -> None:
    try:
        sent = json.dumps(text, ensure_ascii=ascii_).encode()
    except UnicodeEncodeError:
        return
    lone = any(0xD800 <= ord(c) < 0xE000 for c in text)
    assert value("text", sent) == ([] if lone else [text])
    assert value("free", sent) == ([] if lone else [sent.decode()])
    assert value("kind", sent) == ([text] if text in ("a", "bé", "") else [])


@pytest.mark.parametrize("length", range(40))
def test_a_string_ends_at_its_quote_wherever_that_is(length: int) -> None:
    for mark in ('"', "\\", "\n", "é", "\x1f", "\x7f", "😀"):
        for at in range(length):
            text = "x" * at + mark + "x" * (length - at)
            assert value("text", json.dumps(text, ensure_ascii=False)) == [text]
    for open_ended in ("x" * length, "x" * length + '\n"', "x" * length + "\\"):
        assert value("text", '"' + open_ended) == []


@pytest.mark.parametrize(
    "sent", [r'"\x"', r'"\u12g4"', r'"\u12"', r'"\ud800\u0041"', r'"\udc00"', '"\\', r'"\ud83d\ude0"']
)
def test_a_bad_escape_is_left(sent: str) -> None:
    assert value("text", sent) == value("free", sent) == []


moments = st.from_regex(
    r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{0,9})?(Z|z|[+-][0-2][0-9]:[0-6][0-9]|)",
    fullmatch=True,
)


@examples(300)
@given(moments)
def test_an_instant_is_what_the_rule_says(text: str) -> None:
    found = value("at", f'"{text}"')
    micros = instant_us(text)
    if found:
        assert pa.scalar(found[0], pa.timestamp("us", "UTC")).value == micros
    elif micros is not None:
        assert ":60" in text or text[-1] in "z"  # a leap second, and small letters, are left to others


@examples(150)
@given(st.one_of(st.dates().map(str), st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.?", fullmatch=True)))
def test_a_day_is_what_the_rule_says(text: str) -> None:
    found = value("day", json.dumps(text))
    assert [pa.scalar(each, pa.date32()).value for each in found] == [d for d in [day(text)] if d is not None]


def test_lists_and_objects_keep_their_nulls_and_bounds() -> None:
    assert value("few", '["a", null, "b"]') == [["a", None, "b"]]
    assert value("few", '["a","b","c","d"]') == value("few", '["a",]') == value("few", '["a" "b"]') == []
    assert value("few", "null") == []
    assert value("inner", "null") == [None]
    assert value("inner", "{}") == value("inner", '{"p":null}') == value("inner", '{"p":true,"q":1}') == []
    assert value("inner", '{"p":true}') == [{"p": True, "deep": None}]
    assert value("inner", '{"deep":[{},{"x":[]},{"x":[1,2.5]}],"p":false}') == [
        {"p": False, "deep": [{"x": None}, {"x": []}, {"x": [1.0, 2.5]}]}
    ]


def extra(fields: str, document: dict[str, Any] = DOCUMENT) -> list[Any]:
    return [row["_extra"] for row in rows(reader(document), b'{"n":1%b}' % fields.encode())[1]]


def test_unknown_fields_at_the_top_are_kept_as_sent() -> None:
    assert extra("") == [None]
    assert extra(', "z" : [1, {"a" :null}] ,"ü":null, "" : 1e400') == ['{"z":[1, {"a" :null}],"ü":null,"":1e400}']
    many = {f"x{at}": at for at in range(32)}
    assert extra("," + json.dumps(many)[1:-1]) == [json.dumps(many, separators=(",", ":"))]
    assert extra("," + json.dumps(many | {"y": 1})[1:-1]) == []
    assert (
        extra(',"z":1,"z":2') == extra(r',"\u007a":1') == extra(',"z":1,') == extra(',"z":' + "[" * 8 + "]" * 8) == []
    )
    assert extra(',"inner":{"p":true,"z":1}') == []
    assert extra(',"z":1', DOCUMENT | {"additionalProperties": False}) == []
    assert extra(',"z":1', DOCUMENT | {"additionalProperties": {"type": "integer"}}) == []


def test_free_form_values_are_kept_as_they_are_within_the_depth() -> None:
    deep = "[" * 7 + "]" * 7
    for sent in (deep, '{"a": [1, {"b" :"\\u00e9"}], "a":0}', "[]", "{ }", "true", "-1.5e3"):
        assert value("free", sent) == [sent]
    for sent in (f"[{deep}]", "[1,]", '{"a"}', '{"a":1,}', "{1:2}", "[1", "tru", "[NaN]", "nul"):
        assert value("free", sent) == []
    assert value("free", "null") == [None]


numbers = st.floats(-1e9, 1e9)
events = st.fixed_dictionaries(
    {"n": st.integers(-9, 9)},
    optional={
        "real": st.one_of(st.none(), numbers),
        "text": st.text(st.characters(codec="utf-8"), max_size=9),
        "flag": st.booleans(),
        "few": st.lists(st.sampled_from(["a", "é", None]), max_size=3),
        "kind": st.sampled_from(["a", "bé", ""]),
        "y": st.integers(0, 9),
        "z": st.lists(st.none()),
        "inner": st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {"p": st.booleans()},
                optional={"deep": st.lists(st.fixed_dictionaries({}, optional={"x": st.lists(numbers)}), max_size=3)},
            ),
        ),
    },
)


def events_of(*bodies: bytes) -> tuple[list[int], list[dict[str, Any]]]:
    """As `rows`, with unknown fields as values: how they were spaced is theirs."""
    counts, found = rows(READER, *bodies)
    return counts, [{**row, "_extra": row["_extra"] and json.loads(row["_extra"])} for row in found]


def expected(event: dict[str, Any]) -> dict[str, Any]:
    whole = {**dict.fromkeys(DOCUMENT["properties"]), **event}  # type: ignore[call-overload]
    whole["_extra"] = {name: whole.pop(name) for name in list(event) if name not in DOCUMENT["properties"]} or None
    if whole["inner"] is not None:
        deep = whole["inner"].get("deep")
        whole["inner"] = {**whole["inner"], "deep": (deep and [{"x": item.get("x")} for item in deep]) or deep}
    return whole


@examples(100)
@given(st.lists(st.tuples(st.lists(events, max_size=4), st.booleans(), st.integers(1, 10_000)), max_size=6))
def test_a_body_that_is_left_leaves_no_trace(sent: list[tuple[list[dict[str, Any]], bool, int]]) -> None:
    """Some bodies are cut off somewhere: the rows of the others are all there is."""
    bodies, wanted, counts = [], [], []
    for body, spoilt, at in sent:
        raw = json.dumps(body, ensure_ascii=bool(at % 2)).encode()
        bodies.append(raw[: at % len(raw)] if spoilt else raw)
        counts.append(-1 if spoilt else len(body))
        wanted += [] if spoilt else [expected(event) for event in body]
    assert events_of(*bodies) == (counts, wanted)


@examples(150)
@given(st.lists(events, min_size=1, max_size=3), st.data())
def test_a_spoilt_byte_is_never_taken_for_another_value(sent: list[dict[str, Any]], data: st.DataObject) -> None:
    """Whatever is taken is what Python's own parser reads of the same bytes."""
    raw = bytearray(json.dumps(sent).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.sampled_from(b'"\\{}[]:,0129-+.eEnul \n\x00a\xc3'))
    counts, found = events_of(bytes(raw))
    if counts != [-1]:
        assert found == [expected(event) for event in json.loads(raw)]


FRAGMENTS = (
    b'"',
    b"\\",
    b"\\u",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"1e999",
    b"-",
    b"0.",
    b"\xf0\x9f",
    b"\x00",
    b"null",
    b"\n",
)


def spoilt(body: bytes, random_: random.Random) -> bytes:
    """The body with a few bytes cut, put in, repeated or changed."""
    for _ in range(random_.randint(1, 4)):
        at, length = random_.randrange(len(body) + 1), random_.randint(0, 12)
        piece = random_.choice([b"", random_.choice(FRAGMENTS), random_.randbytes(1), body[at : at + length] * 2])
        body = body[:at] + piece + body[at + random_.choice([0, 1, length]) :]
    return body


def test_bodies_with_damage_of_any_kind_are_taken_rightly_or_left() -> None:
    """Each round damages bodies that were taken; what is taken now has the value that Python reads."""
    random_ = random.Random(20_261_126)
    sound = [b'{"n":1,"few":["a",null],"inner":{"p":true,"deep":[{"x":[1.5]},{}]},"more":{"a":[1]}}',
             b'[{"n":-7,"text":"\\ud83d\\ude00\\n","real":1e-7,"at":"2026-01-05T10:00:00.5Z","day":"2026-01-05"}]',
             b'{"n":2,"kind":"b\xc3\xa9"}\n{"n":3,"flag":false,"free":[{"a":{}}]}\n']  # fmt: skip
    taken = 0
    for _ in range(examples(1_000).max_examples):
        bodies = [spoilt(random_.choice(sound), random_) for _ in range(random_.randint(1, 4))]
        form = random_.choice(["json", "ndjson"])
        counts, found = rows(READER, *bodies, form=form)
        values = [value for body, count in zip(bodies, counts, strict=True) if count >= 0 for value in read(body, form)]
        assert [row["n"] for row in found] == [value["n"] for value in values], bodies
        assert [row["few"] for row in found] == [value.get("few") for value in values], bodies
        taken += len(values)
    assert taken > 100  # damage leaves enough of them sound, so that both ways are tried


def read(body: bytes, form: str) -> list[Any]:
    if form == "ndjson":
        return [json.loads(line) for line in body.split(b"\n") if line.strip()]
    value = json.loads(body)
    return value if isinstance(value, list) else [value]


def test_threads_share_a_reader() -> None:
    def body(seed: int) -> Sequence[dict[str, Any]]:
        random_ = random.Random(seed)
        return [{"n": seed, "text": "x" * random_.randrange(500), "few": ["é"] * (i % 4)} for i in range(300)]

    def read(seed: int) -> bool:
        return events_of(json.dumps(body(seed)).encode())[1] == [expected(event) for event in body(seed)]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(60)))
