"""Nobody gets in through Ray: every socket of a running platform is on loopback, or refuses strangers."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.ray_auth import admits_strangers, make_token, serves_strangers
from tests.running_platform import MARK, RunningPlatform, eventually, marked
from tests.security.listening import Listening, listening, refuses_strangers

JOB_SERVER = """
import sys, time
from eagleray.cluster.ray_session import job_server
with job_server() as url:
    print(url, flush=True)
    sys.stdin.readline()
"""
INSECURE = """
import os, sys
os.environ["RAY_AUTH_MODE"] = "disabled"
import ray
ray.init(include_dashboard=False, num_cpus=1, log_to_driver=False, configure_logging=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.readline()
"""
STRANGER = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print('in')"


def _open_to_strangers(sockets: Iterator[Listening]) -> dict[str, str]:
    """What a stranger elsewhere gets an answer from, and which."""
    reached = [found for found in sockets if not found.loopback]
    return {f"{found.command} :{found.port}": said for found in reached if (said := refuses_strangers(found.port))}


def _gcs_port(platform_sockets: Iterator[Listening]) -> int:
    return next(found.port for found in platform_sockets if "gcs_server" in found.command)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    """The job server of `eagleray job submit`: its URL, and the mark of its processes."""
    mark = os.urandom(8).hex()
    process = subprocess.Popen(
        [sys.executable, "-c", JOB_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, MARK: mark, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert process.stdin and process.stdout
    url = process.stdout.readline().strip()
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError as answered:
            answered.close()
            break
        except OSError:
            subprocess.run(["sleep", "0.5"], check=True)
            continue
        break
    yield url, mark
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


def test_every_socket_of_a_platform_is_on_loopback_or_refuses_strangers(platform: RunningPlatform) -> None:
    found = list(listening(platform.processes()))
    assert len(found) > 5  # GCS, raylet and workers do listen
    assert _open_to_strangers(iter(found)) == {}


def test_every_socket_of_a_job_server_is_on_loopback_or_refuses_strangers(server: tuple[str, str]) -> None:
    assert any("gcs_server" in one.command for one in listening(marked(server[1])))
    # A process that is just starting listens before its services are there: it cannot be judged yet.
    eventually(lambda: _open_to_strangers(listening(marked(server[1]))) == {}, 20)


def test_a_job_posted_without_the_token_does_not_run(server: tuple[str, str], tmp_path: Path) -> None:
    body = json.dumps({"entrypoint": f"touch {tmp_path}/ran"}).encode()
    agents = {one.port for one in listening(marked(server[1])) if "Dashboard" in one.command}
    ports = {int(server[0].rpartition(":")[2])} | agents
    for port in ports:
        for path in ("/api/jobs/", "/api/job_agent/jobs/"):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"}
            )
            with pytest.raises((OSError, http.client.HTTPException)) as refused:
                urllib.request.urlopen(request, timeout=5)
            if isinstance(refused.value, urllib.error.HTTPError):
                refused.value.close()
                assert refused.value.code in (401, 403)
    assert not (tmp_path / "ran").exists()


def test_nothing_is_written_into_the_gcs_without_the_token(platform: RunningPlatform) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{_gcs_port(listening(platform.processes()))}") as channel:
        for words in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/ray.rpc.InternalKVGcsService/InternalKVPut")(b"", timeout=5, metadata=words)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_driver_without_the_token_does_not_join(platform: RunningPlatform) -> None:
    address = f"127.0.0.1:{_gcs_port(listening(platform.processes()))}"
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_AUTH")}
    joined = subprocess.run(
        [sys.executable, "-c", STRANGER, address],
        env={**environment, "RAY_AUTH_MODE": "disabled", "RAY_gcs_rpc_server_connect_timeout_s": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert joined.returncode != 0 and "in" not in joined.stdout.split()
    assert "Auth" in joined.stderr


def test_the_token_is_in_a_file_of_its_owner_alone_and_nowhere_else(platform: RunningPlatform) -> None:
    for pid in platform.processes():
        variables = dict(
            pair.split("=", 1)
            for pair in Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
            if "=" in pair
        )
        if path := variables.get("RAY_AUTH_TOKEN_PATH"):
            break
    else:
        pytest.fail("no process of the platform has a token")
    file = Path(path)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    token = file.read_bytes()
    assert len(token) >= 32
    for pid in platform.processes():
        for place in ("cmdline", "environ"):
            assert token not in Path(f"/proc/{pid}/{place}").read_bytes()
    for log in [*platform.data.rglob("*.log"), *file.parent.rglob("*.log"), *file.parent.rglob("*.err")]:
        assert token not in log.read_bytes()


def test_a_fresh_token_is_made_each_time(tmp_path: Path) -> None:
    made = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.add(Path(make_token(tmp_path / name)["RAY_AUTH_TOKEN_PATH"]).read_text())
    assert len(made) == 2


def test_a_cluster_that_asks_for_no_token_is_refused_unless_told_otherwise(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INSECURE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert process.stdin and process.stdout
    try:
        address = process.stdout.readline().strip()
        assert admits_strangers(address)
        join = (
            "import sys; from eagleray.cluster.config import Config; from eagleray.cluster.ray_session import connect\n"
            "config = Config.model_validate({'ray': {'insecure': sys.argv[2] == 'yes'}})\n"
            "connect(config, sys.argv[1]).close()"
        )
        environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_AUTH")}
        environment |= {"RAY_AUTH_MODE": "disabled", "HOME": str(tmp_path)}
        for insecure, fine in (("no", False), ("yes", True)):
            command = [sys.executable, "-c", join, address, insecure]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
            assert (done.returncode == 0) is fine, done.stderr
            if not fine:
                assert ConfigError.__name__ in done.stderr and "--insecure-ray" in done.stderr
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def test_a_server_that_does_not_answer_is_no_open_door() -> None:
    assert not serves_strangers("http://127.0.0.1:9/api/jobs/")
    assert Config().ray.insecure is False
