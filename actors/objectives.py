"""How the objectives of `slo` were met in the last hour and in 28 days. Kept by the controller, which may be killed.

Edges judge acks and requests, the committer judges freshness; both only count. `see` takes their counts, which grow for
as long as a process lives, and adds what is new to the minute and the hour it is in. What is saved has the counts that
were seen last beside the history, so nothing is added twice, whoever starts again. 60 minutes and 672 hours are kept,
each with at most 8 latencies an octave: some 100 KB when it is full, whatever the load.
"""

from __future__ import annotations

import base64
import json
import logging
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from eagleray.cluster.sections import SloConfig
from eagleray.cluster.telemetry.gather import shares

logger = logging.getLogger(__name__)

MINUTE_US, HOUR_US = 60_000_000, 3_600_000_000
MINUTES, HOURS = 60, 28 * 24
BITS = 4  # of a latency that are kept: within 12.5 %
PROCESSES_MAX = 200  # whose counts are remembered: of those that ended, the oldest are forgotten first

Counts = Mapping[str, tuple[int, int, Mapping[int, int]]]
"""By objective: what was judged, what missed it, and latencies (lower limits in microseconds → how often)."""


class _Span:
    """What was judged in one span of time, by objective."""

    def __init__(self, judged: Mapping[str, Any] | None = None) -> None:
        self.judged: dict[str, tuple[int, int, Counter[int]]] = {
            name: (events, missed, Counter({int(at): n for at, n in latencies.items()}))
            for name, (events, missed, latencies) in (judged or {}).items()
        }

    def add(self, counts: Counts) -> None:
        for name, (events, missed, latencies) in counts.items():
            had, lost, known = self.judged.get(name, (0, 0, Counter()))
            known.update(latencies)
            self.judged[name] = had + events, lost + missed, known


class Objectives:
    """The history. All times are microseconds since the epoch."""

    def __init__(self, slo: SloConfig, saved: str | None = None) -> None:
        """Go on with what `saved` returned; what cannot be read is said, and begun anew."""
        self._slo = slo
        self._minutes: dict[int, _Span] = {}
        self._hours: dict[int, _Span] = {}
        self._seen: dict[str, Counts] = {}  # by process, as last counted
        if saved:
            try:
                self._load(json.loads(zlib.decompress(base64.b85decode(saved))))
            except (ValueError, TypeError, KeyError, zlib.error) as error:
                logger.warning("the history of objectives begins anew: %s", type(error).__name__)

    def _load(self, saved: Mapping[str, Any]) -> None:
        seen: dict[str, Counts] = {
            process: {name: (one[0], one[1], {int(at): n for at, n in one[2].items()}) for name, one in counts.items()}
            for process, counts in saved["seen"].items()
        }
        minutes = {int(at): _Span(judged) for at, judged in saved["minutes"].items()}
        self._hours = {int(at): _Span(judged) for at, judged in saved["hours"].items()}
        self._minutes, self._seen = minutes, seen

    def saved(self) -> str:
        """The history as text."""
        found = {
            "minutes": {at: span.judged for at, span in self._minutes.items()},
            "hours": {at: span.judged for at, span in self._hours.items()},
            "seen": self._seen,
        }
        return base64.b85encode(zlib.compress(json.dumps(found, separators=(",", ":")).encode())).decode()

    def see(self, process: str, counts: Counts, now_us: int) -> None:
        """A process (a name that no other life of it has) has counted so much since it began."""
        coarse = {name: (events, missed, _coarse(latencies)) for name, (events, missed, latencies) in counts.items()}
        before = self._seen.pop(process, {})
        news = {name: _difference(now, before.get(name, (0, 0, {}))) for name, now in coarse.items()}
        self._seen[process] = coarse
        while len(self._seen) > PROCESSES_MAX:
            del self._seen[next(iter(self._seen))]
        for spans, size_us, kept in ((self._minutes, MINUTE_US, MINUTES), (self._hours, HOUR_US, HOURS)):
            at = now_us // size_us
            spans.setdefault(at, _Span()).add(news)
            for old in [one for one in spans if one <= at - kept]:
                del spans[old]

    def report(self, now_us: int) -> dict[str, Any]:
        """By objective: its target, and for `hour` and `days_28` what was judged, what missed it, and the budget left.

        `budget_left`: the share of the misses that the target allows which have not happened; below 0: it is missed.
        """
        targets = {"ack": self._slo.ack_p99, "freshness": self._slo.freshness_p99}
        found: dict[str, Any] = {}
        for name, share in shares(self._slo).items():
            found[name] = {"share": share} | ({"within_ms": targets[name] / 1000} if name in targets else {})
            for label, spans, at in (
                ("hour", self._minutes, now_us // MINUTE_US - MINUTES),
                ("days_28", self._hours, now_us // HOUR_US - HOURS),
            ):
                found[name][label] = _summary(name, share, [span for when, span in spans.items() if when > at])
        return found


def _summary(name: str, share: float, spans: list[_Span]) -> dict[str, Any]:
    total = _Span()
    for span in spans:
        total.add({name: span.judged[name]} if name in span.judged else {})
    events, missed, latencies = total.judged.get(name, (0, 0, Counter()))
    found: dict[str, Any] = {"events": events, "missed": missed}
    if not events:
        return found
    found |= {"met": 1 - missed / events, "budget_left": 1 - missed / (events * (1 - share))}
    if latencies:
        found["p99_ms"] = _percentile(latencies, 0.99) / 1000
    return found


def _coarse(latencies: Mapping[int, int]) -> dict[int, int]:
    found: Counter[int] = Counter()
    for at, count in latencies.items():
        shift = max(0, at.bit_length() - BITS)
        found[at >> shift << shift] += count
    return dict(found)


def _difference(now: Any, before: Any) -> tuple[int, int, dict[int, int]]:
    new = {at: count - before[2].get(at, 0) for at, count in now[2].items() if count != before[2].get(at, 0)}
    return now[0] - before[0], now[1] - before[1], new


def _percentile(latencies: Mapping[int, int], share: float) -> float:
    """The middle of the bucket in which it is."""
    rank, seen = share * sum(latencies.values()), 0
    for at, count in sorted(latencies.items()):
        seen += count
        if seen >= rank:
            return at + (1 << max(0, at.bit_length() - BITS)) / 2
    return 0.0
