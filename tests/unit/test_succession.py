"""A controller's successor is later than any before, and keeps sizes and port within a run alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eagleray.actors.succession import Legacy, leave, take_over


def test_each_successor_is_later_and_keeps_what_the_one_before_left(tmp_path: Path) -> None:
    file = tmp_path / "state" / "controller.json"
    first = take_over(file, "run")
    assert first == Legacy("run", 1)
    leave(file, Legacy("run", first.incarnation, {"writer": 3}, ("writer",), 8080))
    assert take_over(file, "run") == Legacy("run", 2, {"writer": 3}, ("writer",), 8080)
    assert take_over(file, "run").incarnation == 3  # also where it was killed before it said a word


def test_another_run_starts_with_its_configuration_and_is_still_later(tmp_path: Path) -> None:
    file = tmp_path / "controller.json"
    leave(file, Legacy("run", 7, {"writer": 3}, ("writer",), 8080))
    assert take_over(file, "another") == Legacy("another", 8)


@pytest.mark.parametrize(
    "left", [b"", b"{", b"[]", b'{"run": "run"}', json.dumps({"run": 1, "incarnation": "x"}).encode(), b"\xff\xfe\x00"]
)
def test_a_damaged_word_is_none(tmp_path: Path, left: bytes) -> None:
    file = tmp_path / "controller.json"
    file.write_bytes(left)
    assert take_over(file, "run") == Legacy("run", 1)


def test_a_disk_that_takes_nothing_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    assert take_over(tmp_path / "state" / "controller.json", "run") == Legacy("run", 1)
