"""The JSON Schema validator that everything else agrees with: the `jsonschema` library, three keywords made exact.

`multipleOf` compares decimals as written (19.99 is a multiple of 0.01), `pattern` is ECMA's, and `uniqueItems` takes
linear time, so that a hostile array cannot hold a worker for minutes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from decimal import Decimal
from fractions import Fraction
from math import isinf
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError

from eagleray.cluster.events.formats import format_checker
from eagleray.cluster.events.patterns import python_pattern


def _exact(number: float) -> Fraction:
    return Fraction(number) if isinstance(number, int) else Fraction(Decimal(repr(float(number))))


def is_multiple(number: float, of: float) -> bool:
    """Whether the decimal text of `number` is a multiple of that of `of`."""
    return not isinf(number) and _exact(number) % _exact(of) == 0


def _multiple_of(validator: Any, of: float, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "number") and not is_multiple(instance, of):
        yield ValidationError(f"{instance!r} is not a multiple of {of}")


def _identity(value: Any) -> Hashable:
    """Equal for equal JSON values: 1 is 1.0, but true is not 1."""
    if isinstance(value, dict):
        return "object", frozenset((name, _identity(below)) for name, below in value.items())
    if isinstance(value, list):
        return "array", tuple(_identity(below) for below in value)
    return isinstance(value, bool), value


def _unique_items(validator: Any, wanted: bool, instance: Any, _: Any) -> Iterator[ValidationError]:
    if wanted and validator.is_type(instance, "array") and len({_identity(item) for item in instance}) < len(instance):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not re.search(python_pattern(pattern), instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_OWN = {"pattern": _pattern, "multipleOf": _multiple_of, "uniqueItems": _unique_items}
_extend: Any = jsonschema.validators.extend
_VALIDATOR = _extend(jsonschema.Draft202012Validator, _OWN)


def validator(document: dict[str, Any]) -> Any:
    """A `jsonschema` validator for the document (of `schema_document`), formats held.

    `evolve(schema=…)` makes one for a part of it.
    """
    return _VALIDATOR(document, format_checker=format_checker())
