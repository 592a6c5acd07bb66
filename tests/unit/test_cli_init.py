"""`eagleray init` and the examples: every project that we hand out is accepted by the platform's own checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from eagleray.cli.app import main
from eagleray.cli.demo.command import TEMPLATE as DEMO
from eagleray.cli.init import TEMPLATE as PROJECT
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.events.stream import load_streams

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*/eagleray.yaml"))


def init(directory: Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["init", str(directory)])
    return int(stopped.value.code or 0)


def test_a_new_project_is_complete_and_accepted(tmp_path: Path) -> None:
    assert init(tmp_path / "mine") == 0
    config = load_config(tmp_path / "mine" / "eagleray.yaml", environ={})
    streams = load_streams(config)
    assert set(streams["plays"].windows) == {"activity", "revenue", "sessions"}
    assert "data/" in (tmp_path / "mine" / ".gitignore").read_text()
    assert len((tmp_path / "mine" / "events.ndjson").read_text().splitlines()) == 200


def test_the_new_configuration_shows_every_section() -> None:
    text = (PROJECT / "eagleray.yaml").read_text()
    assert all(f"\n{section}:" in text for section in Config.model_fields if section != "file")


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "eagleray.yaml").write_text("mine")
    assert init(tmp_path) == 2
    assert "already has eagleray.yaml" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["eagleray.yaml"]
    assert (tmp_path / "eagleray.yaml").read_text() == "mine"


@pytest.mark.parametrize("file", [DEMO / "eagleray.yaml", *EXAMPLES], ids=lambda file: file.parent.name)
def test_every_project_in_this_repository_is_accepted(file: Path) -> None:
    assert load_streams(load_config(file, environ={}))
