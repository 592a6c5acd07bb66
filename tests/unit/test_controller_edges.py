"""The controller tells edges its news; one that does not answer keeps nothing else waiting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from eagleray.actors import controller as controller_module
from eagleray.actors.controller import Controller
from eagleray.actors.host import Kind
from eagleray.actors.messages import EdgeReport, Version
from eagleray.actors.pool import Member, Pool
from eagleray.actors.rate_exchange import Exchange


@dataclass
class Told:
    """An edge's peer: answers at once, or when `cut` is over."""

    name: str
    cut: asyncio.Event | None = None
    versions: list[Version] = field(default_factory=list)

    async def call(self, method: str, news: Any, timeout_s: float | None = None) -> EdgeReport:
        self.versions.append(news.version)
        if self.cut is not None:
            await self.cut.wait()
        return EdgeReport(8080, 0, {}, len(self.versions))


def controller_of(*edges: Told) -> Controller:
    """A controller of these edges, which listen, and of nobody else."""
    made = Controller.__new__(Controller)
    made.pools = {name: Pool(Kind(name, "module:Class", (), Path()), len(edges), 20.0) for name in ("edge", "validate")}
    made.pools["edge"].members = {edge.name: Member(cast(Any, edge), life="x", alive=True) for edge in edges}
    made.port, made.topology = 8080, cast(Any, None)
    made._draining = made._replaced = made._established = made._cluster = False
    made._incarnation, made._told, made._committer = 1, 0, None
    made._spent, made._refused, made._answered, made._telling = Exchange(), {}, {}, {}
    made._serving = frozenset(edge.name for edge in edges)
    return made


def test_an_edge_that_is_cut_off_is_told_once_and_the_others_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "TELL_S", 0.01)
    monkeypatch.setattr(Controller, "_problems", lambda self: {})

    async def rounds() -> None:
        cut, other = Told("edge-0", asyncio.Event()), Told("edge-1")
        controller = controller_of(cut, other)
        for _ in range(3):
            await controller._attend()
        assert len(cut.versions) == 1 and len(other.versions) == 3
        assert controller._serving == {"edge-0", "edge-1"}  # until it is known that it does not
        assert cut.cut is not None
        cut.cut.set()
        await asyncio.gather(*controller._telling.values())
        await controller._attend()  # hears what it said
        await controller._attend()
        assert len(cut.versions) == 2 and cut.versions == sorted(set(cut.versions))
        controller.pools["edge"].members["edge-0"].alive = False
        await controller._attend()
        assert controller._serving == {"edge-1"} and not controller._telling

    asyncio.run(rounds())
