"""What sample events hold, field by field: types, texts, numbers and times seen, in bounded memory.

Fed by `eagleray schema infer` with one parsed event after the other; `inference` makes a schema of it and
`stream_guess` a stream. Promise: whatever was seen is within what is remembered, never the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from eagleray.cluster.events.decode import INT_MAX, INT_MIN, is_double
from eagleray.cluster.events.formats import FORMATS
from eagleray.cluster.events.json_text import Unheld
from eagleray.cluster.events.time_text import NUMBER, TextRule, of_numbers, unit_of

VALUES_MAX = 1_000  # distinct values of a field that are counted; above, it is only known that there are more
FIELDS_MAX = 2_000  # names in one object's place; where there are more, they are data, not fields
UNIQUE_MAX = 500_000  # values of a field that are held to see whether one comes twice
DEPTH_MAX = 32  # what is deeper is seen as an object or array, not looked into
GUESSED_FORMATS = ("uuid", "date-time", "date", "time", "ipv4", "ipv6", "email", "uri")
"""Those that a text has rarely by chance."""
_ZONED = TextRule(None, None)
_LOCAL = TextRule(None, "UTC")


@dataclass
class Order:
    """Times of a field in the order of the samples; microseconds."""

    low: int = 0
    high: int = 0
    behind: int = 0  # the most that one is behind the newest before it
    count: int = 0

    def add(self, time_us: int) -> None:
        """The next one."""
        self.low = min(self.low, time_us) if self.count else time_us
        self.high = max(self.high, time_us) if self.count else time_us
        self.behind = max(self.behind, self.high - time_us)
        self.count += 1


@dataclass
class Values:
    """The values of one field that are text or numbers, in order."""

    total: int = 0
    counts: dict[Any, int] | None = field(default_factory=dict)  # None: more than VALUES_MAX
    newest: int = 0  # how many had come when one came that was not known before
    once: set[Any] | None = field(default_factory=set)  # None: one came twice, or there are too many to say

    def add(self, value: Any) -> None:
        """The next one."""
        self.total += 1
        if self.once is not None:
            if value in self.once or self.total > UNIQUE_MAX:
                self.once = None
            else:
                self.once.add(value)
        if self.counts is not None:
            if value not in self.counts:
                self.newest = self.total
                if len(self.counts) >= VALUES_MAX:
                    self.counts = None
                    return
            self.counts[value] = self.counts.get(value, 0) + 1


@dataclass
class Seen:
    """What stood in one place: a field of objects, or the items of lists."""

    total: int = 0
    nulls: int = 0
    types: set[str] = field(default_factory=set)  # JSON Schema's, null left out; integers are no numbers here
    fields: dict[str, Seen] = field(default_factory=dict)
    objects: int = 0
    many: bool = False  # more names than FIELDS_MAX
    items: Seen | None = None
    unheld: bool = False  # an integer beyond 64 bits, or a number beyond every double
    inexact: bool = False  # an integer that no double holds exactly
    formats: tuple[str, ...] = GUESSED_FORMATS  # that every text so far has
    values: Values = field(default_factory=Values)
    zoned: bool = True  # every text that is a time names its zone
    numeric: bool = True  # every text is a number
    units: set[str] = field(default_factory=set)  # of numbers, should they be times
    order: Order | None = field(default_factory=Order)  # None: not all are times

    def add(self, value: Any, depth: int = 0) -> None:
        """The next value, as `json_text.parse` gives it."""
        self.total += 1
        if value is None:
            self.nulls += 1
            return
        name = _name_of(value)
        self.types.add(name)
        _ADD[name](self, value, depth)

    def _object(self, value: dict[str, Any], depth: int) -> None:
        self.objects += 1
        if self.many or depth >= DEPTH_MAX:
            return
        for name, below in value.items():
            seen = self.fields.get(name)
            if seen is None:
                if len(self.fields) >= FIELDS_MAX:
                    self.many, self.fields = True, {}
                    return
                seen = self.fields[name] = Seen()
            seen.add(below, depth + 1)

    def _array(self, value: list[Any], depth: int) -> None:
        if depth >= DEPTH_MAX:
            return
        for item in value:
            self.items = self.items or Seen()
            self.items.add(item, depth + 1)

    def _string(self, value: str, depth: int) -> None:
        self.formats = tuple(name for name in self.formats if FORMATS[name](value))
        self.values.add(value)
        if self.numeric and not NUMBER.fullmatch(value):
            self.numeric = False
        if self.order is None:
            return
        if self.numeric:
            self._time_of_number(Decimal(value) if "." in value else int(value))
            return
        time_us = _ZONED.of(value)
        if time_us is None:
            self.zoned, time_us = False, _LOCAL.of(value)
        if time_us is None:
            self.order = None
        else:
            self.order.add(time_us)

    def _integer(self, value: int, depth: int) -> None:
        self.unheld |= not INT_MIN <= value <= INT_MAX
        self.inexact |= not is_double(value)
        self.values.add(value)
        self._time_of_number(value)

    def _number(self, value: float, depth: int) -> None:
        self.unheld |= isinstance(value, Unheld)
        self.values.add(value)
        self._time_of_number(value)

    def _boolean(self, value: bool, depth: int) -> None:
        self.order = None

    def _time_of_number(self, value: float | Decimal) -> None:
        if self.order is not None:
            unit = unit_of(value)
            self.units.add(unit)
            self.order.add(of_numbers(value, unit))

    @property
    def format(self) -> str | None:
        """The format that every text has, where all are texts."""
        return self.formats[0] if self.formats and self.types == {"string"} else None

    @property
    def always(self) -> bool:
        """Whether every value was there, and none null; of a field, compare `total` with the objects it is in."""
        return self.nulls == 0


_ADD: dict[str, Callable[[Seen, Any, int], None]] = {
    "object": Seen._object,
    "array": Seen._array,
    "string": Seen._string,
    "integer": Seen._integer,
    "number": Seen._number,
    "boolean": Seen._boolean,
}


def _name_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "object" if isinstance(value, dict) else "array"
