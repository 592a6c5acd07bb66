"""From HTTP to SQL and jobs with the lake on S3 and the catalog in Postgres, by configuration alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.platform_on_s3 import Backed
from tests.running_platform import eventually, running
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import BUCKET, S3Server

pytestmark = pytest.mark.platform

JOB = """/* eagleray
output: reports.kinds
mode: full
*/
SELECT kind, count(*) AS events, CAST(sum(amount) AS BIGINT) AS amount FROM hot.events GROUP BY ALL
"""


@pytest.fixture(scope="module")
def backed(s3: S3Server, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backed]:
    """A running platform."""
    backed = Backed(tmp_path_factory.mktemp("backed"), s3, postgres)
    backed.add_job("kinds.sql", JOB)
    with running(backed.platform):
        yield backed


def test_events_are_asked_for_by_sql_and_used_by_jobs(backed: Backed, s3: S3Server) -> None:
    platform = backed.platform
    rest = {"producer": 99, "time": "2026-01-01T00:00:00Z", "kind": "buy"}
    platform.send("hot", [json.dumps({"id": f"a{n}", "seq": n, "amount": n, **rest}).encode() for n in range(500)])
    eventually(lambda: platform.count("hot.events") == 500)
    found = json.loads(backed.run("sql", "SELECT sum(amount) AS a FROM hot.events", "--format", "json"))
    assert found == [{"a": sum(range(500))}]
    backed.run("job", "run", "kinds")
    assert platform.sql("SELECT kind, events FROM reports.kinds") == [("buy", 500)]
    assert list((s3.objects / BUCKET).rglob("*.parquet"))
    assert not list(platform.data.rglob("*.parquet"))
    assert not (platform.data / "catalog.db").exists()
    assert not (platform.data / "jobs.db").exists()


def test_workers_killed_under_load_lose_nothing(backed: Backed) -> None:
    trial = backed.trial
    trial.begin()
    try:
        for pool in ("writer", "committer", "window"):
            trial.wait_replaced(pool, trial.kill(pool))
            trial.assert_progress()
    finally:
        trial.end()
    trial.close_windows()
    trial.assert_safe()


def test_keys_are_in_no_log_and_no_arguments(backed: Backed, s3: S3Server) -> None:
    secret = s3.keys["AWS_SECRET_ACCESS_KEY"].encode()
    for pid in backed.platform.processes():
        try:
            assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            continue
    logs = [file for file in (backed.platform.data / "logs").rglob("*") if file.is_file()]
    assert logs
    assert not [file for file in logs if secret in file.read_bytes()]
