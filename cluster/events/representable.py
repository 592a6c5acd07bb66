"""What a typed column can hold of a valid value: exactly, or not at all. Used by the arbiter and `unknown_fields`."""

from __future__ import annotations

from typing import Any

from eagleray.cluster.events.decode import INT_MAX, INT_MIN, is_double
from eagleray.cluster.events.instants import day, instant_us
from eagleray.cluster.events.json_text import Rounded, Unheld
from eagleray.cluster.events.shape import Shape


def unheld(shape: Shape, value: Any, path: str = "") -> str | None:
    """Why a valid value of a typed shape cannot be held exactly; None where it can."""
    if value is None:
        return None
    if shape.kind == "struct":
        found = (
            unheld(m.shape, value[m.name], f"{path}{m.name}.")
            for m in shape.members
            if m.name in value and not (m.loose and not fits(m.shape, value[m.name]))
        )
        return next((problem for problem in found if problem), None)
    if shape.item is not None:
        found = (unheld(shape.item, item, f"{path}{at}.") for at, item in enumerate(value))
        return next((problem for problem in found if problem), None)
    problem = _NUMBERS[shape.kind](value) if shape.kind in _NUMBERS else None
    return f"{path.removesuffix('.')}: {problem}" if problem else None


def _integer_problem(value: float) -> str | None:
    if isinstance(value, Rounded) or (isinstance(value, float) and 2**53 <= abs(value) < 2**63):
        return "not an integer as written"
    return None if INT_MIN <= value <= INT_MAX else "outside the range of 64-bit integers"


def _number_problem(value: float) -> str | None:
    if isinstance(value, Unheld):
        return "beyond the range of double-precision numbers"
    return None if is_double(value) else "an integer that no double-precision number holds exactly"


_NUMBERS = {"integer": _integer_problem, "number": _number_problem}


def fits(shape: Shape, value: Any) -> bool:
    """Whether the column can hold the value: of its type, and exactly."""
    return value is None or (_is_typed(shape, value) and unheld(shape, value) is None)


def _is_typed(shape: Shape, value: Any) -> bool:
    if value is None or shape.kind == "json":
        return True
    if shape.kind == "struct":
        return isinstance(value, dict) and all(
            m.name not in value or m.loose or _is_typed(m.shape, value[m.name]) for m in shape.members
        )
    if shape.item is not None:
        return isinstance(value, list) and all(_is_typed(shape.item, item) for item in value)
    if shape.kind == "boolean" or isinstance(value, bool):
        return shape.kind == "boolean" and isinstance(value, bool)
    if shape.kind in _NUMBERS:
        whole = isinstance(value, float) and value.is_integer()
        return isinstance(value, int) or whole or (shape.kind == "number" and isinstance(value, float))
    return isinstance(value, str) and _READ.get(shape.kind, len)(value) is not None


_READ = {"instant": instant_us, "day": day}
