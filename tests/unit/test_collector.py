"""Rounds of questions to the workers of a pool: what stands while somebody has not answered, and whose word counts."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from eagleray.actors import collector as collector_module
from eagleray.actors.collector import Collector
from eagleray.actors.messages import PartitionId, PartitionReport, WorkerReport

A, B, C = ("s", 0), ("s", 1), ("s", 2)


@dataclass(eq=False)
class Worker:
    """Answers at once with its position, or, where it has `answers`, when there is one."""

    name: str
    position: int = 0
    answers: asyncio.Queue[int] | None = None

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        owned, position = args[0], self.position if self.answers is None else await self.answers.get()
        return WorkerReport(partitions={key: PartitionReport(position, 9, position) for key in owned})

    def ref(self, method: str, *args: Any) -> Any:
        raise AssertionError("not asked")


class Pool:
    """Two workers with a partition each."""

    def __init__(self) -> None:
        self.quick, self.slow = Worker("quick"), Worker("slow", answers=asyncio.Queue())
        self.owners: dict[PartitionId, Any] = {A: self.quick, B: self.slow}
        self.asked: list[str] = []
        self.collector = Collector("writer", lambda: self.owners, defaultdict(float))

    async def round(self) -> dict[PartitionId, int]:
        """Where the partitions stand after it."""

        def ask(peer: Any, owned: list[PartitionId]) -> Coroutine[Any, Any, WorkerReport]:
            self.asked.append(peer.name)
            found: Coroutine[Any, Any, WorkerReport] = peer.call("collect", owned)
            return found

        await self.collector.round(self.owners, {A, B}, ask)
        return {key: report.position for key, report in self.collector.reports.items()}

    async def until(self, wanted: dict[PartitionId, int]) -> None:
        """Rounds until the partitions stand there."""
        while await self.round() != wanted:
            pass

    def answer(self, position: int) -> None:
        """The slow one answers what it was asked, or is asked next."""
        assert self.slow.answers is not None
        self.slow.answers.put_nowait(position)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "PATIENCE_S", 0.1)


def test_the_last_report_stands_until_the_answer_comes_and_nobody_is_asked_twice() -> None:
    async def rounds() -> None:
        pool = Pool()
        pool.answer(1)
        await pool.until({A: 0, B: 1})
        pool.quick.position = 9
        await pool.until({A: 9, B: 1})
        await pool.round()
        assert pool.asked.count("slow") == 2 and not pool.collector.caught_up({A, B})
        pool.answer(9)
        await pool.until({A: 9, B: 9})
        assert pool.asked.count("slow") == 2
        while not pool.collector.caught_up({A, B}):
            pool.answer(9)
            await pool.round()

    asyncio.run(asyncio.wait_for(rounds(), 60))


def test_an_answer_counts_for_what_its_worker_still_owns() -> None:
    async def rounds() -> None:
        pool = Pool()
        pool.quick.position = 3
        pool.owners = {A: pool.slow, B: pool.slow, C: pool.quick}
        await pool.until({C: 3})
        pool.owners = {A: pool.quick, B: pool.slow, C: pool.quick}
        pool.answer(5)
        await pool.until({A: 3, B: 5, C: 3})
        assert pool.asked.count("slow") == 1
        await pool.collector.close()

    asyncio.run(asyncio.wait_for(rounds(), 60))
