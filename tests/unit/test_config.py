"""The configuration file: what is refused, and how the message names it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.one_machine import check_nodes
from eagleray.cluster.sections import SQL_NAMES
from eagleray.cluster.yaml_lines import load as load_yaml
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


def read(directory: Path, text: str) -> Config:
    (directory / "eagleray.yaml").write_bytes(text.encode())
    return load_config(directory / "eagleray.yaml", environ={})


def test_words_of_the_configuration_are_yaml_1_2s(tmp_path: Path) -> None:
    text = "{code: 012, land: NO, at: 12:30, n: 1_000, price: 1.5, on: true, day: 2026-01-05, most: 7}"
    found = read(tmp_path, f"\ufeffjobs: {{vars: {text}}}\nedge: {{auth: off}}\n")
    assert found.jobs.vars == {
        "code": "012", "land": "NO", "at": "12:30", "n": "1_000", "price": 1.5, "on": True, "day": date(2026, 1, 5),
        "most": 7,
    }  # fmt: skip
    assert found.edge.auth == "off"


def test_a_notification_says_on_what_as_documented(tmp_path: Path) -> None:
    found = read(tmp_path, "jobs: {notify: [{name: a, webhook: {url: 'https://x.example'}, on: [failed, succeeded]}]}")
    assert found.jobs.notify[0].on == ("failed", "succeeded")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("jobs: {timezone: UTC}\n\njobs: {folder: a}\n", r"jobs is there twice, first on line 1 \(line 3\)"),
        ("jobs:\n  folder: a\n  timezone: UTC\n  folder: b\n", r"folder is there twice, first on line 2 \(line 4\)"),
    ],
)
def test_a_section_that_is_there_twice_is_refused(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ConfigError, match=rf"eagleray\.yaml: {place}"):
        read(tmp_path, text)


@pytest.mark.parametrize("sign", ["\x85", "\u2028", "\u2029", "\ue000"])
@pytest.mark.parametrize("quoted", ["{}", "'{}'", '"{}"', "|-\n      {}"])
def test_only_newlines_end_a_line_of_the_configuration(tmp_path: Path, sign: str, quoted: str) -> None:
    found = read(tmp_path, f"jobs:\n  vars:\n    x: {quoted.format(f'a{sign}b')}\n    y: [1{sign}2]\n")
    assert found.jobs.vars == {"x": f"a{sign}b", "y": [f"1{sign}2"]}


def test_anchors_are_looked_at_once() -> None:
    nested = "".join(f"v{n}: &v{n} [{', '.join([f'*v{n - 1}'] * 9)}]\n" for n in range(1, 30))
    found = load_yaml(f"v0: &v0 [1]\n{nested}")  # nine to the thirtieth lists, one of each in memory
    assert found["v29"][0] is found["v28"]
    assert load_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")["b"] == {"x": 1, "y": 3}
