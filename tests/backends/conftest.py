"""The servers of these tests, one of each for the session; a test that breaks one starts its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from eagleray.cluster.config import Config
from tests.servers.kafka import Brokers, kafka_brokers
from tests.servers.kafka import missing as no_kafka
from tests.servers.postgres import PostgresServer, missing, postgres_server
from tests.servers.s3 import BUCKET, S3Server, s3_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server with the bucket BUCKET."""
    pytest.importorskip("boto3")
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres."""
    pytest.importorskip("psycopg")
    if why := missing():
        pytest.skip(why)
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """A broker."""
    pytest.importorskip("aiokafka")
    if why := no_kafka():
        pytest.skip(why)
    with kafka_brokers(tmp_path_factory.mktemp("kafka")) as brokers:
        yield brokers


@pytest.fixture
def keys(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's keys in this process's environment."""
    for name, value in s3.keys.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def config(s3: S3Server, postgres: PostgresServer, keys: None, tmp_path: Path) -> Config:
    """A lake of its own in the bucket, its catalog in a database of its own."""
    return lake_config(tmp_path, s3, postgres)


def lake_config(directory: Path, server: S3Server, postgres: PostgresServer, **lake: Any) -> Config:
    """A configuration with an empty lake on both servers."""
    settings = {
        "warehouse": f"s3://{BUCKET}/{uuid4().hex}",
        "s3": {"endpoint": server.url, "region": "us-east-1"},
        "catalog": {"type": "sql", "uri": postgres.new_database()},
        **lake,
    }
    return Config.model_validate({"data_dir": directory / "data", "lake": settings})
