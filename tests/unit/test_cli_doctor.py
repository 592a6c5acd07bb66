"""`eagleray doctor` finds what is wrong and says what to do."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from eagleray.cli.app import main
from eagleray.cli.doctor import Finding, examine
from eagleray.cli.init import TEMPLATE, write_project
from eagleray.cluster.clock import ManualClock, SystemClock


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(TEMPLATE, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("EAGLERAY__EDGE__PORT", str(free.getsockname()[1]))
    return tmp_path / "eagleray.yaml"


def found(project: Path, what: str) -> Finding:
    return next(finding for finding in examine(project, SystemClock()) if finding.what == what)


def test_a_fresh_project_on_a_sound_machine_is_sound(project: Path) -> None:
    assert {finding.what for finding in examine(project, SystemClock()) if finding.verdict == "bad"} == set()


def test_a_wrong_configuration_is_found_with_its_key(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_text(project.read_text().replace("time: time ", "time: tiem "))
    assert "streams.plays.time" in found(project, "configuration").found
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "-c", str(project)])
    assert stopped.value.code == 1
    assert "BAD   configuration" in capsys.readouterr().out


def test_a_taken_port_is_found_unless_our_own_platform_holds_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("EAGLERAY__EDGE__PORT", str(taken.getsockname()[1]))
        assert found(project, "port").verdict == "bad"
        (project.parent / "data").mkdir()
        (project.parent / "data" / "platform.json").write_text(json.dumps({"url": "", "pid": os.getpid()}))
        assert found(project, "port").verdict == "ok"


def test_a_clock_behind_the_log_is_found(project: Path) -> None:
    log = project.parent / "data" / "log" / "plays" / "records.db"
    log.parent.mkdir(parents=True)
    log.touch()
    clock = ManualClock(SystemClock().now_us() - 3_600_000_000)
    finding = next(finding for finding in examine(project, clock) if finding.what == "clock")
    assert finding.verdict == "bad" and "NTP" in finding.advice
