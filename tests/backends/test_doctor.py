"""What `eagleray doctor` finds out about a bucket, and mends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from eagleray.cluster.clock import ManualClock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.s3_check import look
from tests.backends.conftest import lake_config
from tests.lake_tables import SCHEMA, make_stream
from tests.servers import moto
from tests.servers.postgres import PostgresServer
from tests.servers.process import Server
from tests.servers.s3 import BUCKET, S3Server


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto.moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


def config_of(tmp_path: Path, url: str, bucket: str) -> Config:
    own = {"endpoint": url, "region": "us-east-1", "attempts_max": 2}
    return Config.model_validate({"data_dir": tmp_path, "lake": {"warehouse": f"s3://{bucket}/lake", "s3": own}})


def verdicts(config: Config, fix: bool = False) -> dict[str, str]:
    return {seen.what: seen.verdict for seen in look(config, SystemClock(), fix)}


def test_a_bucket_is_judged_and_its_lifecycle_mended_beside_other_rules(
    aws: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.KEYS.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=aws.url)
    client.create_bucket(Bucket="judged")
    other = {"ID": "other", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 1}}
    client.put_bucket_lifecycle_configuration(Bucket="judged", LifecycleConfiguration={"Rules": [other]})
    config = config_of(tmp_path, aws.url, "judged")
    rest = {"bucket": "ok", "bucket clock": "ok", "bucket rights": "ok"}
    assert verdicts(config) == {**rest, "bucket public": "warn", "bucket parts": "warn"}
    blocked = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    client.put_public_access_block(Bucket="judged", PublicAccessBlockConfiguration=blocked)
    assert verdicts(config, fix=True) == {**rest, "bucket public": "ok", "bucket parts": "ok"}
    assert verdicts(config) == {**rest, "bucket public": "ok", "bucket parts": "ok"}
    rules = client.get_bucket_lifecycle_configuration(Bucket="judged")["Rules"]
    assert [rule["ID"] for rule in rules] == ["other", "eagleray-abort-incomplete-uploads"]
    assert not client.list_objects_v2(Bucket="judged").get("Contents")


def test_a_missing_bucket_wrong_keys_and_a_wrong_clock_are_bad(
    s3: S3Server, keys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verdicts(config_of(tmp_path, s3.url, "absent")) == {"bucket": "bad"}
    config = config_of(tmp_path, s3.url, BUCKET)
    found = {seen.what: seen for seen in look(config, ManualClock(SystemClock().now_us() + 3_600_000_000))}
    assert found["bucket clock"].verdict == "bad"
    assert re.search(r"\+36\d\d s off", found["bucket clock"].found)
    assert found["bucket rights"].verdict == "ok"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert verdicts(config) == {"bucket": "bad"}


def test_a_warehouse_belongs_to_one_catalog(s3: S3Server, postgres: PostgresServer, keys: None, tmp_path: Path) -> None:
    config = lake_config(tmp_path / "a", s3, postgres)
    for _ in range(2):
        Lake.open(config).ensure({"s": make_stream()})
    sqlite = {"type": "sql"}
    other = lake_config(tmp_path / "b", s3, postgres, warehouse=config.warehouse, catalog=sqlite)
    with pytest.raises(ConfigError, match=r"lake\.catalog\.uri: s3://.* belongs to another catalog"):
        Lake.open(other).ensure({"s": make_stream()})
    alone = lake_config(tmp_path / "c", s3, postgres, catalog=sqlite)
    Lake.open(alone).ensure({"s": make_stream()})
    again = lake_config(tmp_path / "d", s3, postgres, warehouse=alone.warehouse, catalog=sqlite)
    with pytest.raises(ConfigError, match="in Postgres"):
        Lake.open(again).ensure_output("r.t", SCHEMA)
