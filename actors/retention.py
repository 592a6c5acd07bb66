"""How far a partition of the log may be trimmed, by recorded ingestion times alone. Asked by the committer.

The wall clock is not asked: one that was set forward would take a day's log with it. Time goes on from the newest
record, by the clock that nobody can set, so that an idle stream's records go as well. What is younger than the
deduplication horizon stays, whatever the retention says: from it ids are made again where saved ones are lost.
"""

from __future__ import annotations

from eagleray.actors.messages import PartitionId
from eagleray.cluster.clock import Clock, elapsed_us
from eagleray.cluster.log.protocol import EventLog


class Retention:
    """Watches the newest records of all partitions."""

    def __init__(self, log: EventLog, clock: Clock, retention_us: int) -> None:
        """Nothing is known yet: after a start, idle partitions are kept for up to `retention_us` longer."""
        self._log, self._clock, self._retention_us = log, clock, retention_us
        self._newest: dict[PartitionId, tuple[int, int]] = {}  # ingestion time, and what had elapsed when it was seen

    def older_than_us(self, key: PartitionId, safe: int, horizon_us: int) -> int:
        """Records below `safe` that were ingested before this may go; raises LogUnavailable, LogCorrupt."""
        newest_us, elapsed = self._log.newest_us(*key), elapsed_us(self._clock)
        if self._newest.get(key, (-1, 0))[0] != newest_us:
            self._newest[key] = newest_us, elapsed
        now_us = newest_us + elapsed - self._newest[key][1]
        # Ids matter to the next record that a consumer may have to judge again: the one at `safe`.
        first, end = self._log.bounds(*key)
        judged_us = self._log.read(*key, safe, 1)[0].ingested_at_us if first <= safe < end else newest_us
        return min(now_us - self._retention_us, judged_us - horizon_us)
