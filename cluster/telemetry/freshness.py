"""How far tables and workers are behind the log, in seconds. Kept by the committer; all times are given to it.

A log says how many records wait, not since when. So whoever asks for its end notes when that was: what is beyond a
consumer's position has waited since the first look that saw it there, to within the time between two looks. Nothing is
read for it, whatever the log's back end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from eagleray.cluster.telemetry.histogram import Histogram
from eagleray.cluster.telemetry.metrics import sample
from eagleray.cluster.telemetry.prometheus import histogram_samples

LOOKS_MAX = 256  # of a partition; then two become one
Partition = tuple[str, int]


class Lag:
    """Since when records of one partition have waited."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._looks: deque[tuple[int, int]] = deque()  # Invariant: (end, when first seen), both strictly increasing
        self.positions: dict[str, int] = {}  # by consumer

    @property
    def is_new(self) -> bool:
        """Whether nobody has looked yet: what waits by then came before."""
        return not self._looks

    def see(self, end: int, now_us: int) -> None:
        """The log's end is there; it never moves back within an epoch."""
        if not self._looks or end > self._looks[-1][0]:
            self._looks.append((end, now_us))
        if self.positions:
            slowest = min(self.positions.values())
            while len(self._looks) > 1 and self._looks[0][0] <= slowest:
                self._looks.popleft()
        if len(self._looks) > LOOKS_MAX:
            looks = list(self._looks)  # of two the later end and the earlier time: a lag is never too small
            pairs = zip(looks[::2], looks[1::2], strict=False)
            self._looks = deque([(later, seen_us) for (_, seen_us), (later, _) in pairs] + looks[len(looks) & ~1 :])

    def seconds(self, consumer: str, now_us: int) -> float:
        """How long the oldest record that `consumer` does not have has waited; 0: it has all."""
        if (position := self.positions.get(consumer)) is None:
            return 0.0
        since = (seen_us for end, seen_us in self._looks if end > position)
        return max(0, now_us - next(since, now_us)) / 1e6


class Freshness:
    """What the committer knows of time: lags by partition, commits and how old their events were, by table."""

    def __init__(self, target_us: int) -> None:
        """`target_us`: events that were acked longer ago when their table has them have missed the objective."""
        self._target_us = target_us
        self.lags: dict[Partition, Lag] = {}
        self.tables: dict[str, Histogram] = {}  # microseconds
        self.events, self.missed = 0, 0  # of all tables `events`
        self.fresh = Histogram()  # of all tables `events`; microseconds

    def lag(self, partition: Partition) -> Lag:
        """The lag of a partition."""
        return self.lags.setdefault(partition, Lag())

    def landed(self, table: str, arrivals: Iterable[tuple[int, int]], now_us: int) -> None:
        """A commit to `table` has landed; `arrivals`: microseconds since the epoch, and how many events came then."""
        histogram = self.tables.setdefault(table, Histogram())
        for arrived_us, events in arrivals:
            age_us = max(0, now_us - arrived_us)
            histogram.record(age_us, events)
            if table.endswith(".events"):
                self.fresh.record(age_us, events)
                self.events += events
                self.missed += events if age_us > self._target_us else 0

    def judgements(self) -> dict[str, tuple[int, int, dict[int, int]]]:
        """What the objective has judged since the process began (`actors.objectives.Counts`)."""
        return {"freshness": (self.events, self.missed, self.fresh.sparse())}

    def samples(self, commits_us: Mapping[str, int], now_us: int) -> dict[str, float]:
        """As metrics; `commits_us`: by table, when it was last committed to."""
        found = {
            sample("consumer_lag_seconds", stream=stream, partition=partition, consumer=consumer): lag.seconds(
                consumer, now_us
            )
            for (stream, partition), lag in self.lags.items()
            for consumer in lag.positions
        }
        for table, at_us in commits_us.items():
            found[sample("commit_age_seconds", table=table)] = max(0, now_us - at_us) / 1e6
        for table, histogram in self.tables.items():
            found |= histogram_samples("freshness_seconds", histogram, table=table)
        found[sample("slo_events_total", objective="freshness")] = self.events
        found[sample("slo_missed_total", objective="freshness")] = self.missed
        return found
