"""`eagleray dead-letters` over a real lake: what is listed, shown and sent again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from eagleray.cli.app import main
from eagleray.cli.init import TEMPLATE, write_project
from eagleray.cluster.config import load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.stream_tables import DEAD_LETTER_COLUMNS
from eagleray.jobs.builtin.replay import BODY_BYTES, as_line, requests
from eagleray.jobs.dead_letters import PAGE, DeadLetter, Filter, Letters

MANY = PAGE + 7


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("project")
    write_project(TEMPLATE, directory)
    config = load_config(directory / "eagleray.yaml", environ={})
    lake = Lake.open(config)
    lake.ensure(load_streams(config))
    rows = [(b'{"n":%d}' % n, "schema", "level: expected an integer", 1, n) for n in range(MANY)]
    rows.append((b'{"n":0}', "schema", "level: expected an integer, again", 2, MANY))
    rows.append((b'{"cut\nshort', "json", "not one JSON value", 1, MANY + 1))
    table = pa.table(
        {
            "original": [row[0] for row in rows],
            "reason": [row[1] for row in rows],
            "detail": [row[2] for row in rows],
            "_ingested_at": pa.array([1_780_000_000_000_000 + row[4] for row in rows], pa.timestamp("us", "UTC")),
            "source": ["anonymous"] * len(rows),
            "attempt": pa.array([row[3] for row in rows], pa.int32()),
            "_partition": pa.array([0] * len(rows), pa.int32()),
            "_offset": pa.array([row[4] for row in rows], pa.int64()),
            "_row": pa.array([0] * len(rows), pa.int32()),
        },
        DEAD_LETTER_COLUMNS,
    )
    files = lake.write("plays.dead_letters", table)
    assert lake.commit("plays.dead_letters", files, {"p0": 0}, {"p0": len(rows)})
    return directory / "eagleray.yaml"


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["dead-letters", *words])
    return int(stopped.value.code or 0)


def test_list_counts_by_reason_and_shows_the_newest(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "-c", str(project), "--limit", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"plays: {MANY + 2} dead letters, schema {MANY + 1}, json 1"
    assert lines[1].split() == ["ID", "INGESTED", "REASON", "SOURCE", "DETAIL"]
    assert "anonymous" in lines[3]
    assert [line.split()[0] for line in lines[3:]] == [f"0-{MANY + 1}-0", f"0-{MANY}-0"]


def test_list_is_filtered_by_reason_and_time(project: Path) -> None:
    with Letters(project) as letters:
        assert letters.counts("plays", Filter(reason="json").sql()) == {"json": 1}
        before = Filter(until="2026-05-28T20:26:40.000003Z").sql()
        assert letters.counts("plays", before) == {"schema": 3}
        assert letters.counts("plays", Filter(since="2027-01-01").sql()) == {}


def test_show_prints_the_original_bytes(project: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("show", "plays", f"0-{MANY + 1}-0", "-c", str(project)) == 0
    assert capsysbinary.readouterr().out == b'{"cut\nshort\n'


def test_a_replay_takes_each_event_once_at_its_last_attempt(project: Path) -> None:
    with Letters(project) as letters:
        pages = list(letters.pages("plays", Filter(reason="schema").sql()))
    assert [len(page) for page in pages] == [PAGE, MANY - PAGE]
    sent = [letter for page in pages for letter in page]
    assert {letter.original for letter in sent} == {b'{"n":%d}' % n for n in range(MANY)}
    assert [letter.attempt for letter in sent] == [1] * (MANY - 1) + [2]


@pytest.mark.parametrize(
    "wrong",
    [Filter(reason="bad"), Filter(since="yesterday"), Filter(id="1"), Filter(id="0-0-0; SELECT 1")],
    ids=str,
)
def test_a_filter_that_cannot_be_meant_is_wrong_usage(wrong: Filter) -> None:
    with pytest.raises(ConfigError):
        wrong.sql()


def test_an_unknown_stream_is_wrong_usage(project: Path) -> None:
    assert run("list", "nosuch", "-c", str(project)) == 2


def letter(original: bytes, attempt: int = 1) -> DeadLetter:
    return DeadLetter("0-0-0", original, "json", "", "", "", attempt)


def test_requests_hold_one_attempt_and_are_bounded() -> None:
    large = letter(b"x" * (BODY_BYTES // 2 + 1))
    assert [len(batch) for batch in requests([large, large, letter(b"y", 2), letter(b"z", 2)])] == [1, 1, 2]


def test_an_original_with_line_ends_is_one_line_of_the_same_json() -> None:
    assert as_line(b'{\r\n"a": 1\n}') == b'{  "a": 1 }'


def test_a_project_that_never_ran_has_no_dead_letters_to_ask_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_project(TEMPLATE, tmp_path)
    for words in (("list",), ("show", "plays", "0-0-0"), ("replay", "plays", "--url", "http://127.0.0.1:9")):
        assert run(*words, "-c", str(tmp_path / "eagleray.yaml")) == 1
        assert capsys.readouterr().err == "eagleray: there are no tables yet: `eagleray up` makes them\n"
