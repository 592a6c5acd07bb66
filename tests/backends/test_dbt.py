"""dbt, unmodified from the package registry, reads a lake: it compiles, shows, documents, and asks how fresh it is.

Of dbt-core the versions before 1.11: later ones need a parser that is built from Rust.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgres_door import Door
from tests.servers.installed import installed, run

VERSIONS = ("dbt-core>=1.10,<1.11", "dbt-postgres>=1.9,<1.10")
PROJECT = {
    "dbt_project.yml": "name: shop\nprofile: lake\nflags: {send_anonymous_usage_stats: false}\n",
    "models/sources.yml": """
sources:
  - name: s
    database: lake
    schema: s
    tables:
      - name: events
        loaded_at_field: _ingested_at
        freshness: {warn_after: {count: 1, period: day}}
""",
    "models/by_user.sql": "select \"user\", count(*) as edits from {{ source('s', 'events') }} group by 1 order by 1",
}
Dbt = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dbt")
    for name, text in PROJECT.items():
        file = directory / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return directory


@pytest.fixture(scope="module")
def dbt(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dbt]:
    uv = str(Path(sys.executable).with_name("uv"))
    place = installed(
        f"dbt-1.10-python{sys.version_info.minor}",
        lambda made: run(
            uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(made), *VERSIONS, cwd=made
        ),
    )
    door = Door(tmp_path_factory.mktemp("door"))
    output = {
        "type": "postgres", "host": "127.0.0.1", "port": door.server.port, "user": "ann", "password": door.keys["ann"],
        "dbname": "lake", "schema": "s", "threads": 2,
    }  # fmt: skip
    profiles = {"lake": {"target": "dev", "outputs": {"dev": output}}}
    (project / "profiles.yml").write_text(json.dumps(profiles))  # JSON is YAML
    environ = {**os.environ, "PYTHONPATH": str(place), "DBT_PROFILES_DIR": str(project), "DO_NOT_TRACK": "1"}
    environ |= {"PYTHONSAFEPATH": "1", "NO_COLOR": "1"}

    def asked(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from dbt.cli.main import cli; cli()", "--no-version-check", *words]
        return subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, timeout=280)

    yield asked
    door.server.stop()


def test_dbt_connects_compiles_and_shows(dbt: Dbt) -> None:
    done = dbt("debug")
    assert done.returncode == 0 and "All checks passed!" in done.stdout, done.stdout
    done = dbt("show", "--select", "by_user", "--output", "json", "--limit", "3")
    assert done.returncode == 0 and '"user": "user-0"' in done.stdout and '"edits": 8' in done.stdout, done.stdout


def test_dbt_tells_how_fresh_a_table_is_and_documents_it(dbt: Dbt, project: Path) -> None:
    done = dbt("source", "freshness")
    assert done.returncode == 0 and "WARN freshness of s.events" in done.stdout, done.stdout
    done = dbt("docs", "generate")
    assert done.returncode == 0, done.stdout
    source = json.loads((project / "target" / "catalog.json").read_text())["sources"]["source.shop.s.events"]
    types = {name: column["type"] for name, column in source["columns"].items()}
    assert (types["time"], types["user"], types["n"]) == ("timestamp with time zone", "text", "bigint")


def test_a_model_that_dbt_would_write_is_refused_with_what_to_do(dbt: Dbt) -> None:
    done = dbt("run")
    assert done.returncode == 1 and "CREATE is not allowed: queries only read" in done.stdout, done.stdout
