"""Small events that become much: what a batch becomes is bounded, and only what is too much is refused."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.config import Config
from eagleray.cluster.events import array_items, fast_path
from eagleray.cluster.events.array_items import exceeds, items
from eagleray.cluster.events.judge import Judge
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import Form, Submission
from eagleray.cluster.sections import EdgeConfig
from tests.examples import examples

MIB = 1 << 20
FIELDS = {f"f{n}": {"type": kind} for n, kind in enumerate(["string", "integer", "number", "boolean"] * 4)}
DOCUMENT = {
    "type": "object",
    "properties": {
        "time": {"type": "string", "format": "date-time"},
        "items": {"type": "array", "items": {"type": "object", "properties": FIELDS}},
        "any": {},
    },
    "required": ["time"],
}
TIME = "2026-01-01T00:00:00Z"
PROGRAM = """
import json, resource, sys
from pathlib import Path
from eagleray.actors.validate.worker import ValidateWorker
from eagleray.cluster.config import Config
from eagleray.cluster.events.verdict import Submission
import gzip
streams = {"s": {"schema": "s.json", "time": "time"}}
config = {"file": sys.argv[1] + "/e.yaml", "data_dir": sys.argv[1] + "/data", "streams": streams}
worker = ValidateWorker(Config.model_validate(config))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answers = []
for file in sys.argv[2:]:
    answer = worker.submit([Submission("s", "ndjson", gzip.decompress(Path(file).read_bytes()))])[0]
    answers.append([answer.accepted, sorted({reason for _, reason, _ in answer.rejected}), len(answer.rejected)])
worker.close()
print(json.dumps([answers, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


def event(count: int, item: str = "{}", name: str = "items") -> str:
    return f'{{"time":"{TIME}","{name}":[{",".join([item] * count)}]}}'


def test_small_bodies_that_become_gigabytes_cost_a_validator_little_and_their_neighbours_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "s.json").write_text(json.dumps(DOCUMENT))
    huge = gzip.compress("\n".join([event(0), *[event(340_000)] * 32, event(3)]).encode())
    assert len(huge) < 60_000  # as it is sent
    within = gzip.compress("\n".join([event(9_990)] * 300).encode())  # each event within its limit: 48 million values
    for name, body in (("huge", huge), ("within", within)):
        (tmp_path / name).write_bytes(body)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(tmp_path / "huge"), str(tmp_path / "within")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    answers, kilobytes = json.loads(done.stdout)
    assert answers[0] == [2, ["too_large"], 32]
    accepted, reasons, rejected = answers[1]
    assert accepted + rejected == 300 and accepted == 16_000_000 // 16 // 9_990 and reasons == ["too_large"]
    assert kilobytes < 1024 * 1024  # 3 GiB for a third of that before


def judge(directory: Path, items_max: int = 10, document: dict[str, Any] = DOCUMENT) -> Judge:
    (directory / "s.json").write_text(json.dumps(document))
    streams = {"s": {"schema": "s.json", "time": "time"}}
    config = Config.model_validate({"file": str(directory / "e.yaml"), "streams": streams})
    return Judge(load_streams(config)["s"], EdgeConfig(items_max=items_max), 0)


def verdicts(judge_: Judge, *events: str, form: Form = "ndjson") -> list[tuple[int, str]]:
    body = "\n".join(events) if form == "ndjson" else f"[{','.join(events)}]"
    answer = judge_.judge([Submission("s", form, body.encode())], 2**62).answers[0]
    assert answer.accepted == len(events) - len(answer.rejected)
    return [(index, reason) for index, reason, _ in answer.rejected]


@pytest.mark.parametrize("form", ["json", "ndjson"])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", ["items", "any", "unknown"])
def test_an_event_of_too_many_items_is_refused_alone(
    tmp_path: Path, form: Form, native: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(fast_path, "library", lambda: None)
    strict = judge(tmp_path)
    most, over = event(10, name=name), event(11, name=name)
    assert verdicts(strict, most, over, most, form=form) == [(1, "too_large")]
    assert verdicts(strict, most, most, form=form) == []
    nested = event(1, "[1,2,3,4,5,6,7,8,9]", "any"), event(1, "[1,2,3,4,5,6,7,8,9,10]", "any")
    assert verdicts(strict, *nested, form=form) == [(1, "too_large")]
    text = json.dumps({"time": TIME, "any": "[1,2,3,4,5,6,7,8,9,10,11,12]" * 3})
    assert verdicts(strict, text, form=form) == []  # it only looks like an array


@pytest.mark.parametrize("native", [True, False])
def test_a_request_whose_arrays_become_too_much_loses_only_what_is_too_much(
    tmp_path: Path, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(fast_path, "library", lambda: None)
    monkeypatch.setattr(array_items, "VALUES_MAX", 16 * 25)  # 25 items of sixteen fields
    small = judge(tmp_path)
    ten = event(10)
    assert verdicts(small, ten, ten) == []
    assert verdicts(small, ten, ten, ten, event(0), event(5), event(1)) == [(2, "too_large"), (5, "too_large")]
    assert verdicts(small, ten, event(11), ten, event(5)) == [(1, "too_large")]  # what is refused takes no room


WIDE = {
    "type": "object",
    "properties": {"time": DOCUMENT["properties"]["time"], **{f"f{n}": {"type": "integer"} for n in range(499)}},
    "required": ["time"],
}
BARE = f'{{"time":"{TIME}"}}'


@pytest.mark.parametrize("form", ["json", "ndjson"])
@pytest.mark.parametrize("native", [True, False])
def test_a_request_of_more_events_than_its_columns_have_room_for_loses_only_those(
    tmp_path: Path, form: Form, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(fast_path, "library", lambda: None)
    monkeypatch.setattr(array_items, "VALUES_MAX", 500 * 3)  # three events of five hundred columns
    wide = judge(tmp_path, document=WIDE)
    assert verdicts(wide, *[BARE] * 3, form=form) == []
    assert verdicts(wide, *[BARE] * 5, form=form) == [(3, "too_large"), (4, "too_large")]
    nested = f'{{"time":"{TIME}","more":{{"a":{{}}}}}}'  # more braces than events
    assert verdicts(wide, *[nested] * 3, form=form) == []


def test_bare_events_of_hundreds_of_columns_cost_a_validator_little(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(WIDE))
    (tmp_path / "bare").write_bytes(gzip.compress("\n".join([BARE] * 100_000).encode()))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(tmp_path / "bare")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    answers, kilobytes = json.loads(done.stdout)
    assert answers == [[16_000_000 // 500, ["too_large"], 100_000 - 16_000_000 // 500]]
    assert kilobytes < 768 * 1024  # 913 MiB without the limit


@st.composite
def values(draw: st.DrawFn) -> Any:
    leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.text('a,[]{}"\\ ', max_size=6))
    key = st.text("k,[", max_size=3)
    return draw(
        st.recursive(leaf, lambda below: st.lists(below, max_size=5) | st.dictionaries(key, below), max_leaves=40)
    )


def counted(value: Any) -> int:
    if isinstance(value, list):
        return len(value) + sum(map(counted, value))
    return sum(map(counted, value.values())) if isinstance(value, dict) else 0


@examples(200)
@given(values(), st.sampled_from([None, 1]), st.integers(0, 40))
def test_items_are_counted_at_every_level_and_nowhere_else(value: Any, indent: int | None, most: int) -> None:
    raw = json.dumps(value, indent=indent).encode()
    assert items(raw) == counted(value)
    assert exceeds(raw, most) == (counted(value) > most)
