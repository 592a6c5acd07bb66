"""The committer waits for a worker only as long as it owns something: a node that is cut off answers nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from eagleray.actors.committer import Committer
from eagleray.actors.messages import CLOSED, Staged, Topology
from eagleray.actors.peer import PeerLost

NEWS = Staged("s.visits", [], 1, {CLOSED: 1}, {CLOSED: 2}, {"era": b""})


@dataclass(frozen=True)
class Cut:
    """A peer that is reached no more: a call of it ends when whoever called has waited long enough."""

    name: str

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        await asyncio.sleep(timeout_s or 3600)

    def ref(self, method: str, *args: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    "ask",
    [
        lambda committer, peer: committer._settle(peer, "s", "visits", 2, NEWS),
        lambda committer, peer: committer._while_owners("window", [peer], peer.call("collect", timeout_s=3600)),
    ],
    ids=["that sessions are open", "how it stands"],
)
def test_a_worker_that_owns_nothing_any_more_is_not_waited_for(
    ask: Callable[[Committer, Cut], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eagleray.actors.committer.COLLECT_TIMEOUT_S", 3600.0)
    committer, cut = Committer.__new__(Committer), Cut("window-0")
    committer.topology = Topology((1, 1), {("s", 0): cut})

    async def handed_over() -> None:
        asking = asyncio.ensure_future(ask(committer, cut))
        await asyncio.sleep(0)
        committer.topology = Topology((1, 2), {("s", 0): Cut("window-1")})
        with pytest.raises(PeerLost, match="window-0 owns nothing any more"):
            await asyncio.wait_for(asking, 60)

    asyncio.run(handed_over())
