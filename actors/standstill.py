"""How long partitions have stood still although there was work: what readiness goes by. Used by the committer; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from eagleray.actors.messages import PartitionId, PartitionReport


@dataclass
class Standstill:
    """The positions of one pool's partitions, and since when each has not moved. Times are seconds of one clock.

    One thread calls `see`; others may ask meanwhile.
    """

    _since: dict[PartitionId, float] = field(default_factory=dict)
    _last: dict[PartitionId, PartitionReport | None] = field(default_factory=dict)  # None: nobody has reported it yet
    _stood_s: dict[PartitionId, float] = field(default_factory=dict)  # of it, with a worker that reports it
    _seen_at: float | None = None

    def see(
        self, expected: Collection[PartitionId], reports: Mapping[PartitionId, PartitionReport], now: float
    ) -> None:
        """Take note of a round: `reports` has what workers said of `expected`; those being restored are absent."""
        passed_s, self._seen_at = now - (now if self._seen_at is None else self._seen_at), now
        for partition in expected:
            report, last = reports.get(partition), self._last.get(partition)
            caught_up = report is not None and report.position >= report.end
            moved = report is not None and (last is None or report.position != last.position)
            if caught_up or moved or partition not in self._since:
                self._since[partition], self._stood_s[partition] = now, 0.0
            elif report is not None:
                self._stood_s[partition] += passed_s
            self._last[partition] = report or last

    def standing(self, for_s: float) -> dict[PartitionId, int]:
        """The partitions that their workers report and have not moved for at least `for_s`, and where they stand.

        The time of a restore does not count; that of a worker that starts over again and again does, in between.
        """
        return {
            partition: report.position
            for partition, report in list(self._last.items())
            if report is not None and report.position < report.end and self._stood_s[partition] >= for_s
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
