"""JSON-Schema-Test-Suite, draft-07 and 2020-12: where we support a schema, our verdicts are the suite's."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events import formats
from eagleray.cluster.events.judge import Judge
from eagleray.cluster.events.schema_dialects import DRAFT_7, DRAFT_2020
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import Submission
from eagleray.cluster.sections import EdgeConfig, StreamConfig

ROOT = Path(os.environ.get("EAGLERAY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
SUITE = ROOT / "jsonschema" / "JSON-Schema-Test-Suite" / "tests"
DRAFTS = {"draft7": DRAFT_7 + "#", "draft2020-12": DRAFT_2020}
FORMATS = tuple(formats.FORMATS)
UNSUPPORTED = (
    "nothing at",  # a folder that an `$id` below the top makes up
    "empty name",
    "differ by case only",
)
EXACTLY = (
    "outside the range of 64-bit integers",
    "an integer that no double-precision number holds exactly",
    "not an integer as written",
)
"""Rules of ours that come on top of the schema's: what cannot be stored exactly is refused."""


def wrapped(draft: str) -> dict[str, Any]:
    """An event schema whose property `v` is the schema in the file beside it."""
    properties = {"t": {"type": "integer"}, "v": {"$ref": "v.json"}}
    address = "http://localhost:1234/s.json"  # of the suite's remote files, which stand beside it
    return {
        "$schema": DRAFTS[draft], "$id": address, "type": "object", "properties": properties, "required": ["t"],
    }  # fmt: skip


def groups(draft: str) -> Iterator[tuple[str, dict[str, Any]]]:
    files = sorted((SUITE / draft).glob("*.json")) + sorted((SUITE / draft / "optional").glob("*.json"))
    files += [SUITE / draft / "optional" / "format" / f"{name}.json" for name in FORMATS]
    files = [file for file in files if file.exists()]  # draft-07 has no uuid
    for file in files:
        if draft == "draft2020-12" and file.stem == "format":
            continue  # there, formats do not assert by default; ours do, as the optional files ask
        if file.stem == "content":
            continue  # contentEncoding and contentMediaType are annotations to us, as to 2020-12
        for group in json.loads(file.read_text(encoding="utf-8")):
            yield file.stem, group


def judge_of(schema: Any, draft: str, directory: Path) -> Judge:
    (directory / "s.json").write_text(json.dumps(wrapped(draft)))
    stated = {"$schema": DRAFTS[draft], **schema} if isinstance(schema, dict) else schema
    (directory / "v.json").write_text(json.dumps(stated))
    config = Config(
        file=directory / "eagleray.yaml", streams={"s": StreamConfig(schema="s.json", time="t", time_unit="s")}
    )
    return Judge(load_streams(config)["s"], EdgeConfig(), 1)


def verdicts(judge: Judge, tests: list[dict[str, Any]]) -> list[tuple[str, bool, str]]:
    """Per test: its description, whether we accept it, and why not."""
    lines = [json.dumps({"t": 1, "v": test["data"]}, ensure_ascii=False).encode() for test in tests]
    (answer,) = judge.judge([Submission("s", "ndjson", b"\n".join(lines))], 10**15).answers
    refused = {index: detail for index, _, detail in answer.rejected}
    return [(test["description"], at not in refused, refused.get(at, "")) for at, test in enumerate(tests)]


@pytest.mark.skipif(not SUITE.exists(), reason=f"no JSON-Schema-Test-Suite at {SUITE}")
@pytest.mark.parametrize(("draft", "fewest"), [("draft7", 1500), ("draft2020-12", 1900)])
def test_our_verdicts_are_the_suites(
    draft: str, fewest: int, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    shutil.copytree(SUITE.parent / "remotes", tmp_path, dirs_exist_ok=True)
    for stem, group in groups(draft):
        try:
            judge = judge_of(group["schema"], draft, tmp_path)
        except ConfigError as error:
            assert any(reason in error.problem for reason in UNSUPPORTED), (stem, group["description"], error)
            counts["refused"] += len(group["tests"])
            continue
        for test, (name, accepted, why) in zip(group["tests"], verdicts(judge, group["tests"]), strict=True):
            counts["judged"] += 1
            if accepted != test["valid"] and not why.endswith(EXACTLY):
                wrong.append((stem, group["description"], name, accepted, why))
    print(draft, dict(counts))
    record_property("counts", dict(counts))
    assert not wrong, "\n".join(map(str, wrong))
    assert counts["judged"] >= fewest
