"""What API keys spent at one edge, until every other edge has heard of it. Kept by the controller."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

TRACE = 1e-6  # of an event: what sums of numbers with a point leave over


class Exchange:
    """Events by key, waiting for each edge. Lost with the controller: at most half a second of each rate."""

    def __init__(self) -> None:
        """Nothing was spent yet."""
        self._waiting: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._told: dict[str, dict[str, float]] = {}

    def waiting(self, edge: str) -> Mapping[str, float]:
        """What keys spent elsewhere and `edge` has not heard of; it is told now."""
        self._told[edge] = dict(self._waiting[edge])
        return self._told[edge]

    def answered(self, edge: str, spent: Mapping[str, float], edges: Iterable[str]) -> None:
        """`edge` heard what it was told, and `spent` is news for the others of `edges`; the gone are forgotten.

        What others spent since it was told, all of them at the same time, goes on waiting.
        """
        told = self._told.pop(edge, {})
        rest = {key: events - told.get(key, 0.0) for key, events in self._waiting[edge].items()}
        self._waiting[edge] = {key: events for key, events in rest.items() if abs(events) > TRACE}
        present = set(edges)
        for gone in self._waiting.keys() - present:
            del self._waiting[gone]
            self._told.pop(gone, None)
        for other in present - {edge}:
            waiting = self._waiting[other]
            for key, events in spent.items():
                waiting[key] = waiting.get(key, 0.0) + events
