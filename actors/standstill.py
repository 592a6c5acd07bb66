"""How long partitions have stood still although there was work: what readiness and replacing go by. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from eagleray.actors.messages import PartitionId, PartitionReport

NOWHERE = -1  # the place of a partition that no worker has reported yet


@dataclass
class Standstill:
    """For the committer: the positions of one pool's partitions, and since when each has not moved.

    Times are seconds of one clock. One thread calls `see`; others may ask meanwhile.
    """

    _since: dict[PartitionId, float] = field(default_factory=dict)
    _last: dict[PartitionId, PartitionReport | None] = field(default_factory=dict)  # None: nobody has reported it yet
    _stood_s: dict[PartitionId, float] = field(default_factory=dict)  # of it, with a worker that reports it or fails
    _failing: Collection[PartitionId] = ()  # as of the last round
    _seen_at: float | None = None

    def see(
        self,
        expected: Collection[PartitionId],
        reports: Mapping[PartitionId, PartitionReport],
        now: float,
        failing: Collection[PartitionId] = (),
        excused: Collection[PartitionId] = (),
    ) -> None:
        """Take note of a round: `reports` has what workers said of `expected`; those being restored are absent.

        So are the `failing`, which no worker that was asked could restore. No blame for the time of this round falls on
        workers of the `excused`, which wait for another of theirs to be restored.
        """
        self._failing = failing
        passed_s, self._seen_at = now - (now if self._seen_at is None else self._seen_at), now
        for partition in expected:
            report, last = reports.get(partition), self._last.get(partition)
            caught_up = report is not None and report.position >= report.end
            moved = report is not None and (last is None or report.position != last.position)
            if caught_up or moved or partition not in self._since:
                self._since[partition], self._stood_s[partition] = now, 0.0
            elif partition not in excused and (report is not None or partition in failing):
                self._stood_s[partition] += passed_s
            self._last[partition] = report or last

    def standing(self, for_s: float) -> dict[PartitionId, int]:
        """The partitions that their workers have not moved for at least `for_s`, and where they stand (or NOWHERE).

        The time of a restore does not count; that of one that fails does, and so does that of a worker that starts over
        again and again, in between.
        """
        return {
            partition: NOWHERE if report is None else report.position
            for partition, report in list(self._last.items())
            if self._stood_s[partition] >= for_s
            and (partition in self._failing or (report is not None and report.position < report.end))
        }

    def longest(self, now: float) -> tuple[float, str]:
        """Seconds, and a sentence about the partition that has stood still longest; (0, "") where none does."""
        waiting = [p for p, report in list(self._last.items()) if report is None or report.position < report.end]
        if not waiting:
            return 0.0, ""
        partition = min(waiting, key=self._since.__getitem__)
        seconds, report = now - self._since[partition], self._last[partition]
        name = "/".join(map(str, partition))
        if report is None:
            return seconds, f"nobody has reported {name} for {seconds:.0f} s"
        return seconds, f"{name} has stood at record {report.position} of {report.end} for {seconds:.0f} s"


@dataclass
class Blamed:
    """For the controller: the places for which a worker was replaced, each once.

    If the successor stands there too, the place is at fault (a damaged record), and the worker's other partitions shall
    not suffer for it. Where one got on, the place was not: the next worker may be replaced there again.
    """

    _places: set[tuple[str, PartitionId, int]] = field(default_factory=set)

    def first(self, pool: str, partition: PartitionId, position: int) -> bool:
        """Whether no worker was replaced for this place; from now on, one was."""
        place = pool, partition, position
        if place in self._places:
            return False
        self._places.add(place)
        return True

    def forget(self, reports: Mapping[tuple[str, PartitionId], Mapping[str, Any] | None]) -> None:
        """Drop the places where a worker got on: `reports` has the fields of what each pool reports, if it does."""

        def got_on(pool: str, partition: PartitionId, position: int) -> bool:
            report = reports.get((pool, partition))
            return report is not None and (position == NOWHERE or report["position"] >= report["end"])

        self._places = {place for place in self._places if not got_on(*place)}
