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

pytestmark = pytest.mark.platform

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0  # a table shows an event about a second after its ack


class Command(NamedTuple):
    """A command of the page and what it prints."""

    text: str
    shown: str


def tour() -> Iterator[Command]:
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
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
    text = re.sub(r"(?m)^ +\d+-\d+-\d+ +\S+", "  PLACE TIME", text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if not re.fullmatch(r"[─\s]*", line))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[RunningPlatform]:
    platform = RunningPlatform(tmp_path / "my-game", ROOT / "cluster" / "cli" / "project")
    yield platform.start()
    platform.stop()


def test_every_command_of_the_tour_prints_what_the_page_shows(platform: RunningPlatform) -> None:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for file in (ROOT / "cluster" / "cli" / "project").glob("*.ndjson"):
        (platform.directory / file.name).write_bytes(file.read_bytes())
    told = [command for command in tour() if command.shown and command.text != "eagleray up"]
    assert len(told) >= 6
    for command in told:
        text = command.text.replace("http://127.0.0.1:8080", platform.url)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            done = subprocess.run(
                ["bash", "-c", text], cwd=platform.directory, env=environ, capture_output=True, text=True, check=False
            )
            if masked(done.stdout + done.stderr) == masked(command.shown) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        assert masked(done.stdout + done.stderr) == masked(command.shown), text


def test_the_tour_starts_with_commands_that_exist() -> None:
    words = [shlex.split(command.text) for command in tour()]
    assert ["eagleray", "init", "my-game", "&&", "cd", "my-game"] in words
    assert ["eagleray", "up"] in words
