"""What API keys spent at one edge, until every other edge has heard of it. Kept by the controller."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping


class Exchange:
    """Events by key, waiting for each edge. Lost with the controller: at most half a second of each rate."""

    def __init__(self) -> None:
        """Nothing was spent yet."""
        self._waiting: defaultdict[str, dict[str, float]] = defaultdict(dict)

    def waiting(self, edge: str) -> Mapping[str, float]:
        """What keys spent elsewhere and `edge` has not heard of."""
        return self._waiting[edge]

    def answered(self, edge: str, spent: Mapping[str, float], edges: Iterable[str]) -> None:
        """`edge` heard what waited for it, and `spent` is news for the others of `edges`; the gone are forgotten."""
        self._waiting[edge] = {}
        present = set(edges)
        for gone in self._waiting.keys() - present:
            del self._waiting[gone]
        for other in present - {edge}:
            waiting = self._waiting[other]
            for key, events in spent.items():
                waiting[key] = waiting.get(key, 0.0) + events
