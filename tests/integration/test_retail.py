"""examples/retail: 18 tables by jobs of every mode and engine, each against plain Python over the same files.

The real files, or where they are not there the example's own sample. The events go through HTTP in two parts, with a
run of the incremental jobs in between; then the graph runs for every day, some days twice.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import settings

from eagleray.cluster.config import load_config
from eagleray.sql.query import Sql
from tests import retail_oracle as oracle
from tests.running_platform import RunningPlatform, eventually, running

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "retail"
WIKI = "events/wikipedia/wikiticker-2015-09-12-sampled.json.gz"
GITHUB = "events/gharchive/2015-01-01-0.json.gz"
SATURDAY = "2015-09-12"
INEXACT = 1e-6


DAYS = 23 if settings.get_current_profile_name() == "nightly" else 9
"""Of the shop, from 1 December 2010: with a Saturday, on which it is closed, and a second week."""


class Sources(NamedTuple):
    """What is sent."""

    shop: list[Path]
    wiki: list[bytes]
    github: list[bytes]


@pytest.fixture(scope="module")
def sources(input_file: Callable[[str], Path]) -> Sources:
    """The real files; where they are not there, the example's sample."""
    try:
        shop, wiki, github = input_file("events/retail"), input_file(WIKI), input_file(GITHUB)
    except pytest.skip.Exception:
        shop = EXAMPLE / "sample"
        wiki, github = shop / "wiki_edits.ndjson", shop / "github.ndjson"
    days = [shop / f"2010-12-{day:02}.csv" for day in range(1, DAYS + 1)]
    return Sources([day for day in days if day.exists()], oracle.packed_lines(wiki), oracle.packed_lines(github))


@pytest.fixture(scope="module")
def expected(sources: Sources) -> dict[str, Callable[[], list[oracle.Row]]]:
    wiki = oracle.Encyclopedia(sources.wiki, datetime(2015, 9, 12, tzinfo=UTC))
    return oracle.tables(oracle.Shop(sources.shop), wiki, oracle.Forge(sources.github))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, sources: Sources) -> Iterator[Path]:
    """The example, all of its events sent and all of its jobs run."""
    platform = RunningPlatform(tmp_path_factory.mktemp("retail") / "retail", EXAMPLE)
    shutil.copytree(EXAMPLE / "jobs", platform.directory / "jobs")
    wiki, github = sources.wiki, sources.github
    half, most = len(wiki) // 2, len(github) // 2
    # 1. half of the edits and events; incremental jobs run on them
    with running(platform):
        _sent(platform, "wiki_edits", wiki[:half])
        _sent(platform, "github", github[:most])
        _sent(platform, "retail_lines", _retail_events(sources.shop))
        assert platform.stop() == 0
    job(platform.directory, "run", "edits", "github_events", "--date", SATURDAY)
    # 2. the rest, with some of GitHub's once more
    with running(platform):
        _sent(platform, "wiki_edits", wiki[half:], half)
        _sent(platform, "github", github[most // 2 :], most, len(github))
        assert platform.stop() == 0
    # 3. as the example's page says, on whatever is there: all of the graph, for a day without an edit
    job(platform.directory, "run", "--all", "--date", "2010-12-01")
    # 4. every day of the shop, and what follows from it; the encyclopedia's day; one day of each once more
    job(
        platform.directory,
        "backfill",
        "lines",
        "--from",
        "2010-12-01",
        "--to",
        f"2010-12-{DAYS:02}",
        "--downstream",
        "--parallel",
        "1",
    )
    for _ in range(2):
        job(platform.directory, "run", "--all", "--date", SATURDAY, "--no-resume")
    job(platform.directory, "run", "lines", "--downstream", "--date", "2010-12-06", "--no-resume")
    yield platform.directory


def job(directory: Path, *words: str) -> None:
    """Run `eagleray job` in the project; it must succeed."""
    command = [str(Path(sys.executable).parent / "eagleray"), "job", *words]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def _retail_events(files: list[Path]) -> list[bytes]:
    """What the example's own loader makes of the files."""
    command = [sys.executable, str(EXAMPLE / "load.py"), *map(str, files)]
    return subprocess.run(command, capture_output=True, check=True).stdout.splitlines()


def _sent(platform: RunningPlatform, stream: str, lines: list[bytes], before: int = 0, then: int | None = None) -> None:
    """Send `lines` and wait until the table, which had `before` rows, has them all."""
    platform.send(stream, lines)
    count = before + len(lines) if then is None else then
    eventually(lambda: platform.count(f"{stream}.events") >= count, timeout_s=120)
    assert platform.count(f"{stream}.events") == count


TABLES = (
    "clean.lines clean.edits clean.github_events "
    "facts.invoices facts.customers facts.returns facts.country_days facts.sessions facts.channel_windows "
    "facts.repositories reports.retail_daily reports.top_products reports.customer_value reports.bought_together "
    "reports.wiki_daily reports.editors reports.edits_forecast reports.github_pulse"
).split()


@pytest.mark.parametrize("table", TABLES)
def test_table_holds_what_plain_python_computes(
    project: Path, expected: dict[str, Callable[[], list[oracle.Row]]], table: str
) -> None:
    wanted = expected[table]()
    if not wanted:
        assert _rows(project, table, ["*"]) == []
        return
    columns = list(wanted[0])
    inexact = [name for name in columns if isinstance(wanted[0][name], float)]
    exact = [name for name in columns if name not in inexact]
    found = _rows(project, table, columns)
    assert Counter(_values(row, exact) for row in found) == Counter(_values(row, exact) for row in wanted)
    if inexact:
        said = {_values(row, exact): _values(row, inexact) for row in found}
        for row in wanted:
            assert said[_values(row, exact)] == pytest.approx(_values(row, inexact), abs=INEXACT)


def test_every_job_of_the_example_is_tested(project: Path) -> None:
    config = load_config(project / "eagleray.yaml")
    with Sql(config) as sql:
        made = sql.query("SHOW TABLES", 60).table["name"].to_pylist()
    assert sorted(name for name in made if name.split(".")[0] in ("clean", "facts", "reports")) == sorted(TABLES)


def _values(row: oracle.Row, names: list[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def _rows(project: Path, table: str, columns: list[str]) -> list[dict[str, Any]]:
    names = ", ".join(name if name == "*" else f'"{name}"' for name in columns)
    with Sql(load_config(project / "eagleray.yaml")) as sql:
        answer: pa.Table = sql.query(f"SELECT {names} FROM {table}", 120).table
    return [{name: _plain(value) for name, value in row.items()} for row in answer.to_pylist()]


def _plain(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value
