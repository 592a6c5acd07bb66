"""What a decoder's type cannot say of a value: a test per value, run on a column. Used by `columns`.

A test may only be stricter than the validator: a row whose value fails it goes to the arbiter, which decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from eagleray.cluster.events.decode import integer_bounds, is_double
from eagleray.cluster.events.formats import FORMATS
from eagleray.cluster.events.json_text import INT_DIGITS_MAX, parse
from eagleray.cluster.events.patterns import python_pattern
from eagleray.cluster.events.shape import Shape

Check = Callable[[Any], bool]
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_STARTS = {
    "object": b"{",
    "array": b"[",
    "string": b'"',
    "boolean": b"tf",
    "null": b"n",
    "number": b"-0123456789",
    "integer": b"-0123456789",
}
_WHOLE = re.compile(rb"-?\d+")
_HASHED = {"text", "integer", "boolean", "number"}


def value_check(shape: Shape, rules: Any) -> Check | None:
    """The test for values of this shape that are not null; None where the decoder says it all.

    `rules` is the document's validator. A value is what the decoder gives: for JSON text, its bytes.
    """
    if shape.allowed is not None and all(value is None for value in shape.allowed):
        return _nothing
    check = _CHECKS[shape.kind](shape, rules)
    if not shape.rest or shape.kind in ("struct", "list"):  # of those, `beyond_columns` holds the rest
        return check
    rest: Check = rules.evolve(schema={"allOf": list(shape.rest)}).is_valid
    return rest if check is None else lambda value: check(value) and rest(value)


def _text(shape: Shape, rules: Any) -> Check | None:
    formatted, patterned = FORMATS.get(shape.schema.get("format", "")), _patterned(shape, rules)
    if formatted is None or patterned is None:
        return formatted or patterned
    return lambda text: formatted(text) and patterned(text)


def _patterned(shape: Shape, rules: Any) -> Check | None:
    """The pattern alone: the column reads the format. An enum is a Literal in the decoder, which holds both."""
    if "pattern" not in shape.schema or shape.allowed is not None:
        return None
    search = re.compile(python_pattern(shape.schema["pattern"])).search
    return lambda text: search(text) is not None


def _integer(shape: Shape, rules: Any) -> Check | None:
    low, high = integer_bounds(shape.schema)
    if low > high:
        return _nothing
    # an enum is a Literal in the decoder; one of other numbers (1.0) is not
    simple = shape.allowed is None or (shape.allowed and all(type(value) is int for value in shape.allowed))
    return None if simple and "multipleOf" not in shape.schema else _valid(shape, rules)


def _number(shape: Shape, rules: Any) -> Check | None:
    bounds = [shape.schema[keyword] for keyword in _BOUNDS if keyword in shape.schema]
    twice = {"minimum", "exclusiveMinimum"} <= set(shape.schema) or {"maximum", "exclusiveMaximum"} <= set(shape.schema)
    exact = all(is_double(bound) for bound in bounds) and not twice
    return None if exact and shape.allowed is None and "multipleOf" not in shape.schema else _valid(shape, rules)


def _boolean(shape: Shape, rules: Any) -> Check | None:
    return None if shape.allowed is None else _valid(shape, rules)


def _list(shape: Shape, rules: Any) -> Check | None:
    if not shape.schema.get("uniqueItems"):
        return None
    assert shape.item is not None
    if shape.item.kind in _HASHED:
        return lambda values: len(set(values)) == len(values)
    return lambda values: len(values) < 2


def _struct(shape: Shape, rules: Any) -> Check | None:
    return None


def _json(shape: Shape, rules: Any) -> Check | None:
    if shape.checked:
        valid = _valid(shape, rules)
        return lambda raw: valid(parse(raw))
    if shape.types is None:
        return None
    starts = frozenset(b"".join(_STARTS[name] for name in shape.types))
    if "integer" in shape.types:
        return lambda raw: raw[0] in starts and (raw[0] not in _STARTS["number"] or _is_whole(raw))
    return lambda raw: raw[0] in starts


def _is_whole(raw: bytes) -> bool:
    return len(raw) <= INT_DIGITS_MAX and _WHOLE.fullmatch(raw) is not None


def _nothing(_: Any) -> bool:
    return False


def _valid(shape: Shape, rules: Any) -> Check:
    valid: Check = rules.evolve(schema=shape.schema).is_valid
    return valid


_CHECKS: dict[str, Callable[[Shape, Any], Check | None]] = {
    "text": _text,
    "instant": _patterned,
    "day": _patterned,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "list": _list,
    "struct": _struct,
    "json": _json,
}
