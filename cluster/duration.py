"""Durations as people write them in configuration: `250ms`, `10s`, `1m30s`, `2h`, `7d`."""

from __future__ import annotations

import re

_UNIT_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")


def parse_duration(text: str) -> int:
    """Microseconds of a duration such as `1m30s`; raises ValueError that says what was expected."""
    compact = text.replace(" ", "")
    parts = _PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise ValueError(
            f"{text!r} is not a duration; expected a number and a unit (us, ms, s, m, h, d), such as 1m30s"
        )
    return round(sum(float(number) * _UNIT_US[unit] for number, unit in parts))


def format_duration(duration_us: int) -> str:
    """The shortest text that `parse_duration` reads back as `duration_us`."""
    for unit in ("d", "h", "m", "s", "ms"):
        if duration_us and duration_us % _UNIT_US[unit] == 0:
            return f"{duration_us // _UNIT_US[unit]}{unit}"
    return f"{duration_us}us"
