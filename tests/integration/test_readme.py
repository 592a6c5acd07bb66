"""The tour of README.md, command by command: each prints what the page shows (times, places and widths aside)."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.running_platform import RunningPlatform

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0  # a table shows an event about a second after its ack
MASKS = {
    r"(?m)^\d{1,3}-\d+-\d+ +\S+Z": "PLACE TIME",
    r"\d{8}-\d{6}-[0-9a-f]{7}": "RUN",
    r"\b\d+\.\d s\b": "TOOK",
    r"at snapshot \d+": "at snapshot ID",
    r"/\S*/jobs/": "jobs/",
}
SILENT = ("sed ",)  # prints nothing and is part of the tour
ONCE = ("eagleray job", "sed ")  # a second time they would do something else


class Command(NamedTuple):
    """A command of the page and what it prints. One that only changes a file prints nothing, and is run as well."""

    text: str
    shown: str


class Saved(NamedTuple):
    """A file that the page tells to save."""

    name: str
    text: str


def tour() -> Iterator[Command | Saved]:
    page = (ROOT / "README.md").read_text()
    for kind, name, block in re.findall(r"```(console|sql) ?(\S*)\n(.*?)```", page, re.DOTALL):
        if kind == "sql":
            yield Saved(name, block)
        else:
            yield from commands(block)


def commands(block: str) -> Iterator[Command]:
    text: list[str] = []
    shown: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            if text:
                yield Command("\n".join(text), "\n".join(shown))
            text, shown = [line[2:]], []
        elif "\n".join(text).count("'") % 2:
            text.append(line)
        else:
            shown.append(line)
    yield Command("\n".join(text), "\n".join(shown))


def masked(text: str) -> str:
    for pattern, mask in MASKS.items():
        text = re.sub(pattern, mask, text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if not re.fullmatch(r"[─\s]*", line))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[RunningPlatform]:
    platform = RunningPlatform(tmp_path / "my-game", ROOT / "cli" / "project")
    yield platform.start()
    platform.stop()


def test_every_command_of_the_tour_prints_what_the_page_shows(platform: RunningPlatform) -> None:
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for file in (ROOT / "cli" / "project").glob("*.ndjson"):
        (platform.directory / file.name).write_bytes(file.read_bytes())
    assert sum(isinstance(step, Command) for step in tour()) >= 14
    for step in tour():
        if isinstance(step, Saved):
            (platform.directory / step.name).parent.mkdir(exist_ok=True)
            (platform.directory / step.name).write_text(step.text)
        elif step.text != "eagleray up" and (step.shown or step.text.startswith(SILENT)):
            check(step, platform, environ)


def check(command: Command, platform: RunningPlatform, environ: dict[str, str]) -> None:
    """Run a command; one that asks the platform is repeated until it prints what the page shows, or patience ends."""
    text = command.text.replace("http://127.0.0.1:8080", platform.url)
    patience_s = 0.0 if text.startswith(ONCE) else PATIENCE_S
    deadline = time.monotonic() + patience_s
    while True:
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=platform.directory,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if masked(done.stdout) == masked(command.shown) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert masked(done.stdout) == masked(command.shown), text


def test_the_tour_starts_with_commands_that_exist() -> None:
    words = [shlex.split(step.text) for step in tour() if isinstance(step, Command)]
    assert ["eagleray", "init", "my-game", "&&", "cd", "my-game"] in words
    assert ["eagleray", "up"] in words
