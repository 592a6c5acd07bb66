"""The committer waits for a worker only as long as it owns something, and for one commit to a table at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest

from eagleray.actors.committer import Committer
from eagleray.actors.messages import CLOSED, Staged, Topology, WorkerReport
from eagleray.actors.peer import PeerLost
from tests.stream_project import INTEGER, StreamProject

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
        lambda committer, peer: committer._while_owners([peer], peer.call("collect", timeout_s=3600)),
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


def test_workers_of_one_stream_take_turns_at_its_table(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": INTEGER}, whole={"log": {"partitions": 2}})
    project.up()
    committer, meeting, met = project.committer, Barrier(2), []
    commit = committer.lake.commit

    def watched(table: str, *args: Any) -> int:
        with suppress(BrokenBarrierError):  # nobody else is at it
            meeting.wait(0.3)
            met.append(table)
        return commit(table, *args)

    committer.lake.commit = watched  # type: ignore[method-assign]
    batches = [Staged("s.events", [], 0, {f"p{part}": 0}, {f"p{part}": 1}) for part in range(2)]
    reports = [WorkerReport([batch]) for batch in batches]
    assert (asyncio.run(committer._commit_staged(reports)), met) == ([], [])
    assert committer.lake.progress("s.events") == {"p0": 1, "p1": 1}
    project.kill()
