"""A schema and a stream out of sample events: every sample passes, and what is proposed is what the samples say."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from eagleray.cli.app import main
from eagleray.cli.batches import read_batches
from eagleray.cli.schema_infer import Proposal, Sample, _take, proposed, tried
from eagleray.cluster.events.sampled import Seen
from tests.examples import examples

ROOT = Path(os.environ.get("EAGLERAY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
SOME = 800  # events of a file, spread over it; all of them in the profile `nightly`
NOW_US = 1_800_000_000_000_000
real = pytest.mark.skipif(not (ROOT / "events").is_dir(), reason=f"no events at {ROOT}")


def of(*events: Any, name: str = "s") -> tuple[dict[str, Any], dict[str, Any], Proposal, list[tuple[str, str]]]:
    """Schema, stream, both as texts, and what is refused."""
    sample = Sample(Seen())
    body = io.BytesIO(b"\n".join(json.dumps(event).encode() for event in events))
    for batch in read_batches(body, "ndjson", 1000, 1 << 20):
        _take(sample, batch)
    made = proposed(name, sample.seen, NOW_US)
    refused = tried(name, made, sample.batches, NOW_US)
    return json.loads(made.schema), yaml.safe_load(made.stream)[name], made, refused


def lines_of(path: Path) -> Iterator[Any]:
    """The events of a file of real data, whatever its form."""
    if path.suffix == ".csv":
        yield from csv.DictReader(path.read_text().splitlines())
        return
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    if path.name == "valid-events.json":
        yield from ({**test["event"]} for test in json.loads(text)["tests"])
    elif "payloads" in path.parts:
        yield json.loads(text)
    else:
        yield from (json.loads(line) for line in text.splitlines() if line.startswith("{"))


FILES = [
    *sorted(path for path in ROOT.glob("events/*/*") if path.suffix in (".gz", ".csv")),
    *sorted(ROOT.glob("golden/arroyo/inputs/*.json")),
    *sorted(ROOT.glob("cdc/**/*.txt")),
    ROOT / "cloudevents/format/json/valid-events.json",
]


@real
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_event_of_real_data_passes_the_schema_made_of_it(path: Path) -> None:
    events = list(lines_of(path))
    step = 1 if settings.get_current_profile_name() == "nightly" else -(-len(events) // SOME)
    *_, refused = of(*events[::step])
    assert refused == []


@real
def test_every_webhook_passes_the_schema_made_of_all_of_its_kind() -> None:
    for kind in sorted((ROOT / "octokit/payloads").iterdir()):
        _, stream, _, refused = of(*(event for path in sorted(kind.glob("*.json")) for event in lines_of(path)))
        assert refused == [] and "." not in stream["time"]  # such as `repository.created_at`, which is another's time


TIMES = {  # as those who know the data would choose
    "events/wikipedia/wikiticker-2015-09-12-sampled.json.gz": ("time", None, "user"),
    "events/gharchive/2015-01-01-0.json.gz": ("created_at", "id", "actor.id"),
    "events/zeek/rdp.json.gz": ("ts", "uid", None),
    "events/zeek/weird.json.gz": ("ts", None, None),
    "events/retail/2010-12-01.csv": ("InvoiceDate", None, "CustomerID"),
    "golden/arroyo/inputs/cars.json": ("timestamp", None, "driver_id"),
    "cdc/flink/debezium-postgres-data-replica-identity.txt": ("ts_ms", None, None),
}


@real
@pytest.mark.parametrize("file", TIMES)
def test_time_id_and_key_are_those_that_people_would_choose(file: str) -> None:
    _, stream, _, _ = of(*list(lines_of(ROOT / file))[:800])
    assert (stream["time"], stream.get("id"), stream.get("key")) == TIMES[file]


def test_types_are_those_of_all_samples() -> None:
    schema, *_, refused = of(
        {
            "at": "2026-01-01T00:00:00Z",
            "n": 1,
            "x": 1,
            "s": "a",
            "l": [1, None],
            "o": {"a": 1},
            "m": 1,
            "e": [],
            "z": None,
        },
        {"at": "2026-01-01T00:00:01Z", "n": None, "x": 1.5, "l": [2], "o": {"b": "x"}, "m": "1", "e": [], "big": 2**70},
    )
    assert refused == []
    assert schema["properties"] == {
        "at": {"type": "string", "format": "date-time"},
        "n": {"type": ["integer", "null"]},
        "x": {"type": "number"},
        "s": {"type": "string"},
        "l": {"type": "array", "items": {"type": ["integer", "null"]}},
        "o": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}},
        "m": {"type": ["integer", "string"]},
        "e": {"type": "array"},
        "z": {"description": "null in every sample"},
        "big": {"description": "numbers beyond 64 bits in samples"},
    }
    assert schema["required"] == ["at", "n", "x", "l", "o", "m", "e"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2026-01-01T00:00:00+01:00", "date-time"),
        ("2026-01-01", "date"),
        ("00:00:00Z", "time"),
        ("123e4567-e89b-12d3-a456-426614174000", "uuid"),
        ("10.0.0.1", "ipv4"),
        ("::1", "ipv6"),
        ("a@b.example", "email"),
        ("https://x.example/a", "uri"),
        ("", None),
        ("a", None),
    ],
)
def test_a_format_is_named_where_every_text_has_it(text: str, name: str | None) -> None:
    schema, *_ = of({"v": text}, {"v": text})
    assert schema["properties"]["v"].get("format") == name
    schema, *_ = of({"v": text}, {"v": "no such"})
    assert "format" not in schema["properties"]["v"]


def test_an_enum_is_proposed_only_where_no_further_value_is_to_be_expected() -> None:
    def enum(values: list[Any]) -> Any:
        return of(*({"v": value} for value in values))[0]["properties"]["v"].get("enum")

    assert enum(["on", "off"] * 60) == ["off", "on"]
    assert enum(["on", None, "off"] * 60) == ["off", "on", None]
    assert enum(["on", "off"] * 20) is None  # too few to say
    assert enum(["on", "off"] * 60 + ["stuck"] * 9) is None  # a new one came late
    assert enum([f"v{at % 40}" for at in range(400)]) is None
    assert enum(["New York", "Berlin"] * 60) is None  # words of people, not of a program
    assert enum(["on"] * 200) is None


def test_names_that_no_table_can_have_are_left_to_extra_and_said() -> None:
    event = {"t": "2026-01-01T00:00:00Z", "_time": 1, "User": 1, "user": 2, 'q"': 1, "a": {"b": 1}, "a.b": 2, "": 3}
    schema, _, made, refused = of(event)
    assert refused == []
    assert list(schema["properties"]) == ["t", "User", "a", "a.b"]
    assert schema["properties"]["a"] == {"type": "object"}  # its `b` would have the path of `a.b`
    assert len(made.notes) == 5 and all("kept in _extra" in note for note in made.notes)


def test_an_object_whose_names_are_data_is_no_struct() -> None:
    schema, _, made, refused = of(*({"at": 1, "by": {f"u{n}": n, f"u{n + 1}": n}} for n in range(100)))
    assert schema["properties"]["by"] == {"type": "object"}
    assert refused == [] and "a map" in made.notes[0]


@pytest.mark.parametrize(
    ("values", "written"),
    [
        (["2026-01-01T00:00:00Z"], {}),
        (["2026-01-01 00:00:00"], {"time_zone": "UTC"}),
        (["2026-01-01 00:00:00 +0100"], {}),
        ([1_750_000_000, 1_750_000_001.5], {"time_unit": "s"}),
        ([1_750_000_000_000], {"time_unit": "ms"}),
        (["1750000000000000"], {"time_unit": "us"}),
        ([1_750_000_000_000_000_000], {"time_unit": "ns"}),
        (["2026-01-01T00:00:20Z", "2026-01-01T00:00:00Z"], {"max_out_of_orderness": "20s"}),
    ],
)
def test_times_are_understood_as_people_have_them(values: list[Any], written: dict[str, Any]) -> None:
    _, stream, _, refused = of(*({"ts": value, "v": 1} for value in values))
    assert refused == []
    assert {"time": "ts", **written} == {
        name: stream[name] for name in ("time", "time_unit", "time_zone", "max_out_of_orderness") if name in stream
    }


@pytest.mark.parametrize("value", [None, 17, "soon", True, "2999-01-01T00:00:00Z", 2_489_368_070])
def test_without_a_time_in_every_event_the_arrival_stands_for_it(value: Any) -> None:
    name = "serial" if value == 2_489_368_070 else "ts"
    schema, stream, _, refused = of({name: value})
    assert (stream["time"], stream["time_missing"]) == ("received_at", "arrival")
    assert schema["properties"]["received_at"] == {"type": "string", "format": "date-time"} and refused == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4)
    | st.sampled_from(["2026-01-01", "2026-01-01T00:00:00Z", 2**53 + 1, 2**64, 1e300, "10.0.0.1"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["a", "A", "a.b", "_x", "é"]), below),
    max_leaves=8,
)  # fmt: skip


@examples(15)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "A", "a.b", "_row", "t"]), VALUES), min_size=1, max_size=6))
def test_whatever_the_samples_are_they_pass(events: list[dict[str, Any]]) -> None:
    *_, refused = of(*events)
    assert refused == []


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return int(stopped.value.code or 0)


EVENTS = "\n".join(f'{{"ts": "2026-01-01T00:00:{n:02}Z", "id": {n}, "user": "u{n % 3}"}}' for n in range(50))


def test_what_is_written_is_accepted_by_check(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.ndjson").write_text(EVENTS)
    assert run("schema", "infer", "clicks.ndjson", "--write") == 0
    assert run("check") == 0
    stream = yaml.safe_load((tmp_path / "eagleray.yaml").read_text())["streams"]["clicks"]
    assert (stream["time"], stream["id"], stream["key"]) == ("ts", "id", "user")
    said = capsys.readouterr()
    assert "50 of 50 are accepted" in said.err and "wrote" in said.out


def test_a_second_stream_joins_a_configuration_whose_other_lines_stay(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "more.json.gz").write_bytes(gzip.compress(f"[{EVENTS.replace(chr(10), ',')}]".encode()))
    config = tmp_path / "eagleray.yaml"
    before = "data_dir: ./data  # here\nstreams:  # all\n\n    # a\n    one: {schema: one.json, time: t}\nlog: {}\n"
    config.write_text(before)
    (tmp_path / "one.json").write_text('{"properties": {"t": {"type": "string", "format": "date-time"}}}')
    config.chmod(0o640)
    assert run("schema", "infer", str(tmp_path / "more.json.gz"), "--write", "-c", str(config)) == 0
    after = config.read_text()
    assert [line for line in before.splitlines() if line not in after.splitlines()] == []
    assert list(yaml.safe_load(after)["streams"]) == ["more", "one"] and config.stat().st_mode & 0o777 == 0o640
    assert run("check", "-c", str(config)) == 0
    assert run("schema", "infer", str(tmp_path / "more.json.gz"), "--write", "-c", str(config)) == 2
    assert "is there already" in capsys.readouterr().err and config.read_text() == after


def test_a_configuration_that_cannot_grow_by_a_line_is_left_as_it_is(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "more.ndjson").write_text(EVENTS)
    config = tmp_path / "eagleray.yaml"
    config.write_text("streams: {one: {schema: one.json, time: t}}\n")
    assert run("schema", "infer", str(tmp_path / "more.ndjson"), "--write", "-c", str(config)) == 2
    assert "nothing was written" in capsys.readouterr().err and not (tmp_path / "more.schema.json").exists()


def test_lines_that_are_no_events_are_named_and_the_others_are_read(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "x.ndjson").write_text(EVENTS + '\n{"ts":\n[1]\n')
    assert run("schema", "infer", str(tmp_path / "x.ndjson")) == 0
    said = capsys.readouterr().err
    assert "line 51: " in said and "line 52: not a JSON object" in said and "50 of 50 are accepted" in said
    (tmp_path / "y.ndjson").write_text("nothing\n")
    assert run("schema", "infer", str(tmp_path / "y.ndjson")) == 1
    assert "no JSON object" in capsys.readouterr().err


def test_standard_input_is_read(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("sys.stdin", type("In", (), {"buffer": io.BytesIO(EVENTS.encode())}))
    assert run("schema", "infer", "-", "--stream", "clicks", "--events", "20") == 0
    said = capsys.readouterr()
    assert "20 of 20 are accepted" in said.err and "(of more)" in said.err and "  clicks:\n" in said.out
