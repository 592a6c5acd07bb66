"""A store that answers with errors, half answers or not at all: bounded attempts, and nothing half is committed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.lake import s3_store
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.s3_store import S3Store
from tests.backends.conftest import lake_config
from tests.lake_tables import EVENTS, event_rows, make_stream
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import BUCKET, S3Server
from tests.servers.s3_proxy import S3Proxy, s3_proxy

PART = 5 << 20


@pytest.fixture(scope="module")
def running_proxy(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Proxy]:
    with s3_proxy(s3.port, tmp_path_factory.mktemp("proxy") / "log") as proxy:
        yield proxy


@pytest.fixture
def proxy(running_proxy: S3Proxy) -> Iterator[S3Proxy]:
    """The proxy, whole again afterwards."""
    yield running_proxy
    running_proxy.break_with()


@pytest.fixture
def store(proxy: S3Proxy, keys: None) -> S3Store:
    return new_store(proxy)


def new_store(proxy: S3Proxy, **s3: Any) -> S3Store:
    own = {"endpoint": proxy.url, "region": "us-east-1", "part_bytes": PART, "attempts_max": 12, **s3}
    config = Config.model_validate({"lake": {"warehouse": f"s3://{BUCKET}/w", "s3": own}})
    return S3Store(s3_store.properties(config))


@pytest.fixture
def place() -> str:
    return f"s3://{BUCKET}/{uuid4().hex}"


def test_one_answer_in_five_is_503_and_every_object_is_whole(store: S3Store, proxy: S3Proxy, place: str) -> None:
    proxy.break_with(unavailable=0.2)
    for size in (1, PART, 3 * PART):
        data = os.urandom(size)
        with store.upload(place) as out:
            out.write(data)
        assert store.get(place) == data
    for _ in range(10):
        store.size(place)
    assert proxy.struck()["unavailable"] > 0


def test_attempts_are_bounded_and_the_error_says_what_was_tried(proxy: S3Proxy, keys: None, place: str) -> None:
    store = new_store(proxy, attempts_max=3)
    proxy.break_with(unavailable=1)
    with pytest.raises(OSError, match=r"put_object failed.*SlowDown") as error:
        store.put(place, b"x")
    assert place in str(error.value)
    assert proxy.struck()["unavailable"] == 3


def test_answers_that_break_off_are_asked_for_again(store: S3Store, proxy: S3Proxy, place: str) -> None:
    data = os.urandom(1 << 20)
    store.put(place, data)
    proxy.break_with(break_off=0.4)
    for start in range(0, len(data), 1 << 16):
        assert store.get(place, start, 1 << 16) == data[start : start + (1 << 16)]
    assert proxy.struck()["break_off"] > 0


def test_a_truncated_upload_is_tried_again_or_leaves_no_object(
    store: S3Store, proxy: S3Proxy, keys: None, place: str
) -> None:
    data = os.urandom(2 * PART + 1)
    proxy.break_with(truncate=0.5)
    with store.upload(place) as out:
        out.write(data)
    assert store.get(place) == data
    assert proxy.struck()["truncate"] > 0
    proxy.break_with(truncate=1)
    for size in (100, 2 * PART):
        with pytest.raises(OSError), new_store(proxy, attempts_max=2).upload(f"{place}-{size}") as out:
            out.write(bytes(size))
        assert not store.exists(f"{place}-{size}")


def test_a_truncated_upload_is_never_committed(
    proxy: S3Proxy, s3: S3Server, postgres: PostgresServer, keys: None, tmp_path: Path
) -> None:
    own = {"endpoint": proxy.url, "region": "us-east-1", "attempts_max": 1}
    lake = Lake.open(lake_config(tmp_path, s3, postgres, s3=own))
    lake.ensure({"s": make_stream()})
    proxy.break_with(truncate=0.5)
    landed = 0
    for _ in range(20):
        try:
            lake.commit(EVENTS, lake.write(EVENTS, event_rows(5, landed)), {"p0": landed}, {"p0": landed + 5})
        except Exception:
            pass
        landed = lake.progress(EVENTS).get("p0", 0)
    struck = proxy.struck()["truncate"]
    proxy.break_with()
    assert struck > 0
    assert landed > 0
    assert sorted(lake.read(EVENTS, ["n"])["n"].to_pylist()) == list(range(landed))


def test_a_black_hole_ends_within_its_time_limits(s3: S3Server, keys: None, place: str) -> None:
    import socket

    with socket.socket() as hole:  # takes connections and says nothing
        hole.bind(("127.0.0.1", 0))
        hole.listen(16)
        own = {"endpoint": f"http://127.0.0.1:{hole.getsockname()[1]}", "region": "us-east-1"}
        bounds = {"connect_timeout_s": 0.5, "read_timeout_s": 0.5, "attempts_max": 2}
        config = Config.model_validate({"lake": {"warehouse": f"s3://{BUCKET}/w", "s3": {**own, **bounds}}})
        ended: list[BaseException] = []

        def ask() -> None:
            try:
                S3Store(s3_store.properties(config)).put(place, b"x")
            except OSError as error:
                ended.append(error)

        thread = Thread(target=ask)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert "timeout" in str(ended[0]).lower()


def test_a_clock_that_is_off_is_said(
    store: S3Store, place: str, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import botocore.auth

    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *a, **k: now(*a, **k) - timedelta(hours=1))
    with pytest.raises(PermissionError, match="clock"):
        store.put(place, b"x")
    monkeypatch.undo()


def test_revoked_keys_are_said_and_new_ones_in_the_file_count_without_a_restart(
    s3: S3Server, proxy: S3Proxy, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in s3.keys:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "keys"

    def hand_out(key: str) -> None:
        s3.add_user(key, "secret-of-" + key)
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret-of-{key}\n")

    hand_out("first")
    store = new_store(proxy, credentials_file=str(file))
    store.put(place, b"1")
    s3.remove_user("first")
    with pytest.raises(PermissionError, match="check keys and their rights"):
        store.put(place, b"2")
    hand_out("second")
    store.put(place, b"3")
    assert store.get(place) == b"3"
