"""SQL clients that are no Python, unmodified from the package registries, against a lake: psql and pgjdbc."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres_door import Door
from tests.servers.installed import maven_libraries

SERVERS = Path(__file__).parents[1] / "servers"
PSQL_COMMANDS = (
    r"\l", r"\dn+", r"\dt *.*", r"\d s.events", r"\d+ s.events", r"\dv", r"\df", r"\du", r"\dT", r"\d", r"\di",
    r"\dp", r"\ds", r"\dx", r"\conninfo",
)  # fmt: skip


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    made = Door(tmp_path_factory.mktemp("clients"))
    yield made
    made.server.stop()


def psql(door: Door, *words: str) -> subprocess.CompletedProcess[str]:
    """What psql answers as `ann`."""
    program = shutil.which("psql")
    if program is None:
        pytest.skip("no psql here (Debian: apt-get install postgresql-client)")
    environ = {**os.environ, "PGPASSWORD": door.keys["ann"], "PGHOST": "127.0.0.1", "PGPORT": str(door.server.port)}
    command = [program, "-X", "-v", "ON_ERROR_STOP=1", "-U", "ann", "-d", "lake", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", PSQL_COMMANDS)
def test_psql_lists_what_there_is(door: Door, command: str) -> None:
    done = psql(door, "-c", command)
    assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr  # that there are none is said there, too
    if command.endswith("s.events"):
        assert "timestamp with time zone" in done.stdout


def test_psql_reads_by_a_cursor_and_points_at_errors(door: Door) -> None:
    done = psql(door, "-v", "FETCH_COUNT=1000", "-At", "-c", "SELECT i FROM range(25000) t(i)")
    assert done.stdout.split() == [str(i) for i in range(25_000)]
    done = psql(door, "-c", "SELECT n, nope FROM s.events")
    assert "LINE 1: SELECT n, nope FROM s.events\n                  ^" in done.stderr


def test_a_tool_over_jdbc_finds_what_it_asks_for(door: Door) -> None:
    if not shutil.which("java") or not shutil.which("mvn"):
        pytest.skip("no java or mvn here")
    libraries = maven_libraries("pgjdbc-42.7.8", SERVERS / "pgjdbc.pom.xml")
    url = f"jdbc:postgresql://127.0.0.1:{door.server.port}/lake"
    command = [
        "java",
        "-Xmx256m",
        "-cp",
        f"{libraries}/*",
        str(SERVERS / "JdbcChecks.java"),
        url,
        "ann",
        door.keys["ann"],
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said = done.stdout.splitlines()
    assert done.returncode == 0 and len(said) == 19, done.stdout + done.stderr
    assert all(line.startswith("ok ") for line in said)
