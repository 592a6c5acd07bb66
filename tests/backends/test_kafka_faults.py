"""A platform whose log is in Kafka, under load while its broker is killed and stopped; a checker judges at the end.

Safe means what it means in tests/faults. Acks must stop while the broker is away, and come back by themselves.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.faults.trial import Trial, on_trial
from tests.running_platform import eventually
from tests.servers.kafka import Brokers, kafka_brokers
from tests.servers.kafka import missing as no_kafka

pytestmark = [pytest.mark.platform, pytest.mark.faults]

BROKEN_S = 8.0  # longer than append_timeout_s


@dataclass(frozen=True)
class Broken:
    """A platform under load, and its broker."""

    trial: Trial
    brokers: Brokers

    def assert_nothing_is_acked(self) -> None:
        """Answers are 503 within the time limit of an append, and no ack is among them.

        It is asked of another stream than the one that is judged: what was answered 503 may still be stored.
        """
        event = {"id": f"none {time.monotonic()}", "producer": 77, "seq": 1, "time": "2026-01-01T00:00:00Z"}
        line = json.dumps(event | {"kind": "buy", "amount": 1}).encode()
        eventually(lambda: self.trial.platform.post("hot", line)[0] == 503, 30)
        acked = self.trial.acked()
        time.sleep(BROKEN_S)
        assert self.trial.acked() == acked


def settings(brokers: Brokers) -> dict[str, str]:
    """As environment variables: the log of one broker."""
    return {
        "EAGLERAY__LOG__BACKEND": "kafka",
        "EAGLERAY__LOG__BROKERS": json.dumps(brokers.addresses),
        "EAGLERAY__LOG__KAFKA__REPLICATION": str(min(3, len(brokers.ports))),
        "EAGLERAY__LOG__KAFKA__MIN_INSYNC_REPLICAS": str(min(2, len(brokers.ports))),
    }


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    """A broker of its own, the load from the first test to the last."""
    if why := no_kafka():
        pytest.skip(why)
    place = tmp_path_factory.mktemp("broken")
    with kafka_brokers(place / "kafka") as brokers, on_trial(place, settings(brokers)) as trial:
        yield Broken(trial, brokers)


def test_up_says_what_one_broker_risks(broken: Broken) -> None:
    said = (broken.trial.platform.directory / "up.stderr").read_text()
    assert "min.insync.replicas is 1" in said and "only copy" in said


def test_workers_killed_under_load(broken: Broken) -> None:
    for pool in ("validate", "writer", "window", "committer"):
        broken.trial.wait_replaced(pool, broken.trial.kill(pool, only=0))
        broken.trial.assert_progress()


def test_broker_killed_and_started(broken: Broken) -> None:
    broken.brokers.kill()
    broken.assert_nothing_is_acked()
    broken.brokers.start()
    broken.trial.assert_progress()


def test_broker_stopped_and_continued(broken: Broken) -> None:
    broken.brokers.stop()
    try:
        broken.assert_nothing_is_acked()
    finally:
        broken.brokers.go_on()
    broken.trial.assert_progress()


def test_broker_killed_with_a_validator_and_a_writer(broken: Broken) -> None:
    broken.brokers.kill()
    for pool in ("validate", "writer", "window"):
        broken.trial.kill(pool, signal.SIGKILL)
    broken.brokers.start()
    broken.trial.assert_progress(60)


def test_what_was_acked_is_there_once(broken: Broken) -> None:
    broken.trial.assert_all_is_there_once()
