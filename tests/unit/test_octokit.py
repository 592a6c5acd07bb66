"""The largest public catalogue of events, as it is published: every schema loads, every example comes back equal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.events.arrow_types import JSON_METADATA
from eagleray.cluster.events.judge import Judge
from eagleray.cluster.events.schema import load_schema
from eagleray.cluster.events.shape import Shape
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import Submission
from eagleray.cluster.sections import EdgeConfig, StreamConfig

ROOT = Path(os.environ.get("EAGLERAY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data") / "octokit"
SCHEMAS = sorted(path for path in (ROOT / "schemas").glob("*/*.json") if path.parent.name != "common")
NOW_US = 1_800_000_000_000_000
TYPED_LEAST = 0.85  # of leaves: columns of a type of their own

pytestmark = pytest.mark.skipif(not SCHEMAS, reason=f"no schemas of octokit at {ROOT}")


def leaves(shape: Shape, path: str = "") -> Iterator[tuple[str, Shape]]:
    if shape.kind == "struct":
        for member in shape.members:
            yield from leaves(member.shape, f"{path}.{member.name}")
    elif shape.item is not None:
        yield from leaves(shape.item, f"{path}[]")
    else:
        yield path, shape


def test_every_schema_loads_as_it_is_and_nearly_all_its_leaves_are_typed() -> None:
    why: dict[str, Any] = {}
    total = typed = 0
    for path in SCHEMAS:
        shape = load_schema("streams.s.schema", path.relative_to(ROOT / "schemas").as_posix(), ROOT / "schemas").shape()
        for name, leaf in leaves(shape):
            total += 1
            typed += leaf.kind != "json"
            if leaf.kind == "json":
                why[name] = leaf.schema
    assert len(SCHEMAS) >= 38
    assert typed / total >= TYPED_LEAST, (typed, total)
    for name, schema in why.items():  # the others are of several types, of any name, or free
        assert is_open(schema), (name, schema)


def is_open(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return True
    several = isinstance(schema.get("type"), list) or "oneOf" in schema or "anyOf" in schema
    free = schema.get("type") in ("object", "array") and not schema.get("properties")
    return several or free or schema.get("type") == "null" or "$ref" in schema or "allOf" in schema or not schema


def value(found: Any, field: pa.Field) -> Any:
    """A value of a column as JSON has it; absent fields left out, as null fields are."""
    if found is None:
        return None
    if (field.metadata or {}).items() >= JSON_METADATA.items():
        return plain(json.loads(found))
    if pa.types.is_struct(field.type):
        return plain({f.name: value(found[f.name], f) for f in field.type})
    if pa.types.is_list(field.type):
        return [value(item, field.type.value_field) for item in found]
    return found


def plain(sent: Any) -> Any:
    """JSON without null fields, which tables do not tell from absent ones."""
    if isinstance(sent, dict):
        return {name: plain(below) for name, below in sent.items() if below is not None}
    return [plain(item) for item in sent] if isinstance(sent, list) else sent


def same(sent: Any, found: Any) -> bool:
    if isinstance(sent, dict) and isinstance(found, dict):
        return sent.keys() == found.keys() and all(same(sent[name], found[name]) for name in sent)
    if isinstance(sent, list) and isinstance(found, list):
        return len(sent) == len(found) and all(map(same, sent, found))
    return sent == found or (isinstance(found, datetime) and datetime.fromisoformat(sent) == found)


def with_time(path: Path, directory: Path) -> Path:
    """The schema with the time field that these events have none of, beside the files that it refers to."""
    document = json.loads(path.read_text())
    document["properties"]["received_at"] = {"type": "string", "format": "date-time"}
    if not (directory / "common").exists():
        (directory / "common").symlink_to(ROOT / "schemas" / "common")
    file = directory / f"{path.parent.name}.{path.name}"
    file.write_text(json.dumps(document))
    return file


def schema_of(payload: dict[str, Any], kind: str) -> list[Path]:
    """The schemas that describe a payload: of its event, and of its action where there are several."""
    names = (f"{payload.get('action')}.schema.json", "event.schema.json")
    return [path for path in SCHEMAS if path.parent.name == kind and path.name in names]


def test_every_example_is_accepted_and_comes_back_equal(tmp_path: Path) -> None:
    judges: dict[Path, Judge] = {}
    examples = 0
    for file in sorted((ROOT / "payloads").glob("*/*.json")):
        sent = json.loads(file.read_text()) | {"received_at": "2026-01-01T00:00:00Z"}
        for path in schema_of(sent, file.parent.name):
            if path not in judges:
                stream = StreamConfig(schema=with_time(path, tmp_path).name, time="received_at")
                config = Config(file=tmp_path / "eagleray.yaml", streams={"s": stream})
                judges[path] = Judge(load_streams(config)["s"], EdgeConfig(), 1)
            judged = judges[path].judge([Submission("s", "json", json.dumps(sent).encode())], NOW_US)
            assert judged.answers[0].accepted == 1, (file.name, judged.answers[0])
            (row,) = judged.batch.to_pylist()
            schema = judges[path].stream.events.arrow
            found = plain({field.name: value(row[field.name], field) for field in schema})
            found |= json.loads(row["_extra"] or "{}")
            assert same(plain(sent), found), file.name
            examples += 1
    assert examples >= 38, examples
