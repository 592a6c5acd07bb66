"""Schemas: what becomes of each kind of property, and what is refused before anything starts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.judge import Judge
from eagleray.cluster.events.model import is_plain, load_model
from eagleray.cluster.events.schema import EventSchema, load_schema
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import Submission
from eagleray.cluster.sections import EdgeConfig, StreamConfig

MODELS = """
import datetime
from typing import Any, Literal
from pydantic import BaseModel, ConfigDict, Field, field_validator

class Inner(BaseModel):
    a: int
    b: float | None = None

class Plain(BaseModel):
    id: str
    time: datetime.datetime
    n: int = Field(ge=0)
    kind: Literal["x", "y"] = "x"
    inner: Inner | None = None
    many: list[Inner] = []
    free: dict[str, Any] = {}

class Judging(Plain):
    model_config = ConfigDict(extra="forbid")

    @field_validator("n")
    @classmethod
    def even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value

class Breaking(Plain):
    @field_validator("n")
    @classmethod
    def fails(cls, value: int) -> int:
        raise KeyError("no such thing")

NOT_A_MODEL = 1
"""


def schema_of(directory: Path, properties: dict[str, Any], **more: Any) -> EventSchema:
    (directory / "s.json").write_text(json.dumps({"type": "object", "properties": properties, **more}))
    return load_schema("eagleray.yaml: streams.s.schema", "s.json", directory)


def test_every_kind_of_property_has_its_column(tmp_path: Path) -> None:
    found = schema_of(
        tmp_path,
        {
            "text": {"type": "string"},
            "whole": {"type": ["integer", "null"]},
            "real": {"type": "number"},
            "flag": {"type": "boolean"},
            "at": {"type": "string", "format": "date-time"},
            "on": {"type": "string", "format": "date"},
            "list": {"type": "array", "items": {"type": "integer"}},
            "struct": {"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}},
            "free": {"type": "object"},
            "either": {"type": ["string", "integer"]},
            "union": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "enum": {"enum": ["a", "b"]},
            "tree": {"$ref": "#/$defs/tree"},
        },
        **{
            "$defs": {
                "x": {"type": "number"},
                "tree": {"type": "object", "properties": {"below": {"$ref": "#/$defs/tree"}}},
            }
        },
    ).arrow
    types = {field.name: field.type for field in found}
    assert types == {
        "text": pa.string(),
        "whole": pa.int64(),
        "real": pa.float64(),
        "flag": pa.bool_(),
        "at": pa.timestamp("us", "UTC"),
        "on": pa.date32(),
        "list": pa.list_(pa.int64()),
        "struct": pa.struct([("x", pa.float64())]),
        "free": pa.string(),
        "either": pa.string(),
        "union": pa.string(),
        "enum": pa.string(),
        "tree": pa.struct([("below", pa.string())]),
    }
    assert {f.name for f in found if f.metadata == {b"json": b"1"}} == {"free", "either"}


LEADS_BACK = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/x"}]}


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/x"}}}, "nothing at #/$defs/x"),
        ({"properties": {"a": {"$ref": "other.json"}}}, "s.json#/properties/a/$ref"),
        ({"properties": {"a": {"$ref": "https://example.com/a.json"}}}, "a.json is not fetched"),
        ({"properties": {"a": {}}, "$schema": "https://example.com/own"}, "s.json#/$schema"),
        ({"properties": {"a": {"patternProperties": {"(": True}}}}, "s.json#/properties/a/patternProperties"),
        ({"allOf": [{"$ref": "#"}]}, "lead in a circle: # → #"),
        (
            {
                "properties": {"a": {"$ref": "#/$defs/x"}},
                "$defs": {"x": {"not": {"$ref": "#/$defs/y"}}, "y": LEADS_BACK},
            },
            "lead in a circle: #/$defs/x → #/$defs/y → #/$defs/x",
        ),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "lead in a circle: #/$defs/a → #/$defs/a"),
        (
            {"openapi": "3.0.0", "components": {"schemas": {"Order": {}}}},
            "s.json#/components/schemas/NAME (it has Order)",
        ),
        ({"properties": {"a": {"pattern": "("}}}, "s.json#/properties/a/pattern"),
        (
            {"properties": {"a": {"type": "text"}}},
            "s.json#/properties/a/type: not a JSON Schema: 'text' is no type; expected",
        ),
        ({"properties": {"a": {}, "A": {}}}, "differ by case"),
        ({"properties": {"a": {}}, "required": ["b"], "additionalProperties": False}, "s.json#/required"),
        ({"type": "object"}, "expected an object with properties"),
        ({"type": "array", "properties": {"a": {}}}, "s.json#/type"),
        ([], "expected a JSON object"),
    ],
)
def test_what_is_not_supported_is_refused_by_file_and_pointer(tmp_path: Path, document: Any, named: str) -> None:
    (tmp_path / "s.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError) as caught:
        load_schema("eagleray.yaml: streams.s.schema", "s.json", tmp_path)
    assert named in str(caught.value)
    assert str(caught.value).startswith("eagleray.yaml: streams.s.schema: ")


def test_a_file_that_is_missing_or_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file: .*absent\.json"):
        load_schema("here", "absent.json", tmp_path)
    (tmp_path / "s.json").write_text('{"properties": {"a": {"minimum": 1e999}}}')
    with pytest.raises(ConfigError, match="not a number that can be held"):
        load_schema("here", "s.json", tmp_path)


def test_a_time_or_id_of_several_types_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps({"properties": {"t": {}, "u": {"type": "string"}}}))
    config = Config(file=tmp_path / "eagleray.yaml", streams={"s": StreamConfig(schema="s.json", time="t")})
    with pytest.raises(ConfigError, match=r"streams\.s\.time: t has no one type"):
        load_streams(config)


@pytest.fixture
def models(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    name = f"models_of_{abs(hash(request.node.name))}"  # modules are imported once a process
    (tmp_path / f"{name}.py").write_text(MODELS)
    return name, tmp_path


def judge_of(models: tuple[str, Path], model: str) -> Judge:
    name, directory = models
    stream = StreamConfig(schema=f"{name}:{model}", time="time", id="id")
    return Judge(load_streams(Config(file=directory / "e.yaml", streams={"s": stream}))["s"], EdgeConfig(), 1)


def verdicts(judge: Judge, *events: dict[str, Any]) -> list[str]:
    """Per event: accepted, or reason and detail."""
    body = "\n".join(json.dumps({"id": str(at), "time": "2026-01-01T00:00:00Z", **e}) for at, e in enumerate(events))
    (answer,) = judge.judge([Submission("s", "ndjson", body.encode())], 1_800_000_000_000_000).answers
    rejected = {index: f"{reason} {detail}" for index, reason, detail in answer.rejected}
    return [rejected.get(at, "accepted") for at in range(len(events))]


def test_a_plain_model_is_as_fast_as_its_json_schema(models: tuple[str, Path]) -> None:
    name, directory = models
    found = load_schema("here", f"{name}:Plain", directory)
    assert found.arrow.field("inner").type == pa.struct([("a", pa.int64()), ("b", pa.float64())])
    assert found.model is not None
    assert is_plain(load_model("here", found.model))
    assert pickle.loads(pickle.dumps(found)) == found
    judging = load_schema("here", f"{name}:Judging", directory)
    assert judging.model is not None
    assert not is_plain(load_model("here", judging.model))


def test_a_models_validators_have_the_last_word(models: tuple[str, Path]) -> None:
    judge = judge_of(models, "Judging")
    found = verdicts(judge, {"n": 2}, {"n": 3}, {"n": -2}, {"n": 2, "more": 1}, {"n": 2.5}, {"n": 4, "kind": "z"})
    assert [verdict.split(" ")[0] for verdict in found] == ["accepted", *["schema"] * 5]
    assert found[1] == "schema n: Value error, must be even"


def test_a_model_that_fails_rejects_the_event_and_no_other(models: tuple[str, Path]) -> None:
    (found,) = verdicts(judge_of(models, "Breaking"), {"n": 2})
    assert found.startswith("schema the model failed: KeyError")
    assert verdicts(judge_of(models, "Plain"), {"n": 3}, {"n": "3"}) == [
        "accepted",
        "schema n: '3' is not of type 'integer'",
    ]


@pytest.mark.parametrize("reference", ["no_such_module:Model", "{}:NOT_A_MODEL", "{}:Absent"])
def test_a_model_that_cannot_be_loaded_is_named(models: tuple[str, Path], reference: str) -> None:
    name, directory = models
    with pytest.raises(ConfigError, match="here: "):
        load_schema("here", reference.format(name), directory)
