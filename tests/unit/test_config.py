"""The configuration file: what is refused, and how the message names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.one_machine import check_nodes
from eagleray.cluster.sections import SQL_NAMES
from eagleray.sql.query import Sql
from tests.lake_tables import make_lake, make_stream


def load(directory: Path, text: str) -> Config:
    file = directory / "eagleray.yaml"
    file.write_text(text)
    return load_config(file, environ={})


@pytest.mark.parametrize("name", sorted(SQL_NAMES))
def test_a_stream_cannot_have_a_name_of_sql_itself(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"eagleray.yaml: streams\.{name}: SQL has a schema or catalog of this name"):
        load(tmp_path, f"streams: {{{name}: {{schema: s.json, time: t}}}}")


@pytest.mark.parametrize("name", ["Orders", "1st", "a-b", "a.b", "x" * 64])
def test_a_stream_name_is_lower_case_letters_digits_and_underscores(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"eagleray.yaml: streams\."):
        load(tmp_path, f'streams: {{"{name}": {{schema: s.json, time: t}}}}')


@pytest.mark.parametrize("name", ["default", "public", "order", "select", "events", "pg_temp", "sys"])
def test_any_other_name_can_be_asked_for_in_sql(tmp_path: Path, name: str) -> None:
    load(tmp_path, f'streams: {{"{name}": {{schema: s.json, time: t}}}}')
    with Sql(make_lake(tmp_path, make_stream(name=name)).config) as sql:
        assert sql.query(f'SELECT count(*) AS n FROM "{name}".events, "{name}".late', 60).table.to_pylist() == [
            {"n": 0}
        ]


def test_settings_of_s3_without_an_s3_warehouse_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "eagleray.yaml"
    file.write_text("lake: {s3: {region: eu-west-1}}\n")
    with pytest.raises(ConfigError, match=r"lake.*warehouse that begins with s3://"):
        load_config(file)
    file.write_text("lake: {warehouse: 's3://b/w', s3: {kms_key: k}}\n")
    with pytest.raises(ConfigError, match=r"kms_key needs encryption: aws:kms"):
        load_config(file)


KAFKA = {"backend": "kafka", "brokers": ["k:9092"]}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, r"log\.backend"),
        ({"log": KAFKA}, r"lake\.warehouse"),
        ({"log": KAFKA, "lake": {"warehouse": "s3://b/w"}}, r"lake\.catalog\.uri"),
        (
            {
                "log": KAFKA,
                "lake": {"warehouse": "s3://b/w", "catalog": {"uri": "postgresql://h/d"}},
            },
            r"jobs\.history",
        ),
        (
            {
                "log": KAFKA,
                "lake": {"warehouse": "s3://b/w", "catalog": {"uri": "postgresql://h/d"}},
                "jobs": {"history": "postgresql://h/d"},
            },
            r"state\.backend.*expected shared",
        ),
    ],
)
def test_files_of_one_machine_are_refused_on_several_nodes(settings: dict[str, Any], named: str) -> None:
    config = Config.model_validate(settings)
    check_nodes(config, 1)
    with pytest.raises(ConfigError, match=named):
        check_nodes(config, 2)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"backend": "kafka"}, r"log.*needs brokers"),
        ({"backend": "kafka", "brokers": ["k"]}, r"log.brokers.*expected HOST:PORT, found 'k'"),
        ({"kafka": {"replication": 2}}, r"log.*brokers names none"),
        ({**KAFKA, "kafka": {"replication": 1}}, r"log.kafka.*min_insync_replicas is above replication \(1\)"),
        ({**KAFKA, "kafka": {"topic_retention_hours": 1}}, r"log.*topic_retention_hours is shorter than retention_h"),
        ({**KAFKA, "kafka": {"record_bytes_max": 1 << 20}}, r"record_bytes_max .* cannot hold .*edge.event_bytes_max"),
        ({**KAFKA, "kafka": {"sasl": {"username": "u"}}}, r"log.kafka.sasl.*one of password_file and password_env"),
        (
            {**KAFKA, "kafka": {"sasl": {"username": "u", "mechanism": "PLAIN", "password_env": "P"}}},
            r"log.*PLAIN sends the password as it is",
        ),
        ({**KAFKA, "kafka": {"tls": {"cert": "c.pem"}}}, r"log.kafka.tls.*cert and key go together"),
    ],
)
def test_settings_of_kafka_that_cannot_keep_the_promise_are_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], problem: str
) -> None:
    file = tmp_path / "eagleray.yaml"
    file.write_text(yaml.safe_dump({"log": settings}))
    with pytest.raises(ConfigError, match=problem):
        load_config(file)


def test_the_password_of_kafka_comes_from_a_file_or_the_environment_and_is_not_in_the_configuration(
    tmp_path: Path,
) -> None:
    file, secret = tmp_path / "eagleray.yaml", tmp_path / "secret"
    secret.write_text("of-the-file\n")
    for place, expected in (({"password_file": "secret"}, "of-the-file"), ({"password_env": "P"}, "of-env")):
        sasl = {"username": "u", **place}
        file.write_text(yaml.safe_dump({"log": {**KAFKA, "kafka": {"sasl": sasl}}}))
        config = load_config(file)
        assert config.log.kafka.sasl is not None
        assert config.log.kafka.sasl.password({"P": "of-env"}) == expected
        assert expected not in repr(config) and expected not in config.model_dump_json()
    with pytest.raises(ConfigError, match=r"environment variable P is empty; expected the password of u"):
        config.log.kafka.sasl.password({})


POSTGRES = {"lake": {"warehouse": "s3://b/w", "catalog": {"uri": "postgresql://h/d"}}}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"state": {"backend": "shared"}}, r"lake\.catalog\.uri: state\.backend: shared .*expected postgresql://"),
        ({"state": {"backend": "shared", "database": "sqlite:///d"}}, r"state\.database: .*expected postgresql://"),
        (
            {"state": {"backend": "shared"}, "lake": {"catalog": {"type": "rest", "uri": "http://h"}}},
            r"state\.database",
        ),
        ({"state": {"backend": "shared", "database": "postgresql://h/d"}}, r"lake\.warehouse: .*expected s3://"),
        ({"state": {"database": "postgresql://h/d"}}, r"state\.database: it is for state\.backend: shared"),
        ({"state": {"backend": "shared"}, **POSTGRES, "jobs": {"history": "sqlite:///h"}}, r"jobs\.history: "),
    ],
)
def test_shared_state_needs_servers_that_every_node_reaches(
    tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    file = tmp_path / "eagleray.yaml"
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=named):
        load_config(file, environ={})


def test_shared_state_holds_every_node_of_a_cluster(tmp_path: Path) -> None:
    file = tmp_path / "eagleray.yaml"
    file.write_text(yaml.safe_dump({"state": {"backend": "shared"}, "log": KAFKA, **POSTGRES}))
    config = load_config(file, environ={})
    check_nodes(config, 3)
    assert config.jobs_history == "postgresql://h/d"
