"""The laws of state (tests/contract/test_state.py) where every node reaches it, and what only servers can do to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.state import shared
from eagleray.cluster.state.backends import open_state
from eagleray.cluster.state.protocol import Fenced, State, StateUnavailable
from eagleray.cluster.state.shared import SharedState
from tests.contract.test_state import *  # noqa: F403
from tests.contract.test_state import PLACE, Nodes, fetched, written
from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.s3 import BUCKET, S3Server, s3_server


@pytest.fixture
def opened(tmp_path: Path, s3: S3Server, postgres: PostgresServer, keys: None) -> Iterator[Callable[[], State]]:
    """Another node each time: a directory and connections of its own."""
    yield from _nodes(tmp_path, s3, postgres)


def _nodes(directory: Path, s3: S3Server, postgres: PostgresServer) -> Iterator[Callable[[], State]]:
    number, states = count(), []
    lake = {
        "warehouse": f"s3://{BUCKET}/{uuid4().hex}",
        "s3": {"endpoint": s3.url, "region": "us-east-1"},
        "catalog": {"uri": postgres.new_database()},
    }

    def node() -> State:
        data = directory / f"node{next(number)}"
        states.append(
            open_state(Config.model_validate({"data_dir": data, "lake": lake, "state": {"backend": "shared"}}))
        )
        return states[-1]

    yield node
    for state in states:
        state.close()


@pytest.fixture
def nodes(opened: Callable[[], State]) -> Nodes:
    return opened


def test_a_file_that_grows_has_few_parts_and_each_byte_is_sent_a_few_times(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    put = SharedState.put
    monkeypatch.setattr(SharedState, "put", lambda *given: (sent.append(len(given[2])), put(*given)))
    monkeypatch.setattr(shared, "PART_BYTES_MAX", 4000)
    owner = nodes().place(PLACE).claim()
    for _ in range(128):
        written(owner, "journal", b"x" * 100)
    assert sum(sent) <= 12_800 * 8
    assert len(owner._parts["journal"]) <= 12  # type: ignore[attr-defined]
    assert fetched(nodes().place(PLACE).claim(), "journal", 12_800) == b"x" * 12_800


def test_while_a_server_is_away_state_is_unavailable_at_once_and_afterwards_it_goes_on(
    tmp_path: Path, keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "AWAY_S", 0.0)
    with s3_server(tmp_path / "s3") as s3, postgres_server() as postgres:
        opened = _nodes(tmp_path, s3, postgres)
        node = next(opened)
        owner = node().place(PLACE).claim()
        written(owner, "kept", b"kept")
        owner.publish("word")
        postgres.stop()
        for refused in (owner.check, lambda: owner.publish("lost"), lambda: node().place(PLACE).claim()):
            with pytest.raises(StateUnavailable, match="database"):
                refused()
        postgres.start()
        owner.check()
        s3.kill()
        with pytest.raises(StateUnavailable, match="store"):
            written(owner, "more", b"more")
        s3.start()
        owner.store("more", 4)
        successor = node().place(PLACE).claim()
        assert (successor.word, fetched(successor, "more")) == ("word", b"more")
        with pytest.raises(Fenced):
            owner.check()
        assert next(opened, None) is None  # closed
