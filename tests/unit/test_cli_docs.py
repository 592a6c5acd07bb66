"""`eagleray docs`: every page of docs/ can be read without the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eagleray.cli.docs import docs, pages, read
from eagleray.cluster.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_a_page_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    docs("jobs")
    assert capsys.readouterr().out == (ROOT / "docs" / "jobs.md").read_text().rstrip() + "\n"
    assert read("ARCHITECTURE.md") == read("architecture")


def test_without_a_page_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    docs()
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(pages()) == sorted(file.stem.lower() for file in (ROOT / "docs").glob("*.md"))


def test_a_page_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"nothing: no such page; expected one of .*jobs"):
        read("nothing")


def test_every_page_that_a_message_names_exists() -> None:
    folders = ("cluster", "sql", "actors", "jobs", "cli")
    texts = [file.read_text() for folder in folders for file in (ROOT / folder).rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"`eagleray docs ([a-z-]+)`", text)}
    assert named - {"docs"}
    assert named <= pages().keys()
