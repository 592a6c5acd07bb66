"""Authentication is on from the first minute, and the project's own commands need no step more."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from eagleray.cli.app import main
from eagleray.cluster.client.target import find_target
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.owner_key import ensure_owner_key, owner_key_file, read_owner_key
from tests.running_platform import RunningPlatform, eventually

EVENT = {"event_id": "k-1", "time": "2026-06-01T12:20:00Z", "player": "you", "kind": "login"}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def eagleray(platform: RunningPlatform, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EAGLERAY")}
    return subprocess.run(
        [sys.executable, "-m", "eagleray", *words],
        cwd=platform.directory,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_init_makes_a_key_for_its_owner_alone_and_outside_of_version_control(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["init", str(tmp_path / "mine")])
    config = load_config(tmp_path / "mine" / "eagleray.yaml", environ={})
    file = owner_key_file(config.data_dir)
    assert config.edge.auth == "required"
    assert (mode(file), mode(config.keys_file), mode(config.data_dir)) == (0o600, 0o600, 0o700)
    key = file.read_text().strip()
    assert len(key) > 40
    for other in (tmp_path / "mine").rglob("*"):
        if other.is_file() and other != file:
            assert key.encode() not in other.read_bytes()


def test_a_key_is_made_once_and_never_beside_keys_that_work(tmp_path: Path) -> None:
    keys = tmp_path / "data" / "keys.db"
    assert ensure_owner_key(Config(data_dir=tmp_path / "data"), SystemClock())
    first = read_owner_key(tmp_path / "data")
    assert not ensure_owner_key(Config(data_dir=tmp_path / "data"), SystemClock())
    assert read_owner_key(tmp_path / "data") == first
    keys.unlink()  # the store is lost, the key file is not: a key that opens nothing is replaced
    assert ensure_owner_key(Config(data_dir=tmp_path / "data"), SystemClock())
    assert read_owner_key(tmp_path / "data") not in (None, first)


def test_the_owners_key_goes_to_the_projects_own_platform_alone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["init", str(tmp_path / "mine")])
    file = tmp_path / "mine" / "eagleray.yaml"
    assert find_target(None, None, file).key == read_owner_key(tmp_path / "mine" / "data")
    assert find_target("http://elsewhere:1", None, file).key is None
    assert find_target(None, "er_mine", file).key == "er_mine"


def test_commands_find_the_key_and_strangers_are_refused(platform: RunningPlatform) -> None:
    path = "/v1/streams/plays/events"
    kind = {"Content-Type": "application/json", "X-API-Key": ""}
    assert platform.request("POST", path, json.dumps(EVENT).encode(), kind)[0] == 401
    sent = eagleray(platform, "send", "-", "--stream", "plays", text=json.dumps(EVENT))
    assert (sent.returncode, "accepted 1" in sent.stdout) == (0, True), sent.stderr
    assert eagleray(platform, "status").returncode == 0
    assert eagleray(platform, "scale", "validate=2").returncode == 0
    bad = eagleray(platform, "send", "-", "--stream", "plays", text='{"event_id": "k-2"}')
    assert "rejected 1" in bad.stdout
    eventually(lambda: "1 dead letter" in eagleray(platform, "dead-letters", "list").stdout)
    replayed = eagleray(platform, "dead-letters", "replay", "plays")
    assert replayed.returncode in (0, 1) and "401" not in replayed.stderr, replayed.stderr


def test_files_of_a_running_platform_are_its_users_alone(platform: RunningPlatform) -> None:
    assert mode(platform.data) == 0o700
    loose = {str(path): oct(mode(path)) for path in platform.data.rglob("*") if mode(path) & 0o077}
    assert loose == {}
