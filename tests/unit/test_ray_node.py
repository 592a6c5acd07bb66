"""A node of our own: its directory has an owner, its raylet starts workers our way, its start is told."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from eagleray.cli.start_phases import Phases
from eagleray.cli.up import check, up
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.owned_directory import OWNER, PREFIX, sweep
from eagleray.cluster.ray_node.keeper import raylet_command

PYTHON = "/usr/bin/python3"
RAYLET = [
    "/ray/raylet",
    "--node_ip_address=127.0.0.2",
    "--python_worker_command=" + shlex.join([PYTHON, "/ray/setup_worker.py", "/ray/default_worker.py", "--node-ip=x"]),
    "--runtime_env_agent_command=" + shlex.join([PYTHON, "/ray/runtime_env_agent.py", "--node-ip-address=127.0.0.2"]),
    "--dashboard_agent_command=" + shlex.join([PYTHON, "/ray/agent.py"]),
    "--metrics-agent-port=0",
    "--head",
]
OWNER_PROGRAM = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from eagleray.cluster.owned_directory import Directory
held = Directory()
print(held.path, flush=True)
sys.stdin.read()
"""


def test_a_directory_is_swept_when_its_owner_is_gone_and_not_before(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER_PROGRAM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdin and owner.stdout
    directory = Path(owner.stdout.readline().strip())
    stranger = tmp_path / f"{PREFIX}somebody"  # without an owner's file: not one of ours
    stranger.mkdir()
    assert directory.parent == tmp_path and (directory / OWNER).exists()
    assert sweep(tmp_path) == [] and directory.exists()
    owner.kill()
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    assert sweep(tmp_path) == [directory]
    assert not directory.exists() and stranger.exists()


def test_the_raylet_starts_workers_our_way_and_agents_when_they_are_needed() -> None:
    command = raylet_command(RAYLET, 4711)
    found = dict(word.split("=", 1) for word in command[1:] if "=" in word)
    assert command[0] == "/ray/raylet" and "--head" in command and found["--node_ip_address"] == "127.0.0.2"
    worker = shlex.split(found["--python_worker_command"])
    assert worker[3].endswith("worker_start.py") and worker[4:] == ["/ray/default_worker.py", "--node-ip=x"]
    agent = shlex.split(found["--runtime_env_agent_command"])
    assert agent[3].endswith("agent_on_demand.py") and agent[4] == "4711" and "/ray/runtime_env_agent.py" in agent
    assert shlex.split(found["--dashboard_agent_command"])[4] == "0"  # nobody ever needs this one
    assert found["--metrics-agent-port"] == "-1"


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "eagleray.yaml"
    (tmp_path / "s.json").write_text('{"type": "object", "properties": {"t": {"type": "integer"}}, "required": ["t"]}')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file.write_text(f"edge: {{port: {port}}}\nstreams: {{s: {{schema: s.json, time: t, time_unit: ms}}}}\n")
        with pytest.raises(ConfigError, match=f"edge.port.*cannot listen on 127.0.0.1:{port}: Address already in use"):
            up(file)
    assert not (tmp_path / "data").exists()
    assert set(check(load_config(file, environ={}))) == {"s"}


def test_phases_are_said_as_they_begin_and_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    phases = Phases()
    phases.begin("starting Ray")
    phases.begin("loading")
    said = capsys.readouterr().err.splitlines()
    assert [line.split("s  ")[1] for line in said] == ["starting Ray", "loading"]
    rows = [line.split() for line in phases.table().splitlines()]
    assert [" ".join(row[-1:]) for row in rows] == ["Python", "Ray", "loading"]
    assert [float(row[0]) for row in rows] == sorted(float(row[0]) for row in rows)


def test_a_project_without_streams_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "eagleray.yaml").write_text("edge: {port: 0}\n")
    with pytest.raises(ConfigError, match=r"streams.*expected at least one stream"):
        up(tmp_path / "eagleray.yaml")
    assert Config().streams == {}
