"""Faults, each found and mended with what docs/OPERATIONS.md says and nothing else, typed as it stands there.

A command is looked for in its section before it is run: a page that names another one fails the test.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.observability.conftest import HERE, Trickle, small_disk
from tests.running_platform import RunningPlatform, eventually, running

OPERATIONS = (HERE.parents[1] / "docs" / "OPERATIONS.md").read_text()
PATIENCE_S = 120.0


@dataclass
class Operator:
    """Somebody who has the page, a shell in the project's directory, and the platform's URL."""

    platform: RunningPlatform
    trickle: Trickle
    own_disk: bool

    def types(self, section: str, command: str, **names: str) -> str:
        """Run what the section says, with its words in capitals replaced; what was printed."""
        body = re.split(r"\n###? ", OPERATIONS.partition(f"### {section}\n")[2])[0]
        assert f"`{command}`" in " ".join(body.split()), f"{section} does not say `{command}`"
        for name, value in names.items():
            command = re.sub(rf"\b{name}\b", value, command)
        environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        ran = subprocess.run(
            ["bash", "-c", command], cwd=self.platform.directory, env=environ,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return ran.stdout + ran.stderr

    def ready(self) -> str:
        return self.types("EaglerayNotReady", "curl URL/readyz", URL=self.platform.url)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    place = tmp_path_factory.mktemp("runbooks") / "platform"
    with small_disk(place / "data") as own_disk:
        made = RunningPlatform(place, HERE / "project", {"EAGLERAY__EDGE__READY_LAG_S": "5"})
        with running(made) as platform:
            trickle = Trickle(platform)
            sender = threading.Thread(target=trickle.run, daemon=True)
            sender.start()
            yield Operator(platform, trickle, own_disk)
            trickle.stopped.set()
            sender.join()


def test_dead_letters_rise_and_are_sent_again(operator: Operator) -> None:
    section, schema = "EaglerayDeadLettersRise", operator.platform.directory / "clicks.schema.json"
    operator.platform.post("clicks", b'{"time": "2026-01-05T09:00:01Z", "id": "one"}')
    listed = eventually(
        lambda: (
            "schema 1" in (said := operator.types(section, "eagleray dead-letters list STREAM", STREAM="clicks"))
            and said
        )
    )
    identity = re.search(r"^(\d+-\d+-\d+) ", listed, re.MULTILINE)
    assert identity is not None
    shown = operator.types(section, "eagleray dead-letters show STREAM ID", STREAM="clicks", ID=identity[1])
    assert "user" in shown and '"id": "one"' in shown
    schema.write_text(json.dumps({**json.loads(schema.read_text()), "required": ["time", "id"]}))
    assert operator.platform.stop() == 0
    operator.platform.start()
    assert "accepted 1" in operator.types(section, "eagleray dead-letters replay STREAM", STREAM="clicks")
    eventually(lambda: operator.platform.sql("SELECT count(*) FROM clicks.events WHERE id = 'one'") == [(1,)])


def test_a_broken_job_file_is_mended(operator: Operator) -> None:
    jobs = operator.platform.directory / "jobs"
    jobs.mkdir(exist_ok=True)
    (jobs / "broken.sql").write_text("/* eagleray\noutput: reports.broken\nschedle: '@daily'\n*/\nSELECT 1 AS a\n")
    said = operator.types("EaglerayJobFilesBroken", "eagleray job list")
    assert "broken.sql:3" in said and "did you mean schedule" in said
    eventually(lambda: "broken.sql" in operator.types("EaglerayWorkersMissing", "eagleray status"))
    (jobs / "broken.sql").write_text("/* eagleray\noutput: reports.broken\nschedule: '@daily'\n*/\nSELECT 1 AS a\n")
    eventually(lambda: "broken.sql" not in operator.types("EaglerayWorkersMissing", "eagleray status"))


def test_a_table_that_somebody_dropped_is_named(operator: Operator) -> None:
    catalog = sqlite3.connect(operator.platform.data / "catalog.db", isolation_level=None, timeout=30)
    where = "WHERE table_namespace = 'clicks' AND table_name = 'events'"
    row = catalog.execute(f"SELECT * FROM iceberg_tables {where}").fetchone()
    catalog.execute(f"DELETE FROM iceberg_tables {where}")
    try:
        said = eventually(lambda: "gone" in (said := operator.ready()) and said, PATIENCE_S)
        assert "clicks.events" in said
    finally:
        catalog.execute(f"INSERT INTO iceberg_tables VALUES ({', '.join('?' * len(row))})", row)
        catalog.close()
    eventually(lambda: "gone" not in operator.ready(), PATIENCE_S)


def test_a_full_disk_is_seen_and_emptied(operator: Operator) -> None:
    if not operator.own_disk:
        pytest.skip("a disk of its own cannot be mounted here")
    filler = operator.platform.data / "filler"
    with filler.open("wb") as file:
        while True:
            try:
                file.write(b"x" * 65536)
            except OSError:
                break
    try:
        eventually(lambda: "log" in operator.ready(), PATIENCE_S)
        assert "disk" in operator.types("EaglerayDiskFills", "eagleray doctor")
    finally:
        filler.unlink()
    eventually(lambda: operator.platform.request("GET", "/readyz")[0] == 200, PATIENCE_S)
