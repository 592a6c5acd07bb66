"""How many items the arrays of an event have, and how many they may have: what bounds what a batch becomes.

An item of three bytes, `{}`, becomes a value of every column below its array, and an event becomes one of every column,
so bytes bound nothing here. Called by the readers of events, fast and general; `columnar.c` counts items the same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from eagleray.cluster.events.json_text import outside_strings
from eagleray.cluster.events.shape import Shape

VALUES_MAX = 16_000_000  # values in columns that one request becomes, and its arrays again as many: some 150 MB
_EMPTY = re.compile(rb"\[[ \t\r\n]*\]")
_OPEN, _CLOSE, _COMMA, _ARRAY = b"[{", b"]}", ord(","), ord("[")
_MARKS = np.zeros(256, np.bool_)
_MARKS[list(b"[]{},")] = True
_STEPS = np.zeros(256, np.int8)
_STEPS[list(_OPEN)] = 1
_STEPS[list(_CLOSE)] = -1


@dataclass(frozen=True)
class ItemLimits:
    """How many items of arrays there may be, at all levels together, and how many events."""

    event: int  # edge.items_max
    body: int  # of all events of a request
    events: int = VALUES_MAX  # of a request

    @classmethod
    def of(cls, shape: Shape, items_max: int) -> ItemLimits:
        """Those of a stream: a request has so many items, and events, as become VALUES_MAX values; one event always."""
        body = max(items_max, VALUES_MAX // max(1, _widest_item(shape)))
        return cls(items_max, body, max(1, VALUES_MAX // _width(shape)))

    def may_be_too_many(self, body: bytes) -> bool:
        """Whether a body may have more than `events` events; looks at braces alone, of which each event has one."""
        return len(body) > 2 * self.events and body.count(b"{") > self.events


def exceeds(raw: bytes, most: int) -> bool:
    """Whether the arrays of `raw` have more than `most` items; looks no further than it has to."""
    if len(raw) <= 2 * most:  # an item takes two bytes
        return False
    head = raw[: 16 * most]
    if len(head) < len(raw):
        opened = outside_strings(head).find(b'"')  # of a string that was cut
        if items(head[:opened] if opened >= 0 else head) > most:
            return True
    return items(raw) > most


def items(raw: bytes) -> int:
    """How many items all arrays of `raw` have together. Meant for JSON; other bytes do it no harm."""
    blanked = outside_strings(raw)
    characters = np.frombuffer(blanked, np.uint8)
    marks = characters[_MARKS[characters]]
    steps = _STEPS[marks]
    levels = np.cumsum(steps, dtype=np.int32)  # of an opening bracket its own, of a comma the one it is in
    chosen = steps >= 0
    marks, levels = marks[chosen], levels[chosen]
    order = np.argsort(levels, kind="stable")
    marks = marks[order]
    opening = np.where(marks != _COMMA, np.arange(len(marks)), -1)
    within = np.maximum.accumulate(opening) if len(marks) else opening
    commas = (marks == _COMMA) & (within >= 0)
    in_arrays = int(np.count_nonzero(marks[within[commas]] == _ARRAY))
    return in_arrays + blanked.count(b"[") - len(_EMPTY.findall(blanked))


def _widest_item(shape: Shape) -> int:
    """The most values that one item of an array can become; 0: there are no arrays in columns."""
    below = [_widest_item(member.shape) for member in shape.members]
    if shape.item is not None:
        below += [_width(shape.item), _widest_item(shape.item)]
    return max(below, default=0)


def _width(shape: Shape) -> int:
    return sum(_width(member.shape) for member in shape.members) or 1
