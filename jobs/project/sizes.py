"""Sizes as people write them: `512MB`, `2GiB`, `1.5g`."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Bytes of a size such as `512MB` (powers of 1000) or `2GiB` (powers of 1024); raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a size; expected a number and a unit (KB, MB, GB, KiB, MiB, GiB), such as 2GiB"
        )
    number, unit, binary = match.groups()
    return round(float(number) * float(1024 if binary else 1000) ** _POWERS[unit.lower()])
