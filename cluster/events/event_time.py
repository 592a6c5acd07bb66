"""When an event happened: the field that `streams.x.time` names, in microseconds. The rule and its fast half.

Called by the arbiter for one event (`of`) and by the judge for a column (`column`), no laxer than the rule. Which texts
and numbers are times is `time_text`'s to say; here stands what the stream's settings make of them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.events.instants import INSTANT, MAX_US, MIN_US, instant_text, instant_us, instants
from eagleray.cluster.events.stream import Stream, field_of, text_kind
from eagleray.cluster.events.time_text import UNIT_US, TextRule, counted, of_numbers

BEYOND_ALL = object()
"""A time beyond year 9999: not readable as an instant, but certainly in the future."""
ARRIVAL = object()
"""No time in the event, and the stream takes its arrival instead."""
_DECODE = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class TimeRule:
    """Where events say when they happened, and how: what a stream's settings were when the events were acked."""

    path: FieldPath
    unit: str | None
    zone: str | None
    field: pa.Field = field(compare=False)  # the column, or the field within it, as it was last

    @classmethod
    def of(cls, stream: Stream) -> TimeRule:
        """What the configuration says."""
        config = stream.config
        return cls(stream.time, config.time_unit, config.time_zone, field_of(stream.events.arrow, stream.time))

    def encode(self) -> dict[str, Any]:
        """As JSON."""
        kind = base64.b64encode(pa.schema([self.field]).serialize().to_pybytes()).decode()
        return {"field": self.path.text, "unit": self.unit, "zone": self.zone, "type": kind}

    @classmethod
    def decode(cls, found: Mapping[str, Any], stream: Stream) -> TimeRule:
        """The reverse of `encode`; where `stream` still has the field, it is as it is now."""
        path = FieldPath.parse(found["field"])
        try:
            now = field_of(stream.events.arrow, path)
        except (KeyError, AttributeError, ValueError):
            now = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(found["type"]))).field(0)
        return cls(path, found["unit"], found["zone"], now)


class EventTime:
    """Reads the event time of one stream's events."""

    def __init__(self, stream: Stream, rule: TimeRule | None = None) -> None:
        """`rule`: the stream's of before; by default its `time`, `time_unit` and `time_zone` of now."""
        rule = rule or TimeRule.of(stream)
        self._path = rule.path
        self._unit = rule.unit
        self._arrives = stream.config.time_missing == "arrival"
        self._texts = TextRule(self._unit, rule.zone)
        self._free = text_kind(rule.field)
        self._whole = pa.types.is_integer(rule.field.type)

    def of(self, event: dict[str, Any]) -> int | str | object:
        """Microseconds of one parsed event; text that says why there are none; BEYOND_ALL, or ARRIVAL."""
        value: Any = event
        for name in self._path.names:
            value = value.get(name) if isinstance(value, dict) else None
        column = self._path.column
        if value is None:
            return ARRIVAL if self._arrives else f"{column}: missing"
        found = self._of_text(value) if isinstance(value, str) else self._of_number(value)
        if isinstance(found, str):
            return f"{column}: {found}"
        return BEYOND_ALL if found > MAX_US else found if found >= MIN_US else f"{column}: before year 1"

    def _of_text(self, text: str) -> int | str:
        """Microseconds, perhaps beyond all years, or what is wrong."""
        if not self._free:  # the column is of times, and the schema holds what they look like
            if self._unit is not None:
                return f"not a {counted(self._unit)}"
            found = instant_us(text)
            return found if found is not None else "not an RFC 3339 date-time"
        found = self._texts.of(text)
        return found if found is not None else f"not {self._texts.expected}"

    def _of_number(self, value: Any) -> int | str:
        if self._unit is None:
            return "not an RFC 3339 date-time"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"not a {counted(self._unit)}"
        if self._whole and isinstance(value, float) and not value.is_integer():
            return f"not a whole {counted(self._unit)}"
        return of_numbers(value, self._unit)

    @property
    def has_one_unit(self) -> bool:
        """Whether larger numbers in the column are later times."""
        return self._unit != "auto"

    def whole_units(self, time_us: int) -> int:
        """`time_us` in the stream's unit, rounded down; in ms if any may be sent."""
        if self._unit == "ns":
            return time_us * 1000
        return time_us // UNIT_US["ms" if self._unit == "auto" else self._unit or "us"]

    def column(self, found: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
        """Microseconds (n,) int64 of the time column, and which rows have none that the fast path can vouch for."""
        bad = None
        if pa.types.is_string(found.type):
            found, bad = self._of_texts(found)
        if found.null_count:
            absent = ~np.asarray(found.is_valid())
            bad = absent if bad is None else bad | absent
            found = found.fill_null(pa.scalar(0, found.type) if found.type != INSTANT else pa.scalar(0, INSTANT))
        if found.type == INSTANT:
            return found.view(pa.int64()).to_numpy(), bad
        return self._of_column(found.to_numpy(), bad)

    def _of_texts(self, found: pa.Array) -> tuple[pa.Array, np.ndarray | None]:
        if self._unit is None and self._texts.zone is None:
            taken, bad = instants(found)
            if bad is None:
                return taken, bad
        each = [None if text is None else self._of_one(text) for text in found.to_pylist()]
        fits = [value if value is not None and MIN_US <= value <= MAX_US else None for value in each]
        wrong = np.fromiter((value is None for value in fits), bool, len(fits)) & np.asarray(found.is_valid())
        return pa.array(fits, pa.int64()).cast(INSTANT), wrong if wrong.any() else None

    def _of_one(self, text: str) -> int | None:
        """A text of the column; of JSON text, what it says."""
        if self._free != "json":
            return self._texts.of(text)
        try:
            value = _DECODE(text)
        except msgspec.MsgspecError:  # a number beyond every double: the arbiter says so
            return None
        found = self._of_text(value) if isinstance(value, str) else self._of_number(value)
        return None if isinstance(found, str) else found

    def _of_column(self, values: np.ndarray, bad: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        assert self._unit is not None
        if self._unit != "auto" and values.dtype == np.int64:
            return self._of_integers(values, self._unit, bad)
        each = [of_numbers(value, self._unit) for value in values.tolist()]
        beyond = np.fromiter((not MIN_US <= value <= MAX_US for value in each), bool, len(each))
        times = np.array([0 if out else value for value, out in zip(each, beyond.tolist(), strict=True)], np.int64)
        return times, (beyond if bad is None else bad | beyond) if beyond.any() else bad

    @staticmethod
    def _of_integers(values: np.ndarray, unit: str, bad: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        if unit == "ns":
            return values // 1000, bad
        factor = UNIT_US[unit]
        beyond = (values > MAX_US // factor) | (values < MIN_US // factor + 1)
        if beyond.any():
            bad = beyond if bad is None else bad | beyond
            values = np.where(beyond, 0, values)
        return values * factor, bad

    def filled(self, column: pa.Array, now_us: int) -> pa.Array:
        """The time column with the arrival (`now_us`) where there is no time, as an event would have sent it."""
        if not self._arrives or not column.null_count:
            return column
        if column.type == INSTANT:
            return column.fill_null(pa.scalar(now_us, pa.int64()).cast(INSTANT))
        if pa.types.is_string(column.type):
            text = instant_text(now_us) if self._unit in (None, "auto") else str(self.whole_units(now_us))
            return column.fill_null(f'"{text}"' if self._free == "json" else text)
        return column.fill_null(pa.scalar(self.whole_units(now_us), column.type))
