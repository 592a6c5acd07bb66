"""The lake's promises with a REST catalog (Iceberg's own server) and with Glue (moto): by configuration alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.errors import CommitFailed, ConfigError
from eagleray.cluster.lake.catalog import open_catalog
from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.builtin import compact
from eagleray.sql.query import Sql
from tests.lake_tables import (
    EVENTS,
    SCHEMA,
    answer_lost,
    catalog_commits,
    event_rows,
    fight,
    make_stream,
    numbers,
)
from tests.servers import moto
from tests.servers.iceberg_rest import missing, rest_server
from tests.servers.process import Server
from tests.servers.s3 import BUCKET, S3Server
from tests.sql_lake import land, rows


@pytest.fixture(scope="module")
def rest(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A REST catalog and its warehouse."""
    if why := missing():
        pytest.skip(why)
    warehouse = f"s3://{BUCKET}/{uuid4().hex}"
    with rest_server(tmp_path_factory.mktemp("rest"), s3, warehouse) as server:
        yield server, warehouse


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto.moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(params=["rest", "glue"])
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """An empty catalog of each kind; REST and Glue share theirs between tests, so tables are dropped."""
    if request.param == "rest":
        server, warehouse = request.getfixturevalue("rest")
        s3 = request.getfixturevalue("s3")
        keys, endpoint, catalog = s3.keys, s3.url, {"type": "rest", "uri": server.url}
    else:
        aws = request.getfixturevalue("aws")
        keys, endpoint, warehouse = moto.KEYS, aws.url, "s3://glue/w"
        catalog = {"type": "glue", "glue.endpoint": aws.url, "glue.region": "us-east-1"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    if request.param == "glue":
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="glue")
    lake = {"warehouse": warehouse, "s3": {"endpoint": endpoint, "region": "us-east-1"}, "catalog": catalog}
    made = Config.model_validate({"data_dir": tmp_path / "data", "lake": lake})
    catalogs = open_catalog(made)
    for namespace in catalogs.list_namespaces():
        for table in catalogs.list_tables(namespace):
            catalogs.drop_table(table)
    return made


def opened(config: Config) -> Lake:
    lake = Lake.open(config)
    lake.ensure({"s": make_stream()})
    return lake


def test_what_is_committed_is_read_compacted_and_used(config: Config) -> None:
    lake = opened(config)
    opened(config)  # a second start changes nothing
    land(lake, *(event_rows(5, step) for step in range(0, 30, 5)))
    assert numbers(lake) == list(range(30))
    with Sql(config) as sql:
        assert rows(sql, "SELECT count(*) AS c, max(n) AS m FROM s.events") == [{"c": 30, "m": 29}]
    assert compact.run(config, compact.CompactOptions((EVENTS,))).files_after == 1
    lake.ensure_output("reports.n", SCHEMA)
    assert numbers(lake) == list(range(30))
    assert lake.progress(EVENTS) == {"p0": 6}
    assert "reports.n" in lake.tables()


def test_of_committers_that_fight_each_step_has_one_winner(config: Config) -> None:
    lake = opened(config)
    steps = 6
    fight(config, steps, processes=2)
    assert numbers(lake) == list(range(steps))
    assert lake.snapshot_count(EVENTS) == steps


def test_an_answer_that_was_lost_is_resolved_by_reading_back(config: Config) -> None:
    lake = opened(config)
    lost = answer_lost(ConnectionError("the server closed the connection unexpectedly"))
    with catalog_commits(lake, lost):
        assert lake.commit(EVENTS, lake.write(EVENTS, event_rows(3)), {"p0": 0}, {"p0": 3})
    assert (numbers(lake), lake.snapshot_count(EVENTS)) == ([0, 1, 2], 1)
    with pytest.raises(CommitFailed):
        lake.commit(EVENTS, lake.write(EVENTS, event_rows(3)), {"p0": 0}, {"p0": 2})


def test_a_rest_catalog_that_is_away_is_said_in_one_sentence(tmp_path: Path) -> None:
    lake = {"warehouse": "s3://b/w", "catalog": {"type": "rest", "uri": "http://127.0.0.1:1"}}
    with pytest.raises(ConfigError, match=r"lake\.catalog.*refused"):
        open_catalog(Config.model_validate({"data_dir": tmp_path, "lake": lake}))


def test_a_table_in_the_place_of_a_renamed_one_gets_files_of_its_own(config: Config) -> None:
    lake = opened(config)
    land(lake, event_rows(3))
    catalog = open_catalog(config)
    catalog.rename_table(EVENTS, "s.before")
    again = opened(config)
    assert numbers(again) == []
    assert again.load(EVENTS).location() != again.load("s.before").location()
    land(again, event_rows(2))
    assert (numbers(again), again.read("s.before", ["n"]).num_rows) == ([0, 1], 3)
