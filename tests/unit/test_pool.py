"""Which workers a pool wants: by number on one machine, by node in a cluster; who is retired stays until replaced."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from eagleray.actors import pool as pool_module
from eagleray.actors.host import Kind
from eagleray.actors.peer import RayPeer
from eagleray.actors.placement import Node
from eagleray.actors.pool import AWAY_S, Member, Pool

A, B = Node("a" * 56, "10.0.0.2", cpus=4), Node("b" * 56, "10.0.0.3", cpus=4)


def pool(name: str, size: int, nodes: list[Node] | None = None, **kind: Any) -> Pool:
    made = Pool(Kind(name, "module:Class", (), Path(), **kind), size, 20.0)
    made.nodes = nodes
    return made


def add(to: Pool, name: str, node: str = "", alive: bool = True) -> Member:
    member = Member(RayPeer(name, cast(Any, None)), alive=alive, node=node, life="x", quiet_since=None)
    to.members[name] = member
    return member


def test_on_one_machine_workers_are_numbered_and_the_highest_leave_first() -> None:
    writers = pool("writer", 3)
    assert list(writers._wanted()) == ["writer-0", "writer-1", "writer-2"]
    for index in range(3):
        add(writers, f"writer-{index}")
    writers.size = 2
    assert list(writers._wanted()) == ["writer-0", "writer-1"]
    writers.size = 4
    assert list(writers._wanted()) == ["writer-0", "writer-1", "writer-2", "writer-3"]


def test_a_pool_of_each_node_has_its_size_there_and_none_where_no_node_is() -> None:
    edges = pool("edge", 2, [A, B], per_node=True)
    assert edges._wanted() == {
        "edge-aaaaaaaa-0": A, "edge-aaaaaaaa-1": A, "edge-bbbbbbbb-0": B, "edge-bbbbbbbb-1": B,
    }  # fmt: skip
    edges.nodes = [B]
    assert list(edges._wanted()) == ["edge-bbbbbbbb-0", "edge-bbbbbbbb-1"]
    for name in edges._wanted():
        add(edges, name, B.id)
    assert edges.complete


def test_a_retired_worker_stays_until_another_has_taken_its_place() -> None:
    windows = pool("window", 2, [A, B])
    add(windows, "window-0", A.id)
    add(windows, "window-1", B.id)
    assert not windows.retire(B.id)
    assert list(windows._wanted()) == ["window-0", "window-2", "window-1"]
    another = add(windows, "window-2", A.id, alive=False)
    assert "window-1" in windows._wanted()
    another.alive = True
    assert list(windows._wanted()) == ["window-0", "window-2"]


def test_one_that_is_there_once_leaves_before_the_next_begins() -> None:
    committer = pool("committer", 1, [A, B], alone=True)
    add(committer, "committer-0", A.id)
    assert not committer.retire(A.id)
    assert not committer.members and list(committer._leaving) == ["committer-0"]


def test_a_worker_that_does_not_answer_owns_nothing_until_it_does() -> None:
    windows = pool("window", 3, [A, B])
    for index in range(3):
        add(windows, f"window-{index}")
    silent, starting = windows.members["window-1"], windows.members["window-2"]
    silent.quiet_since = time.monotonic() - AWAY_S - 1
    starting.life, starting.quiet_since = "", time.monotonic() - AWAY_S - 1
    assert windows.present() == ["window-0", "window-2"]
    silent.quiet_since = None
    assert windows.present() == ["window-0", "window-1", "window-2"]


def test_a_worker_that_is_made_where_others_work_owns_nothing_until_it_answers() -> None:
    windows = pool("window", 2, [A, B])
    add(windows, "window-0", A.id)
    made = add(windows, "window-1", B.id, alive=False)
    made.life, made.patience_s, made.quiet_since = "", 0.0, time.monotonic() - 1
    assert windows.present() == ["window-0"]
    made.life, made.quiet_since = "y", None
    assert windows.present() == ["window-0", "window-1"]


def test_a_worker_that_is_silent_on_a_node_that_is_gone_owns_nothing_any_more() -> None:
    windows = pool("window", 3, [A, B])
    add(windows, "window-0", A.id)
    add(windows, "window-1", B.id, alive=False).quiet_since = time.monotonic()
    add(windows, "window-2", B.id)  # Ray is wrong, or its word is old: it answers
    assert windows.present({A.id, B.id}) == ["window-0", "window-1", "window-2"]
    assert windows.present({A.id}) == ["window-0", "window-2"]


def test_silence_begins_when_the_question_was_asked_that_has_no_answer() -> None:
    writers = pool("writer", 1)
    silent = add(writers, "writer-0")
    silent.peer, silent.starting = cast(Any, Mute()), False
    began = time.monotonic()
    asyncio.run(writers.heartbeat())
    assert not silent.alive and silent.quiet_since is not None
    assert began <= silent.quiet_since <= cast(Mute, silent.peer).asked_at


def test_a_control_server_that_does_not_answer_keeps_no_heartbeat_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "CONTROL_S", 0.05)
    writers = pool("writer", 3)
    gone = threading.Event()
    for index in range(3):
        member = add(writers, f"writer-{index}", alive=False)
        member.peer = cast(Any, Headless({**FACTS, "failure": None, "overdue": None}, gone))
    try:
        asyncio.run(asyncio.wait_for(writers.heartbeat(), 30))
        assert all(member.alive for member in writers.members.values())
    finally:
        gone.set()


FACTS = {"life": "y", "node": "", "version": "", "pid": 7, "rss_bytes": 1, "problems": {}}


@dataclass
class Mute:
    """A peer that answers no heartbeat."""

    name: str = "writer-0"
    asked_at: float = 0.0

    async def process(self, timeout_s: float) -> dict[str, Any]:
        self.asked_at = time.monotonic()
        raise TimeoutError


@dataclass
class Headless:
    """A peer that answers, while Ray's control server says nothing until `back`."""

    answer: dict[str, Any]
    back: threading.Event
    name: str = "writer-0"

    async def process(self, timeout_s: float) -> dict[str, Any]:
        return self.answer

    def restarts(self) -> int:
        self.back.wait(60)
        return 0


def test_a_node_that_came_gets_its_share_one_worker_after_the_other() -> None:
    writers = pool("writer", 3, [A, B])
    for index in range(3):
        add(writers, f"writer-{index}", A.id)
    writers.level()
    assert [name for name, member in writers.members.items() if member.retired] == ["writer-0"]
    writers.members.pop("writer-0")
    add(writers, "writer-3", B.id)
    writers.level()
    assert not any(member.retired for member in writers.members.values())


@dataclass
class Ailing:
    """A peer of which the heartbeat gets an error for an answer."""

    name: str = "writer-0"

    async def process(self, timeout_s: float) -> dict[str, Any]:
        raise MemoryError

    def restarts(self) -> int:
        return 0


def test_a_heartbeat_that_answers_with_an_error_was_missed_and_the_others_are_looked_at() -> None:
    writers = pool("writer", 2)
    ailing = add(writers, "writer-0")
    ailing.peer, ailing.starting = cast(Any, Ailing()), False
    other = add(writers, "writer-1", alive=False)
    other.peer = cast(Any, Answering({**FACTS, "failure": None, "overdue": None}))
    asyncio.run(writers.heartbeat())
    assert not ailing.alive and ailing.missed == 1 and other.alive


@dataclass
class Answering:
    """A peer whose heartbeat is answered."""

    answer: dict[str, Any]
    name: str = "writer-1"

    async def process(self, timeout_s: float) -> dict[str, Any]:
        return self.answer

    def restarts(self) -> int:
        return 0
