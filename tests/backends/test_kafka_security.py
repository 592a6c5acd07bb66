"""A log over TLS with a password, and over mutual TLS: what is shown, what is refused, and where the secret is not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from eagleray.cluster.errors import ConfigError, LogUnavailable
from eagleray.cluster.log.kafka import KafkaLog
from eagleray.cluster.sections import LogConfig
from tests.certificates import Pair, make
from tests.contract.log_contract import events, payloads
from tests.servers.kafka import Brokers, kafka_brokers
from tests.servers.kafka import missing as no_kafka
from tests.servers.process import free_port

SECRET = "a-secret-of-the-lab"
_JAAS = "org.apache.kafka.common.security"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secure")


@pytest.fixture(scope="module")
def authority(place: Path) -> Pair:
    return make(place, "authority", ca=True)


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {name: free_port() for name in ("sasl", "mutual")}


@pytest.fixture(scope="module")
def brokers(place: Path, authority: Pair, ports: dict[str, int]) -> Iterator[Brokers]:
    """One broker with three doors: in the clear for itself, SASL over TLS, and mutual TLS."""
    if why := no_kafka():
        pytest.skip(why)
    server = make(place, "broker", authority)
    keystore = place / "keystore.pem"
    keystore.write_bytes(server.key.read_bytes() + server.cert.read_bytes())
    doors = f"PLAINTEXT://127.0.0.1:{{port}},SASL://127.0.0.1:{ports['sasl']},MUTUAL://127.0.0.1:{ports['mutual']}"
    plain = f'{_JAAS}.plain.PlainLoginModule required user_lab="{SECRET}";'
    settings = {
        "listeners": f"{doors},CONTROLLER://127.0.0.1:{{controller}}",
        "advertised.listeners": doors,
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_SSL,MUTUAL:SSL",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl.plain.sasl.jaas.config": plain,
        "listener.name.sasl.scram-sha-256.sasl.jaas.config": f"{_JAAS}.scram.ScramLoginModule required;",
        "listener.name.sasl.scram-sha-512.sasl.jaas.config": f"{_JAAS}.scram.ScramLoginModule required;",
        "listener.name.mutual.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.cert),
    }
    users = [f"SCRAM-SHA-{size}=[name=lab,password={SECRET}]" for size in (256, 512)]
    with kafka_brokers(place / "kafka", settings=settings, users=users) as running:
        yield running


def config(port: int, **kafka: Any) -> LogConfig:
    own = {"topic_prefix": uuid4().hex, "replication": 1, "min_insync_replicas": 1, **kafka}
    values = {"backend": "kafka", "brokers": [f"127.0.0.1:{port}"], "append_timeout_s": 30.0, "kafka": own}
    return LogConfig.model_validate(values)


def assert_works(settings: LogConfig) -> None:
    with closing(KafkaLog(settings)) as log:
        assert log.append("s", events(0, b"a")) == [0]
        assert payloads(log) == [b"a"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_with_the_right_password_is_let_in_and_the_password_is_in_no_log(
    brokers: Brokers,
    ports: dict[str, int],
    authority: Pair,
    mechanism: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("LAB_PASSWORD", SECRET)
    sasl = {"mechanism": mechanism, "username": "lab", "password_env": "LAB_PASSWORD"}
    assert_works(config(ports["sasl"], tls={"ca": authority.cert}, sasl=sasl))
    assert SECRET not in caplog.text
    assert SECRET.encode() not in Path(f"/proc/{os.getpid()}/cmdline").read_bytes()


def test_a_wrong_password_is_refused_without_quoting_it_and_a_renewed_one_counts(
    brokers: Brokers, ports: dict[str, int], authority: Pair, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("not-the-one\n")
    settings = config(
        ports["sasl"], tls={"ca": authority.cert}, sasl={"username": "lab", "password_file": file}
    ).model_copy(update={"append_timeout_s": 10.0})
    with pytest.raises(LogUnavailable) as refused:
        KafkaLog(settings)
    assert "not-the-one" not in str(refused.value)
    file.write_text(f"{SECRET}\n")
    assert_works(settings)
    file.unlink()
    with pytest.raises(ConfigError, match=r"password_file: .* cannot be read"):
        KafkaLog(settings)


def test_a_broker_whose_certificate_nobody_vouches_for_is_refused(
    brokers: Brokers, ports: dict[str, int], tmp_path: Path
) -> None:
    another = make(tmp_path, "another", ca=True)
    settings = config(ports["mutual"], tls={"ca": another.cert})
    with pytest.raises(LogUnavailable):
        KafkaLog(settings)


def test_mutual_tls_lets_in_who_has_a_certificate_and_nobody_else(
    brokers: Brokers, ports: dict[str, int], authority: Pair, tmp_path: Path
) -> None:
    mine = make(tmp_path, "client", authority)
    assert_works(config(ports["mutual"], tls={"ca": authority.cert, "cert": mine.cert, "key": mine.key}))
    with pytest.raises(LogUnavailable):
        KafkaLog(config(ports["mutual"], tls={"ca": authority.cert}).model_copy(update={"append_timeout_s": 10.0}))
    with pytest.raises(ConfigError, match=r"log.kafka.tls.key: .* is not there"):
        KafkaLog(config(ports["mutual"], tls={"ca": authority.cert, "cert": mine.cert, "key": tmp_path / "none"}))
