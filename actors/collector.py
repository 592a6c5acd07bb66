"""Asks the workers of one pool how they stand, in rounds, and keeps what they said. Used by the committer.

A round does not wait for the slowest. PATIENCE_S after the first answer it ends with those that are there; who has not
answered is not asked again before it has, and its answer belongs to the round in which it comes. Until then its last
report stands. That is safe, for nobody decides by a report alone: a batch is committed only where the table stands at
its beginning, a window is closed only with partials that the worker gives for that watermark, and a partition is
advanced by its worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from eagleray.actors.messages import PartitionId, PartitionReport, WorkerReport
from eagleray.actors.peer import Peer, PeerLost
from eagleray.actors.standstill import Standstill
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.telemetry.metrics import sample

logger = logging.getLogger(__name__)

PATIENCE_S = 2.0  # with those who were asked in this round, once somebody has answered
OWNERS_LOOK_S = 0.2  # whether those who are waited for are still the owners

Owners = Callable[[], Mapping[PartitionId, Peer]]
"""Who owns what, as of now."""


@dataclass(frozen=True)
class _Asked:
    """A question that has no answer yet."""

    owned: list[PartitionId]
    answer: asyncio.Task[WorkerReport | None]


class Collector:
    """What the workers of `pool` report. For one event loop."""

    def __init__(self, pool: str, owners: Owners, counters: defaultdict[str, float]) -> None:
        """Nobody has been asked yet; failures are counted in `counters`."""
        self.pool = pool
        self.reports: dict[PartitionId, PartitionReport] = {}  # without those that are being restored, or lost
        self.still = Standstill()
        self._owners = owners
        self._counters = counters
        self._asked: dict[Peer, _Asked] = {}

    def caught_up(self, expected: Collection[PartitionId]) -> bool:
        """Whether everybody has answered, and all of `expected` are reported and at their ends."""
        complete = not self._asked and set(expected) <= self.reports.keys()
        return complete and all(report.position >= report.end for report in self.reports.values())

    async def round(
        self,
        owners: Mapping[PartitionId, Peer],
        expected: Collection[PartitionId],
        ask: Callable[[Peer, list[PartitionId]], Coroutine[Any, Any, WorkerReport]],
    ) -> list[WorkerReport]:
        """Ask each of `owners` who is not asked already, by `ask`; returns the answers that came.

        `expected` are the partitions that should get on, whether or not somebody owns them.
        """
        # An event loop that ends cancels what runs on it.
        self._asked = {peer: asked for peer, asked in self._asked.items() if not asked.answer.cancelled()}
        new = {
            peer: _Asked(owned, asyncio.create_task(self._answer(peer, owned, ask(peer, owned))))
            for peer, owned in by_peer(owners)
            if peer not in self._asked
        }
        self._asked |= new
        if self._asked:
            every = [asked.answer for asked in self._asked.values()]
            await asyncio.wait(every, return_when=asyncio.FIRST_COMPLETED)  # each has a time limit of its own
        if slower := [asked.answer for asked in new.values() if not asked.answer.done()]:
            await asyncio.wait(slower, timeout=PATIENCE_S)
        return self._take(expected)

    def _take(self, expected: Collection[PartitionId]) -> list[WorkerReport]:
        now = self._owners()
        found: list[WorkerReport] = []
        fresh: dict[PartitionId, PartitionReport] = {}
        failing: set[PartitionId] = set()
        excused: set[PartitionId] = set()
        for peer, asked in list(self._asked.items()):
            if not asked.answer.done():
                excused.update(asked.owned)
                kept = (key for key in asked.owned if now.get(key) == peer and key in self.reports)
                fresh.update({key: self.reports[key] for key in kept})
                continue
            del self._asked[peer]
            if (report := asked.answer.result()) is None:
                continue
            found.append(report)
            fresh.update({key: value for key, value in report.partitions.items() if now.get(key) == peer})
            failing |= report.failing
            if report.restoring:
                excused.update(asked.owned)
        self.reports = fresh
        self.still.see(expected, fresh, time.monotonic(), failing, excused)
        return found

    async def _answer(
        self, peer: Peer, owned: list[PartitionId], call: Coroutine[Any, Any, WorkerReport]
    ) -> WorkerReport | None:
        try:
            report: WorkerReport = await while_owners(self._owners, [peer], call)
            return report
        except (PeerLost, TimeoutError, EaglerayError) as error:
            logger.warning("%s does not answer: %s", peer.name, error)
            return None
        except Exception as error:  # of this worker alone: the others' work goes on
            logger.warning("%s fails: %s: %s", peer.name, type(error).__name__, error)
            self._counters[sample("committer_errors_total", round=f"collect_{self.pool}")] += 1
            return WorkerReport(failing=frozenset(owned))

    async def close(self) -> None:
        """Cancel the questions that have no answer."""
        asked, self._asked = self._asked, {}
        for one in asked.values():
            one.answer.cancel()
        await asyncio.gather(*(one.answer for one in asked.values()), return_exceptions=True)


async def while_owners(owners: Owners, peers: Collection[Peer], call: Coroutine[Any, Any, Any]) -> Any:
    """The answer to `call`; raises PeerLost when one of `peers`, who are to answer it, owns nothing any more.

    A worker that was cut off is not waited for until the time is over: the next owner would hear nothing meanwhile.
    """
    task = asyncio.ensure_future(call)
    try:
        while not (await asyncio.wait([task], timeout=OWNERS_LOOK_S))[0]:
            present = set(owners().values())
            if gone := next((peer for peer in peers if peer not in present), None):
                raise PeerLost(f"{gone.name} owns nothing any more")
        return task.result()
    finally:
        task.cancel()


def by_peer(owners: Mapping[PartitionId, Peer]) -> list[tuple[Peer, list[PartitionId]]]:
    """The partitions of each peer, both in the order of `owners`."""
    owned: defaultdict[str, list[PartitionId]] = defaultdict(list)
    peers: dict[str, Peer] = {}
    for partition, peer in owners.items():
        owned[peer.name].append(partition)
        peers[peer.name] = peer
    return [(peer, owned[name]) for name, peer in peers.items()]
