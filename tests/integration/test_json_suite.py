"""JSONTestSuite over HTTP: every y_ is parsed, every n_ refused, every i_ decided, as bodies and as array elements."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running_platform import RunningPlatform, eventually

pytestmark = pytest.mark.platform
TIME = "2026-01-01T00:00:00Z"
NOT_ONE_EVENT = {"n_structure_no_data.json", "n_single_space.json"}  # nothing, between brackets, is an empty array
SCALARS = {
    "y_structure_lonely_false.json",
    "y_structure_lonely_int.json",
    "y_structure_lonely_negative_real.json",
    "y_structure_lonely_null.json",
    "y_structure_lonely_string.json",
    "y_structure_lonely_true.json",
    "y_structure_string_empty.json",
}
"""Well-formed bodies that are neither an object nor an array: refused as a whole."""


@pytest.fixture(scope="module")
def documents(input_file: Callable[[str], Path]) -> dict[str, bytes]:
    """File name → bytes."""
    files = sorted(input_file("jsonparse/JSONTestSuite/test_parsing").iterdir())
    assert len(files) == 318
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(autouse=True)
def _nobody_dies(platform: RunningPlatform) -> object:
    before = platform.pids("edge") + platform.pids("validate")
    yield
    assert platform.pids("edge") + platform.pids("validate") == before


def _verdict(platform: RunningPlatform, body: bytes) -> str:
    """`read` if the body was parsed, whatever became of its events; `refused` if not; `too_deep`."""
    status, answer = platform.post("anything", body)
    if status == 400:
        assert answer["error"] in ("malformed", "too_deep"), answer
        return "refused"
    assert status == 200, (status, answer)
    reasons = {row["reason"] for row in answer["rejected"]}
    assert not reasons & {"future", "too_large"}
    return "refused" if reasons & {"json", "too_deep"} else "read"


def test_whole_bodies(platform: RunningPlatform, documents: dict[str, bytes]) -> None:
    verdicts = {name: _verdict(platform, body) for name, body in documents.items()}
    assert {name for name, verdict in verdicts.items() if name[0] == "y" and verdict != "read"} <= SCALARS
    assert {name for name, verdict in verdicts.items() if name[0] == "n" and verdict != "refused"} == set()


def test_array_elements(platform: RunningPlatform, documents: dict[str, bytes]) -> None:
    verdicts = {name: _verdict(platform, b"[" + body + b"]") for name, body in documents.items()}
    assert {name for name, verdict in verdicts.items() if name[0] == "y" and verdict != "read"} == set()
    assert {name for name, verdict in verdicts.items() if name[0] == "n" and verdict != "refused"} == NOT_ONE_EVENT


def test_free_form_fields_keep_what_can_be_parsed(platform: RunningPlatform, documents: dict[str, bytes]) -> None:
    one_line = {name: body for name, body in documents.items() if b"\n" not in body and b"\r" not in body}
    lines = [
        f'{{"id":"suite {name}","time":"{TIME}","data":{{"v":'.encode() + body + b"}}"
        for name, body in one_line.items()
    ]
    status, answer = platform.post("anything", b"\n".join(lines), "application/x-ndjson")
    assert status == 200
    rejected = {list(one_line)[row["index"]]: row["reason"] for row in answer["rejected"]}
    assert {name for name in rejected if name[0] == "y"} == set()
    assert {name for name in one_line if name[0] == "n"} <= rejected.keys()
    assert set(rejected.values()) <= {"json", "too_deep"}
    kept = one_line.keys() - rejected.keys()
    query = "SELECT id, data FROM anything.events WHERE starts_with(id, 'suite ')"
    stored = dict(eventually(lambda: rows if len(rows := platform.sql(query)) == len(kept) else None))
    for name in kept:
        data = stored[f"suite {name}"]
        assert _exactly(data if isinstance(data, str) else json.dumps(data)) == {
            "v": _exactly(documents[name].decode())
        }


def _exactly(text: str) -> object:
    """The value with numbers as they are written."""
    return json.loads(text, parse_int=str, parse_float=str)
