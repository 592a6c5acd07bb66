"""API keys in Postgres: made on one node, they work on every other, also while the database is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eagleray.cluster.api_keys import ApiKey, KeyStore, Ring, open_keys, open_ring
from eagleray.cluster.clock import ManualClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.owner_key import ensure_owner_key, read_owner_key
from tests.servers.postgres import PostgresServer, postgres_server

CLOCK = ManualClock(1_000_000)


def node(directory: Path, url: str) -> Config:
    lake = {"warehouse": "s3://lake/any", "catalog": {"uri": url}}
    return Config.model_validate({"data_dir": directory, "lake": lake, "state": {"backend": "shared"}})


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "a hopeless wait"
        time.sleep(0.05)


def test_a_key_made_on_one_node_works_on_another_until_it_is_revoked(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    one, two = node(tmp_path / "1", url), node(tmp_path / "2", url)
    ring: Ring = open_ring(two)
    until(lambda: ring.known)
    assert ring.find("er_any") is None and ring.problem is None
    secret = open_keys(one, CLOCK).create("shop", ["write:ui", "read"], rate=5)
    until(lambda: ring.find(secret))
    assert ring.find(secret) == ring.named("shop") == ApiKey("shop", frozenset({"write:ui", "read"}), 5.0, 1_000_000)
    with pytest.raises(ValueError, match="exists"):
        open_keys(two, CLOCK).create("shop", ["read"])
    assert open_keys(two, CLOCK).revoke("shop") and not open_keys(one, CLOCK).revoke("shop")
    until(lambda: ring.find(secret) is None)
    again = open_keys(two, CLOCK).create("shop", ["admin"])
    until(lambda: ring.find(again))
    assert [(key.name, key.revoked_us) for key in open_keys(one, CLOCK).keys()].count(("shop", None)) == 1
    ring.close()


def test_keys_of_before_the_state_was_shared_go_on_working(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    before = Config(data_dir=tmp_path / "1")
    assert ensure_owner_key(before, CLOCK)
    old = KeyStore(before.keys_file, CLOCK).create("shop", ["read"])
    one, two = node(tmp_path / "1", url), node(tmp_path / "2", url)
    assert not ensure_owner_key(one, CLOCK)
    assert not ensure_owner_key(two, CLOCK)
    ring = open_ring(two)
    until(lambda: ring.find(old))
    owner = read_owner_key(tmp_path / "1")
    assert owner and ring.find(owner) == ApiKey("owner", frozenset({"admin"}), None, 1_000_000)
    ring.close()


def test_while_the_database_is_away_the_last_keys_work_and_a_new_edge_knows_none(tmp_path: Path) -> None:
    with postgres_server() as postgres:
        config = node(tmp_path, postgres.url)
        secret = open_keys(config, CLOCK).create("shop", ["read"])
        ring = open_ring(config)
        until(lambda: ring.find(secret))
        postgres.stop()
        until(lambda: ring.problem)
        assert ring.find(secret) and ring.known
        fresh = open_ring(config)
        until(lambda: fresh.problem != "API keys were not read yet")
        assert not fresh.known and fresh.find(secret) is None
        with pytest.raises(EaglerayError, match="API keys"):
            open_keys(config, CLOCK).create("other", ["read"])
        postgres.start()
        until(lambda: fresh.find(secret) and not fresh.problem and not ring.problem)
        ring.close()
        fresh.close()
