"""A worker that was cut off holds up nobody: the committer stops waiting when others own what it had."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RaySystemError

from eagleray.actors.messages import Topology
from eagleray.actors.peer import LocalPeer, Peer
from eagleray.actors.writer.worker import WriterWorker
from tests.running_platform import eventually
from tests.stream_project import TEXT, StreamProject

HOPELESS_S = 20.0  # less than a worker is waited for


@dataclass(frozen=True)
class Silent:
    """A peer that never answers."""

    name: str = "writer-9"

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        await asyncio.sleep(3600)

    def ref(self, method: str, *args: Any) -> Any:
        raise AssertionError("not asked")


def test_a_round_ends_when_the_worker_that_it_waits_for_owns_nothing_any_more(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT})
    project.up()
    project.accept({"t": "2026-01-01T12:00:00Z", "v": "a"})
    committer, healthy = project.committer, project.committer.topology
    committer.topology = Topology((1, 1), healthy.window, dict.fromkeys(healthy.writer, Silent()))

    async def take_over() -> bool:
        waiting = asyncio.create_task(committer.write_round())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        committer.topology = Topology((1, 2), healthy.window, healthy.writer)
        return await asyncio.wait_for(waiting, HOPELESS_S)

    assert not asyncio.run(take_over())
    project.drain()
    assert project.rows("SELECT v FROM s.events") == [("a",)]
    project.stop()


def two_partitions(directory: Path) -> StreamProject:
    """A project with events `a` to `h` in both partitions of its log."""
    project = StreamProject(directory)
    project.configure({"v": TEXT}, whole={"log": {"partitions": 2}})
    project.up()
    for value in "abcdefgh":
        project.accept({"t": "2026-01-01T12:00:00Z", "v": value})
    return project


@dataclass(frozen=True)
class Held:
    """A worker whose answers are held back until `let`; `asked` has what it was asked."""

    worker: Peer
    let: asyncio.Event
    asked: list[str]
    name: str = "writer-9"

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        self.asked.append(method)
        await self.let.wait()
        return await self.worker.call(method, *args, timeout_s=timeout_s)

    def ref(self, method: str, *args: Any) -> Any:
        raise AssertionError("not asked")

    def __hash__(self) -> int:
        return hash(self.name)


def test_a_slow_worker_holds_up_its_own_partitions_alone(tmp_path: Path) -> None:
    project = two_partitions(tmp_path)
    committer, healthy = project.committer, project.committer.topology
    other = WriterWorker(committer.config)
    held = Held(LocalPeer("writer-9", other), asyncio.Event(), [])
    committer.topology = Topology((1, 1), healthy.window, {**healthy.writer, ("s", 0): held})

    async def rounds() -> None:
        async with asyncio.timeout(HOPELESS_S):
            while not committer.lake.progress("s.events").get("p1"):
                assert not await committer.write_round()
        assert not await committer.write_round()  # the others are through, and it is still waited for
        assert held.asked == ["collect"] and ("s", 0) not in committer.pools["writer"].reports
        held.let.set()
        async with asyncio.timeout(HOPELESS_S):
            while not await committer.write_round():
                await asyncio.sleep(0.01)

    asyncio.run(rounds())
    assert sorted(project.rows("SELECT v FROM s.events")) == [(value,) for value in "abcdefgh"]
    other.stop()
    project.stop()


@dataclass(frozen=True)
class Starved:
    """A peer whose process cannot even read what it is asked."""

    name: str = "writer-9"

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        raise RaySystemError("System error: Cannot allocate memory")

    def ref(self, method: str, *args: Any) -> Any:
        raise AssertionError("not asked")


def test_a_worker_whose_answer_is_an_error_holds_up_nobody_else(tmp_path: Path) -> None:
    project = two_partitions(tmp_path)
    committer, healthy = project.committer, project.committer.topology
    lost = ("s", 0)
    committer.topology = Topology((1, 1), healthy.window, {**healthy.writer, lost: Starved()})
    eventually(lambda: asyncio.run(committer.write_round()) or ("s", 1) in committer.pools["writer"].reports)
    assert not asyncio.run(committer.write_round())
    assert lost not in committer.pools["writer"].reports and ("s", 1) in committer.pools["writer"].reports
    committer.topology = Topology((1, 2), healthy.window, healthy.writer)
    project.drain()
    assert sorted(project.rows("SELECT v FROM s.events")) == [(value,) for value in "abcdefgh"]
    project.stop()
