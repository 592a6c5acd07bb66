"""A platform under load while its store and its catalog break, one after the other; a checker judges at the end.

Safe means what it means in tests/faults: every acked event is in the table or in the dead letters, none twice; order
of each key; each window equals a recomputation from `events`; progress resumes within 30 s of the heal.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.backends.platform_on_s3 import Backed
from tests.faults.trial import Trial
from tests.running_platform import eventually, running
from tests.servers.postgres import PostgresServer, missing, postgres_server
from tests.servers.s3 import S3Server, s3_server
from tests.servers.s3_proxy import S3Proxy, s3_proxy
from tests.servers.toxiproxy import Toxiproxy, toxiproxy

pytestmark = [pytest.mark.platform, pytest.mark.faults, pytest.mark.timeout(900)]

BROKEN_S = 6.0  # how long each fault lasts: several commits


@dataclass(frozen=True)
class Broken:
    """A platform under load, and everything that can break under it."""

    backed: Backed
    s3: S3Server
    store: S3Proxy
    postgres: PostgresServer
    wire: Toxiproxy

    @property
    def trial(self) -> Trial:
        return self.backed.trial

    def errors(self) -> float:
        """Rounds of the committer that failed so far."""
        text = self.backed.platform.request("GET", "/metrics")[2].decode()
        lines = [line for line in text.splitlines() if line.startswith("eagleray_committer_errors_total")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def assert_acks_go_on(self) -> None:
        """The log does not wait for the lake."""
        acked = self.trial.acked()
        eventually(lambda: self.trial.acked() > acked + 5, 30)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    """Servers of its own, a platform behind the proxies, the load from the first test to the last."""
    pytest.importorskip("psycopg")
    if why := missing():
        pytest.skip(why)
    place = tmp_path_factory.mktemp("broken")
    with (
        s3_server(place / "s3") as s3,
        s3_proxy(s3.port, place / "proxy.log") as store,
        postgres_server(connections_max=40) as postgres,
        toxiproxy(place / "toxiproxy.log") as wire,
    ):
        port = wire.proxy("postgres", postgres.port)
        keys = place / "keys"
        backed = Backed(place, s3, postgres, store.url, f"postgresql://eagleray@127.0.0.1:{port}/{{}}", keys)
        with running(backed.platform):
            backed.trial.begin()
            yield Broken(backed, s3, store, postgres, wire)
            backed.trial.end()


def test_store_answers_one_in_five_with_503(broken: Broken) -> None:
    broken.store.break_with(unavailable=0.2)
    broken.trial.assert_progress()
    assert broken.store.struck()["unavailable"] > 0
    broken.store.break_with()


def test_store_is_a_black_hole_for_a_while(broken: Broken) -> None:
    broken.s3.signal(signal.SIGSTOP)
    try:
        broken.assert_acks_go_on()
        time.sleep(BROKEN_S)
        broken.assert_acks_go_on()
    finally:
        broken.s3.signal(signal.SIGCONT)
    broken.trial.assert_progress()


def test_store_killed_and_started(broken: Broken) -> None:
    broken.s3.kill()
    broken.assert_acks_go_on()
    broken.s3.start()
    broken.trial.assert_progress()


def test_uploads_are_truncated(broken: Broken) -> None:
    broken.store.break_with(truncate=0.3, break_off=0.1)
    eventually(lambda: broken.store.struck().get("truncate", 0) > 3, 60)
    broken.store.break_with()
    broken.trial.assert_progress()


def test_slow_link_to_the_store(broken: Broken) -> None:
    broken.store.break_with(delay_s=0.2)
    broken.assert_acks_go_on()
    stored = broken.backed.platform.count("orders.events")
    eventually(lambda: broken.backed.platform.count("orders.events") > stored, 60)
    broken.store.break_with()
    broken.trial.assert_progress()


def test_store_refuses_the_clock(broken: Broken) -> None:
    broken.store.break_with(clock=True)
    broken.assert_acks_go_on()
    eventually(lambda: broken.store.struck().get("clock", 0) > 3, 60)
    broken.store.break_with()
    broken.trial.assert_progress()


def test_keys_are_revoked_and_handed_out_anew(broken: Broken) -> None:
    broken.backed.revoke()
    broken.assert_acks_go_on()
    time.sleep(BROKEN_S)
    broken.backed.hand_out()
    broken.trial.assert_progress()


def test_catalog_restarted(broken: Broken) -> None:
    broken.postgres.stop("fast")
    broken.assert_acks_go_on()
    broken.postgres.start()
    broken.trial.assert_progress()


def test_catalog_killed(broken: Broken) -> None:
    broken.postgres.kill()
    broken.assert_acks_go_on()
    broken.postgres.start()
    broken.trial.assert_progress()


def test_catalog_out_of_connections(broken: Broken) -> None:
    held: list[psycopg.Connection[Any]] = []
    broken.wire.enable("postgres", False)  # drop what the platform has, so that it needs new ones
    try:
        while True:
            try:
                held.append(psycopg.connect(broken.postgres.url))
            except psycopg.OperationalError:
                break
        broken.wire.enable("postgres", True)
        broken.assert_acks_go_on()
        time.sleep(BROKEN_S)
    finally:
        for connection in held:
            connection.close()
        broken.wire.enable("postgres", True)
    assert len(held) > 10
    broken.trial.assert_progress()


def test_connections_to_the_catalog_are_cut_in_the_middle_of_answers(broken: Broken) -> None:
    for size in (400, 900, 1500, 2500, 4000):
        with broken.wire.toxic("postgres", "limit_data", bytes=size):
            time.sleep(2)
    broken.trial.assert_progress()


def test_what_was_acked_is_there_once(broken: Broken) -> None:
    broken.trial.end()
    broken.trial.close_windows()
    broken.trial.assert_safe(600)
