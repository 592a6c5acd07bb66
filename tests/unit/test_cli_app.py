"""The command line as a whole: starts fast, exits with what the work deserves, finds the platform."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eagleray.cli.app import COMMANDS, main
from eagleray.cli.init import TEMPLATE, write_project
from eagleray.cluster.client.target import find_platform
from eagleray.cluster.errors import ConfigError

ROOT = Path(__file__).parents[2]
HEAVY = {"ray", "pyarrow", "duckdb", "pyiceberg", "numpy", "aiohttp", "rich"}


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("words", [["--help"], ["send", "--help"], ["init", "--help"], ["up", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = f"""
import sys
from eagleray.cli.app import main
try: main({words!r})
except SystemExit: print("loaded:", *sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize(
    "words", [["nosuch"], ["send"], ["scale", "validate"], ["scale", "edge=2"], ["send", "x", "-s"]]
)
def test_wrong_usage_exits_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert capsys.readouterr().err


def test_a_missing_configuration_exits_2_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "-c", str(tmp_path / "absent.yaml")) == 2
    assert "absent.yaml: no such file" in capsys.readouterr().err


def test_a_platform_that_does_not_answer_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "--url", "http://127.0.0.1:9") == 1
    assert "127.0.0.1:9" in capsys.readouterr().err


def test_the_platform_is_found_by_url_then_by_what_up_noted_then_by_configuration(tmp_path: Path) -> None:
    write_project(TEMPLATE, tmp_path)
    config = tmp_path / "eagleray.yaml"
    assert find_platform("http://elsewhere:1/", config) == "http://elsewhere:1"
    assert find_platform(None, config) == "http://127.0.0.1:8080"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "platform.json").write_text(json.dumps({"url": "http://127.0.0.1:4711", "pid": 1}))
    assert find_platform(None, config) == "http://127.0.0.1:4711"


def test_an_address_that_is_none_is_wrong_usage() -> None:
    assert run("status", "--url", "127.0.0.1:8080") == 2
    with pytest.raises(ConfigError):
        find_platform(None, Path("absent.yaml"))


def test_make_explains_itself() -> None:
    said = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {recipe}" in said for recipe in ("demo", "test", "lint", "bench", "help"))
