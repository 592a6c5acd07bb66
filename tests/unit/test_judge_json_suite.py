"""JSONTestSuite at the judge: every y_ is parsed, every n_ refused, every i_ decided as docs/json.md says, no crash."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.events.judge import Judge, Judged
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import Submission
from eagleray.cluster.sections import EdgeConfig, StreamConfig

ROOT = Path(os.environ.get("EAGLERAY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
SUITE = ROOT / "jsonparse" / "JSONTestSuite" / "test_parsing"
DECISIONS = Path(__file__).parents[2] / "docs" / "json.md"
pytestmark = pytest.mark.skipif(not SUITE.exists(), reason=f"no JSONTestSuite at {SUITE}")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    directory = tmp_path_factory.mktemp("suite")
    properties = {"t": {"type": "integer"}, "v": {}}
    (directory / "s.json").write_text(json.dumps({"type": "object", "properties": properties}))
    stream = StreamConfig(schema="s.json", time="t", time_unit="s")
    config = Config(file=directory / "eagleray.yaml", streams={"s": stream})
    return Judge(load_streams(config)["s"], EdgeConfig(), 1)


def judged(judge: Judge, form: str, body: bytes) -> Judged:
    return judge.judge([Submission("s", form, body)], 10**15)  # type: ignore[arg-type]


def read(result: Judged) -> bool:
    """Whether the JSON was taken as JSON, whatever then became of the event."""
    (answer,) = result.answers
    return answer.malformed is None and not {reason for _, reason, _ in answer.rejected} & {"json", "too_deep"}


def as_body(document: bytes) -> tuple[str, bytes]:
    return "json", document


def as_element(document: bytes) -> tuple[str, bytes]:
    return "json", b'[{"t":1},' + document + b"]"


def as_field(document: bytes) -> tuple[str, bytes]:
    return "json", b'{"t":1,"v":' + document + b"}"


def as_unknown_field(document: bytes) -> tuple[str, bytes]:
    return "json", b'{"t":1,"zz":' + document + b"}"


def as_line(document: bytes) -> tuple[str, bytes]:
    return "ndjson", b'{"t":1}\n{"t":1,"v":' + document.replace(b"\n", b" ").replace(b"\r", b" ") + b"}"


WAYS = [as_body, as_element, as_field, as_unknown_field, as_line]


def files(prefix: str) -> list[Path]:
    return sorted(SUITE.glob(f"{prefix}_*.json"))


@pytest.mark.parametrize("way", WAYS)
def test_well_formed_json_is_read(judge: Judge, way: Callable[[bytes], tuple[str, bytes]]) -> None:
    assert len(files("y")) == 95
    assert [f.name for f in files("y") if not read(judged(judge, *way(f.read_bytes())))] == []


@pytest.mark.parametrize("way", WAYS)
def test_malformed_json_is_refused(judge: Judge, way: Callable[[bytes], tuple[str, bytes]]) -> None:
    assert len(files("n")) == 188
    spaced = {"n_string_unescaped_newline.json"} if way is as_line else set()  # a line holds no newline to refuse
    assert {f.name for f in files("n") if read(judged(judge, *way(f.read_bytes())))} == spaced


@pytest.mark.parametrize("way", [as_body, as_element, as_field, as_line])
def test_what_the_standard_leaves_open_is_decided(judge: Judge, way: Callable[[bytes], tuple[str, bytes]]) -> None:
    table = re.findall(r"^\| `(i_\S+?)` \| (read|refused)", DECISIONS.read_text(encoding="utf-8"), re.MULTILINE)
    decisions = dict(table)
    assert set(decisions) == {f.stem for f in files("i")}
    found = {f.stem: "read" if read(judged(judge, *way(f.read_bytes()))) else "refused" for f in files("i")}
    if way is not as_body:
        decisions["i_structure_UTF-8_BOM_empty_object"] = "refused"  # a mark within a body is no white space
    assert found == decisions


def test_nothing_of_a_malformed_array_is_stored(judge: Judge) -> None:
    for file in files("n"):
        result = judged(judge, *as_element(file.read_bytes()))
        if result.answers[0].malformed is not None:
            assert result.batch.num_rows == 0
            assert result.rejects == []
