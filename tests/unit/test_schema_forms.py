"""Schemas as the world writes them: whatever the dialect, the files and the unions, columns and verdicts are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eagleray.cli.app import main
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events import shape as shape_module
from eagleray.cluster.events.judge import Judge
from eagleray.cluster.events.schema import load_schema
from eagleray.cluster.events.shape import Shape
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import Submission
from eagleray.cluster.sections import EdgeConfig, StreamConfig
from tests.examples import examples
from tests.unit.test_judge_agrees import EDGE, NOW_US, assert_same, by_arbiter, general

TIME = {"t": {"type": "integer"}}


def judge_of(directory: Path, document: Any, reference: str = "s.json") -> Judge:
    if document is not None:
        (directory / "s.json").write_text(json.dumps(document))
    stream = StreamConfig(schema=reference, time="t", time_unit="s")
    return Judge(load_streams(Config(file=directory / "eagleray.yaml", streams={"s": stream}))["s"], EdgeConfig(), 1)


def types(judge: Judge) -> dict[str, str]:
    return {field.name: str(field.type) for field in judge.stream.events.arrow if field.name != "t"}


def accepted(judge: Judge, *events: dict[str, Any]) -> list[bool]:
    lines = [json.dumps({"t": 1, **event}).encode() for event in events]
    (answer,) = judge.judge([Submission("s", "ndjson", b"\n".join(lines))], NOW_US).answers
    refused = {index for index, _, _ in answer.rejected}
    return [at not in refused for at in range(len(events))]


def v(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {**TIME, "v": schema}, **more}


DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DIALECTS = [
    (v({"type": "number", "minimum": 0, "exclusiveMinimum": True}, **{"$schema": DRAFT_4}), [1], [0]),
    (v({"type": "number", "minimum": 0, "exclusiveMinimum": True}), [1], [0]),
    (v({"type": "string"}, **{"$schema": DRAFT_4, "id": "http://x.example/a#", "required": []}), ["a"], [1]),
    (v({"const": 1}, **{"$schema": DRAFT_4}), [1, 2], []),  # no word of draft 04
    (v({"const": 1}, **{"$schema": "http://json-schema.org/draft-06/schema#"}), [1], [2]),
    (v({"if": {"const": 1}, "else": False}, **{"$schema": "http://json-schema.org/draft-06/schema"}), [2], []),
    (v({"items": [{"type": "string"}]}, **{"$schema": "http://json-schema.org/draft-07/schema#"}), [["a", 1]], [[1]]),
    (v({"items": [{"type": "string"}], "additionalItems": False}), [["a"]], [["a", 1]]),
    (
        v({"dependentRequired": {"a": ["b"]}}, **{"$schema": "https://json-schema.org/draft/2019-09/schema"}),
        [{}],
        [{"a": 1}],
    ),
    (v({"type": "object", "dependencies": {"a": ["b"]}}), [{"b": 1}], [{"a": 1}]),
    (v({"type": "string", "nullable": True, "example": "x", "xml": {}}), [None, "a"], [1]),
    (v({"type": "string", "enum": ["a"], "nullable": True}), [None, "a"], ["b"]),
    (
        v({"allOf": [{"$ref": "#/$defs/x"}], "nullable": True}, **{"$defs": {"x": {"type": "integer"}}}),
        [None, 1],
        ["b"],
    ),
    (
        v({"oneOf": [{"type": "null", "title": "Not included"}, {"type": "string", "connect.index": 1}]}),
        [None, "a"],
        [1],
    ),
    (
        v(
            {"type": "string", "maxLength": 2},
            **{
                "$schema": "http://iglucentral.com/schemas/com.snowplowanalytics.self-desc/schema/jsonschema/1-0-0#",
                "self": {"vendor": "com.acme", "name": "x", "format": "jsonschema", "version": "1-0-0"},
            },
        ),
        ["ab"],
        ["abc"],
    ),
    (v({"type": "string", "format": "made-up"}), ["a"], [1]),
    (v({"type": "string", "format": "ipv4"}), ["10.0.0.1"], ["10.0.0.256"]),
    (v({"type": "string", "format": "duration"}), ["PT1H"], ["1h"]),
]


@pytest.mark.parametrize(("document", "good", "bad"), DIALECTS)
def test_every_dialect_is_held_as_it_means(tmp_path: Path, document: Any, good: list[Any], bad: list[Any]) -> None:
    judge = judge_of(tmp_path, document)
    assert accepted(judge, *({"v": value} for value in good)) == [True] * len(good)
    assert accepted(judge, *({"v": value} for value in bad)) == [False] * len(bad)


def test_references_lead_to_files_ids_and_anchors(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "address.json").write_text(
        json.dumps(
            {
                "$id": "https://x.example/address",
                "type": "object",
                "properties": {"zip": {"$ref": "#zip"}},
                "$defs": {"z": {"$anchor": "zip", "type": "string", "maxLength": 5}},
            }
        )
    )
    (tmp_path / "user.schema.json").write_text(
        json.dumps(
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "object",
                "properties": {"id": {"type": "integer"}, "home": {"$ref": "parts/address.json"}},
            }
        )
    )
    document = v({}, **{"$id": "https://x.example/event"})
    document["properties"] |= {
        "a": {"$ref": "user.schema.json"},
        "b": {"$ref": "user.schema.json#/properties/id", "minimum": 1},
        "c": {"$ref": "/address"},
        "d": {"$ref": "inner"},
        "e": {"$ref": "user"},
    }
    document["$defs"] = {
        "own": {"$id": "inner", "type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "number"}}}
    }
    judge = judge_of(tmp_path, document)
    assert types(judge) == {
        "v": "string",
        "a": "struct<id: int64, home: struct<zip: string>>",
        "b": "int64",
        "c": "struct<zip: string>",
        "d": "list<item: double>",
        "e": "struct<id: int64, home: struct<zip: string>>",
    }
    sent = [
        {"a": {"home": {"zip": "12345"}}},
        {"a": {"home": {"zip": "123456"}}},
        {"b": 0},
        {"c": {"zip": 1}},
        {"d": ["x"]},
    ]
    assert accepted(judge, *sent) == [True, False, False, False, False]


OWN = "https://x.example/meta"


def test_a_schema_of_ones_own_dialect_is_read_by_the_vocabularies_that_its_meta_schema_states(tmp_path: Path) -> None:
    vocab = "https://json-schema.org/draft/2020-12/vocab/"
    known = {f"{vocab}core": True, f"{vocab}applicator": True, "https://x.example/units": False}
    meta: dict[str, Any] = {"$id": OWN, "$schema": "https://json-schema.org/draft/2020-12/schema"}
    document = v({"minimum": 5, "unit": "s"}, **{"$schema": OWN})
    with pytest.raises(ConfigError, match=r"s.json#/\$schema.*'https://x.example/meta' is not supported"):
        judge_of(tmp_path, document)
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "$vocabulary": known}))
    assert accepted(judge_of(tmp_path, document), {"v": 1}, {"v": 9}) == [True, True]  # there, it is an annotation
    for more in ({"$vocabulary": {**known, f"{vocab}validation": True}}, {}):
        (tmp_path / "meta.json").write_text(json.dumps({**meta, **more}))
        assert accepted(judge_of(tmp_path, document), {"v": 1}, {"v": 9}) == [False, True]
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "$vocabulary": {"https://x.example/units": True}}))
    with pytest.raises(ConfigError, match=r"needs the vocabulary https://x.example/units"):
        judge_of(tmp_path, document)
    (tmp_path / "meta.json").write_text(json.dumps({"$id": OWN, "$schema": OWN}))
    with pytest.raises(ConfigError, match="is not supported"):
        judge_of(tmp_path, document)


@pytest.mark.parametrize("draft", ["2020-12", "2019-09"])
def test_a_dynamic_reference_leads_where_the_way_there_says(draft: str, tmp_path: Path) -> None:
    anchor = {"$dynamicAnchor": "node"} if draft == "2020-12" else {"$recursiveAnchor": True}
    again = {"$dynamicRef": "#node"} if draft == "2020-12" else {"$recursiveRef": "#"}
    tree = {
        "$id": "tree",
        **anchor,
        "type": "object",
        "properties": {"n": {}, "kids": {"type": "array", "items": again}},
    }
    strict = {"$id": "strict", **anchor, "$ref": "tree", "unevaluatedProperties": False}
    document = v(
        {"$ref": "tree"}, **{"$schema": f"https://json-schema.org/draft/{draft}/schema", "$id": "http://x.example/"}
    )
    document["properties"]["w"] = {"$ref": "strict"}
    document["$defs"] = {"tree": tree, "strict": strict}
    judge = judge_of(tmp_path, document)
    deep, wrong = {"n": 1, "kids": [{"kids": []}]}, {"kids": [{"kids": [{"kidz": []}]}]}
    assert accepted(judge, {"v": deep}, {"v": wrong}, {"w": deep}, {"w": wrong}) == [True, True, True, False]


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^\p{Lu}\p{Ll}+$", "Élan", "élan"),
        (r"^[\p{L}\p{gc=Decimal_Number} _-]+$", "naïve ٣_", "a.b"),
        (r"^\P{L}+$", "12 ·", "1a"),
        (r"^[^\P{L}]$", "ß", "1"),
        (r"^\cJ$", "\n", "J"),
    ],
)
def test_patterns_know_the_general_categories_of_characters(pattern: str, good: str, bad: str, tmp_path: Path) -> None:
    for schema in ({"pattern": pattern, "type": "string"}, {"propertyNames": {"pattern": pattern}}):
        judge = judge_of(tmp_path, v(schema))
        values = (good, bad) if "type" in schema else ({good: 1}, {bad: 1})
        assert accepted(judge, *({"v": value} for value in values)) == [True, False]
    with pytest.raises(ConfigError, match=r"\\p\{Script=Greek\} is not supported"):
        judge_of(tmp_path, v({"pattern": r"\p{Script=Greek}"}))


def test_a_schema_may_be_a_part_of_a_description_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(
        "openapi: 3.0.3\ncomponents:\n  schemas:\n    Money: {type: object, properties: {cents: {type: integer}}}\n"
        "    Order:\n      type: object\n      properties:\n        t: {type: integer}\n"
        "        on: {type: string, format: date, example: 2020-01-01}\n"
        "        total: {nullable: true, allOf: [{$ref: '#/components/schemas/Money'}]}\n"
    )
    judge = judge_of(tmp_path, None, "api.yaml#/components/schemas/Order")
    assert types(judge) == {"on": "date32[day]", "total": "struct<cents: int64>"}
    assert accepted(judge, {"total": None}, {"total": {"cents": "1"}}) == [True, False]
    with pytest.raises(ConfigError, match=r"nothing at #/components/schemas/None"):
        judge_of(tmp_path, None, "api.yaml#/components/schemas/None")


def columns(shape: Shape) -> int:
    return sum(1 + columns(member.shape) for member in shape.members)


A = {"properties": {"kind": {"const": "a"}, "n": {"type": "integer"}}, "required": ["kind", "n"]}
B = {"properties": {"kind": {"const": "b"}, "s": {"type": "string"}}, "required": ["kind", "s"]}


def test_a_union_at_the_top_has_the_columns_of_all_its_branches(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, {"properties": TIME, "oneOf": [A, B]})
    assert types(judge) == {"kind": "string", "n": "int64", "s": "string"}
    sent = [
        {"kind": "a", "n": 1},
        {"kind": "b", "s": "x"},
        {"kind": "a", "s": "x"},
        {"kind": "c"},
        {"kind": "b", "s": 1},
    ]
    assert accepted(judge, *sent) == [True, True, False, False, False]


def test_a_value_that_a_branch_leaves_open_and_no_column_holds_is_kept(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, {"properties": TIME, "oneOf": [A, B]})
    event = {"t": 1, "kind": "b", "s": "x", "n": {"any": "thing"}}
    for body in (event, {**event, "more": [1]}):
        judged = judge.judge([Submission("s", "json", json.dumps(body).encode())], NOW_US)
        (row,) = judged.batch.to_pylist()
        assert (row["kind"], row["s"], row["n"]) == ("b", "x", None)
        assert json.loads(row["_extra"]) == {name: body[name] for name in ("n", "more") if name in body}


def test_a_field_that_only_some_branches_declare_is_no_time(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="declared by some branches"):
        judge_of(tmp_path, {"oneOf": [{"properties": TIME}, {"properties": {"x": {}}}]})


def test_conditions_are_held_and_what_they_name_are_columns(tmp_path: Path) -> None:
    document = v(
        {"type": "string"},
        **{
            "if": {"properties": {"v": {"const": "card"}}, "required": ["v"]},
            "then": {"properties": {"number": {"type": "string", "minLength": 4}}, "required": ["number"]},
        },
    )
    judge = judge_of(tmp_path, document)
    assert types(judge) == {"v": "string", "number": "string"}
    sent = [{"v": "cash"}, {"v": "card"}, {"v": "card", "number": "1"}, {"v": "card", "number": "1234"}]
    assert accepted(judge, *sent) == [True, False, False, True]


def test_whole_events_may_be_listed(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, v({"type": "object"}, allOf=[{"enum": [{"t": 1, "v": {}}, {"t": 1, "v": {"a": 1}}, 7]}]))
    assert accepted(judge, {"v": {}}, {"v": {"a": 1}}, {"v": {"a": 2}}, {}) == [True, True, False, False]
    for listed in ({"enum": [1, "a", None]}, {"const": 7}):
        with pytest.raises(ConfigError, match="no object satisfies it"):
            judge_of(tmp_path, v({"type": "object"}, allOf=[listed]))


def test_all_of_narrows_and_merges(tmp_path: Path) -> None:
    base = {
        "type": "object",
        "properties": {"state": {"type": "string"}, "n": {"type": ["integer", "null"]}},
        "required": ["n"],
    }
    narrow = {
        "properties": {"state": {"enum": ["open"]}, "n": {"type": "integer", "minimum": 1}, "more": {"type": "boolean"}}
    }
    judge = judge_of(tmp_path, v({"allOf": [base, narrow], "required": ["state"]}))
    assert types(judge) == {"v": "struct<state: string, n: int64, more: bool>"}
    sent: list[Any] = [
        {"state": "open", "n": 1},
        {"state": "shut", "n": 1},
        {"state": "open", "n": None},
        {"n": 1},
        {"state": "open", "n": 1, "more": 1},
    ]
    assert accepted(judge, *({"v": value} for value in sent)) == [True, False, False, False, False]


def test_a_schema_that_would_become_too_many_columns_becomes_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shape_module, "SHAPES_MAX", 300)
    names = [f"n{at}" for at in range(7)]
    every = {name: {"$ref": f"#/$defs/{name}"} for name in names}
    document = v({}, **{"$defs": {name: {"type": "object", "properties": every} for name in names}})
    document["properties"] |= every
    judge = judge_of(tmp_path, document)
    assert 8 < columns(judge.stream.events.shape()) <= 300
    assert accepted(judge, {"n1": {"n2": {"n3": {"n4": {"n5": {}}}}}}, {"n1": {"n2": {"n3": {"n4": {"n5": 1}}}}}) == [
        True,
        False,
    ]


def test_what_becomes_of_a_schema_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    document = v({"type": "object", "oneOf": [A, B]}, additionalProperties=False)
    document["properties"] |= {
        "p": {"type": ["string", "integer"], "minLength": 1},
        "l": {"type": "array", "items": {"type": "number"}},
    }
    (tmp_path / "s.json").write_text(json.dumps(document))
    with pytest.raises(SystemExit) as ended:
        main(["schema", "show", "s.json"])
    assert not ended.value.code
    said = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1] for line in said.splitlines() if line and line[0] != " "}
    assert {name: rows[name] for name in ("t", "l", "l[]", "p")} == {
        "t": "long",
        "l": "list",
        "l[]": "double",
        "p": "json",
    }
    assert "6 leaves, 5 of them typed, 1 JSON text" in said
    assert "minLength" in said and "oneOf" in said and "are rejected" in said


PARTS = st.sampled_from(
    [
        {"type": "object"},
        {"type": "integer"},
        {"type": ["integer", "null"]},
        {"type": "string"},
        {"minimum": 2},
        {"minLength": 1},
        {"enum": [1, 2, "a", None]},
        {"not": {"enum": ["a", 3]}},
        {"pattern": "^a"},
        {"format": "date-time"},
        {"properties": {"p": {"type": "integer"}}},
        {"properties": {"p": {"type": ["string", "null"]}, "q": {"type": "boolean"}}, "required": ["p"]},
        {"properties": {"q": {"const": True}}, "additionalProperties": False},
        {"patternProperties": {"^p": {"type": ["string", "integer"]}}, "additionalProperties": False},
        {"patternProperties": {"q": {"minimum": 1}}},
        {"additionalProperties": {"type": "integer"}},
        {"dependentRequired": {"p": ["q"]}},
        {"dependentSchemas": {"p": {"properties": {"r": {"type": "integer"}}}}},
        {"propertyNames": {"maxLength": 1}},
        {"minProperties": 1},
        {"maxProperties": 1},
        {"if": {"required": ["p"]}, "then": {"properties": {"q": {"type": "integer"}}}, "else": {"required": ["r"]}},
        {"unevaluatedProperties": False},
        {"items": {"type": "integer"}},
        {"prefixItems": [{"type": "integer"}], "items": {"type": "string"}},
        {"contains": {"const": 1}},
        {"$ref": "#/$defs/tree"},
        {"$ref": "#/$defs/p"},
        True,
    ]
)
SCHEMAS = st.recursive(
    PARTS,
    lambda below: st.one_of(
        st.builds(
            lambda word, parts: {word: parts},
            st.sampled_from(["allOf", "anyOf", "oneOf"]),
            st.lists(below, min_size=1, max_size=3),
        ),
        st.builds(lambda a, b: {**a, "allOf": [b]} if isinstance(a, dict) and "allOf" not in a else b, below, below),
        st.builds(lambda s: {"type": "object", "properties": {"p": s, "q": {}}}, below),
        st.builds(lambda s: {"type": "array", "items": s}, below),
    ),
    max_leaves=5,
)
DEFS = {
    "tree": {"type": "object", "properties": {"v": {"type": "integer"}, "p": {"$ref": "#/$defs/tree"}}},
    "p": {"properties": {"p": {"type": "integer"}}, "required": ["p"]},
}
VALUES = st.recursive(
    st.sampled_from([None, True, 0, 1, 2, 3, 2.5, "", "a", "b", "2020-01-01T00:00:00Z", {}, []]),
    lambda below: st.one_of(st.lists(below, max_size=2), st.dictionaries(st.sampled_from("pqrv"), below, max_size=3)),
    max_leaves=4,
)


LISTED = {"allOf": [{"enum": [1, 2, "a", None]}]}  # and no object, no array


@example({"allOf": [LISTED, {"type": "object", "properties": {"p": {}}}]}, {}, False, [({}, None), (None, None)])
@example({"allOf": [LISTED, {"type": ["object", "null"], "properties": {"p": {}}}]}, {}, False, [({}, 1), (None, 1)])
@example(
    {"allOf": [LISTED, {"type": ["array", "null"], "items": {"type": "integer"}}]}, {}, False, [([], 1), (None, 1)]
)
@example({"allOf": [LISTED, {"type": "object"}]}, {}, False, [({}, None), (None, None)])
@examples(60)
@given(SCHEMAS, SCHEMAS, st.booleans(), st.lists(st.tuples(VALUES, VALUES), min_size=3, max_size=8))
def test_any_composition_is_judged_as_the_library_judges_it_and_on_every_path_alike(
    tmp_path_factory: pytest.TempPathFactory, schema: Any, top: Any, closed: bool, values: list[tuple[Any, Any]]
) -> None:
    document = v(schema, **{"$defs": DEFS, "allOf": [top]}, **({"additionalProperties": False} if closed else {}))
    document["required"] = ["t"]
    directory = tmp_path_factory.mktemp("form")
    try:
        judge = judge_of(directory, document)
    except ConfigError:  # such as properties that nothing can have
        return
    events = [
        {"t": 1, "v": value, **(more if isinstance(more, dict) and "v" not in more else {})} for value, more in values
    ]
    lines = [json.dumps(event).encode() for event in events]
    judge = Judge(judge.stream, EDGE, 1)
    slow = by_arbiter(judge.stream, lines)
    for fast in (judge, general(judge.stream)):
        assert_same(fast.judge([Submission("s", "ndjson", b"\n".join(lines))], NOW_US), slow)
        each = [fast.judge([Submission("s", "ndjson", line)], NOW_US) for line in lines]
        assert pa.concat_tables([pa.table(one.batch) for one in each]).to_pylist() == slow.batch.to_pylist()
    library = jsonschema.Draft202012Validator(document, format_checker=jsonschema.FormatChecker(["date-time"]))
    refused = {index for index, _, _ in slow.answers[0].rejected}
    assert [at not in refused for at in range(len(events))] == [library.is_valid(event) for event in events]


def test_a_document_is_the_same_whatever_file_order_and_can_be_sent_to_workers(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(v({"$ref": "#/$defs/tree"}, **{"$defs": DEFS})))
    found = load_schema("here", "s.json", tmp_path)
    assert found.document == load_schema("here", "s.json", tmp_path).document
    assert set(found.document["$defs"]) == {"tree"}
