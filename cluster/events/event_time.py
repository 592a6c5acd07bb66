"""When an event happened: the field that `streams.x.time` names, in microseconds. The rule and its fast half.

Called by the arbiter for one event (`of`) and by the judge for a column (`column`), no laxer than the rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from eagleray.cluster.events.instants import INSTANT, MAX_US, MIN_US, instant_us, instants
from eagleray.cluster.events.stream import Stream

_UNIT_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
NEVER = object()
"""A time beyond year 9999: not readable as an instant, but certainly in the future."""


class EventTime:
    """Reads the event time of one stream's events."""

    def __init__(self, stream: Stream) -> None:
        """The stream's `time` and `time_unit` say where and how."""
        self._path = stream.time
        self._unit = stream.config.time_unit

    def of(self, event: dict[str, Any]) -> int | str | object:
        """Microseconds of one parsed event; text that says why there are none; or NEVER."""
        value: Any = event
        for name in self._path.names:
            value = value.get(name) if isinstance(value, dict) else None
        column = self._path.column
        if value is None:
            return f"{column}: missing"
        if self._unit is None:
            found = instant_us(value) if isinstance(value, str) else None
            return found if found is not None else f"{column}: not an RFC 3339 date-time"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            return f"{column}: not an integer of {self._unit}"
        time_us = value // 1000 if self._unit == "ns" else value * _UNIT_US[self._unit]
        if time_us > MAX_US:
            return NEVER
        return time_us if time_us >= MIN_US else f"{column}: before year 1"

    def column(self, found: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
        """Microseconds (n,) int64 of the time column, and which rows have none that the fast path can vouch for."""
        bad = None
        if pa.types.is_string(found.type):
            found, bad = instants(found)
        if found.null_count:
            absent = ~np.asarray(found.is_valid())
            bad = absent if bad is None else bad | absent
            found = found.fill_null(pa.scalar(0, pa.int64()).cast(found.type))
        values = (found.view(pa.int64()) if found.type == INSTANT else found).to_numpy()
        if self._unit is None:
            return values, bad
        if self._unit == "ns":
            return values // 1000, bad
        factor = _UNIT_US[self._unit]
        beyond = (values > MAX_US // factor) | (values < MIN_US // factor + 1)
        if beyond.any():
            bad = beyond if bad is None else bad | beyond
            values = np.where(beyond, 0, values)
        return values * factor, bad
