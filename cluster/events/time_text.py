"""Times as people write them: texts with a space for `T`, without a zone, and numbers since the epoch of any unit.

Used by `event_time`, for fields that the schema leaves as text or number; RFC 3339 alone is `instants`. One rule per
value: what it takes is a time, and whoever reads columns asks it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Literal
from zoneinfo import ZoneInfo

from eagleray.cluster.events.instants import MAX_US, MIN_US, instant_us

Unit = Literal["s", "ms", "us", "ns", "auto"]
UNIT_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
_AUTO: tuple[tuple[int, str], ...] = (
    (10**11, "s"),
    (10**14, "ms"),
    (10**17, "us"),
)  # below so many it is this unit: 1973 in the next, 5138 in it
NUMBER = re.compile(r"[+-]?\d{1,30}(?:\.\d{1,30})?", re.ASCII)
_TEXT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(:\d\d(?:[.,]\d+)?)? ?(UTC|[Zz]|[+-]\d\d(?::?\d\d)?)?", re.ASCII)


_COUNTED = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def counted(unit: str) -> str:
    """What a number of `time_unit: unit` is, for messages."""
    return f"number of {_COUNTED[unit]} since 1970" if unit in _COUNTED else "number since 1970 in s, ms, us or ns"


def unit_of(value: float | Decimal) -> str:
    """The unit of a number since the epoch, by its size."""
    return next((name for below, name in _AUTO if -below < value < below), "ns")


def of_numbers(value: float | Decimal, unit: str) -> int:
    """Microseconds of a number since the epoch, further digits cut; may be beyond all years."""
    if unit == "auto":
        unit = unit_of(value)
    if isinstance(value, float):
        if abs(value) > 1e20:  # beyond all years in every unit; infinities too
            return MAX_US + 1 if value > 0 else MIN_US - 1
        whole = int(value) if value.is_integer() else None
        exact: int | Decimal = Decimal(repr(value)) if whole is None else whole  # as it was written
    else:
        exact = value
    if unit == "ns":
        return exact // 1000 if isinstance(exact, int) else _floor(exact / 1000)
    return exact * UNIT_US[unit] if isinstance(exact, int) else _floor(exact * UNIT_US[unit])


def _floor(value: Decimal) -> int:
    whole = int(value)
    return whole - 1 if value < whole else whole


class TextRule:
    """What a text of a stream's time field means."""

    def __init__(self, unit: str | None, zone: str | None) -> None:
        """`unit` of texts that are numbers (None: there are none), `zone` of those that name none (None: refused)."""
        self._unit = unit
        self.zone = zone

    @property
    def expected(self) -> str:
        """What is expected, for messages."""
        if self._unit not in (None, "auto"):
            return f"a {counted(self._unit)}"
        dates = "an RFC 3339 date-time" if self.zone is None else "a date and time"
        return dates if self._unit is None else f"{dates} or a {counted(self._unit)}"

    @cached_property
    def _own(self) -> ZoneInfo | None:
        return ZoneInfo(self.zone) if self.zone is not None else None

    def of(self, text: str) -> int | None:
        """Microseconds of a text, perhaps beyond all years; None where it is no time."""
        if self._unit is not None and NUMBER.fullmatch(text):
            return of_numbers(Decimal(text) if "." in text else int(text), self._unit)
        if self._unit not in (None, "auto"):
            return None
        match = _TEXT.fullmatch(text)
        if match is None:
            return None
        date, minutes, seconds, zone = match.groups()
        clock = f"{date}T{minutes}{(seconds or ':00').replace(',', '.')}"
        return self._local(clock) if zone is None else instant_us(clock + _offset(zone))

    def _local(self, clock: str) -> int | None:
        """A clock of the stream's zone. An hour that comes twice is the first, one that is left out goes on."""
        if self._own is None or (utc_us := instant_us(clock + "Z")) is None:
            return None
        seconds, micros = divmod(utc_us, 1_000_000)
        local = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
        try:
            offset = local.replace(tzinfo=self._own).utcoffset()
        except OverflowError:
            return None
        assert offset is not None
        return (seconds - round(offset.total_seconds())) * 1_000_000 + micros


def _offset(zone: str) -> str:
    """A zone as RFC 3339 has it: `UTC`, `+02`, `+0200` are people's."""
    if zone in ("Z", "z", "UTC"):
        return "Z"
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return f"{zone[0]}{digits[:2]}:{digits[2:]}"
