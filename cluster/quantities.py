"""Durations and sizes as people write them: `250ms`, `1m30s`, `7d`; `512MB`, `2GiB`, `1.5g`."""

from __future__ import annotations

import re

_UNIT_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


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


def parse_size(text: str) -> int:
    """Bytes of a size such as `512MB` (powers of 1000) or `2GiB` (powers of 1024); raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a size; expected a number and a unit (KB, MB, GB, KiB, MiB, GiB), such as 2GiB"
        )
    number, unit, binary = match.groups()
    return round(float(number) * float(1024 if binary else 1000) ** _POWERS[unit.lower()])
