"""Each stage loads what it works with and nothing else: a worker that starts alone starts as fast as that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eagleray.actors.platform import kinds
from eagleray.cli.up import POSTGRES, SCHEDULER, SQL_WORKER
from eagleray.cluster.config import Config

ROOT = Path(__file__).parents[2]
HEAVY = {"ray", "pandas", "sqlalchemy", "pyiceberg", "duckdb", "pyarrow", "aiohttp", "daft", "rich", "typer", "boto3"}
JUDGING = {"duckdb", "pyarrow"}
LAKE = {"pyiceberg", "pyarrow", "duckdb", "sqlalchemy", "pandas"}  # pandas by way of pyarrow.dataset
LOADED = {
    "eagleray.cli.up": set(),
    "eagleray.actors.platform": {"ray"},
    "eagleray.actors.controller": {"ray"},
    "eagleray.actors.edge_actor": {"ray", "aiohttp", *JUDGING},
    "eagleray.actors.validate.worker": JUDGING,
    "eagleray.actors.window.worker": LAKE,
    "eagleray.actors.writer.worker": LAKE,
    "eagleray.actors.committer": {"ray", *LAKE},
    "eagleray.sql.worker": LAKE - {"sqlalchemy"},
    "eagleray.sql.postgres.server": LAKE - {"sqlalchemy"},
    "eagleray.jobs.schedule.scheduler": LAKE,
}


@pytest.mark.parametrize("module", LOADED)
def test_a_stage_loads_nothing_that_it_does_not_use(module: str) -> None:
    program = f"import sys, importlib; importlib.import_module({module!r}); print(*{HEAVY!r} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(ran.stdout.split()) <= LOADED[module]


def test_every_pools_stage_is_held() -> None:
    config = Config.model_validate({"sql": {"postgres": {}}})
    pools = kinds(config, SQL_WORKER, SCHEDULER, POSTGRES)
    assert {kind.module for kind in pools.values()} <= set(LOADED)
