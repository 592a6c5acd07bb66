"""The fast decoders of a stream: strict msgspec structs generated from its shape, constraints included.

Called by `json_reader`. What a decoder takes, and the columns' checks do not mark, the arbiter
accepts with equal values. A struct's fields are `f0`, `f1`, … in the order of the shape's members;
an absent optional field is None.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Annotated, Any, Literal

import msgspec

from eagleray.cluster.events.shape import Member, Shape

INT_MIN, INT_MAX = -(2**63), 2**63 - 1


class Decoders:
    """Decoders of one event, and of an array of events.

    The closed ones refuse fields that the shape does not name, at any level; the open ones skip them, and
    `unknown_fields.Unknown` finds them. Either refuses what the schema refuses to carry (`additionalProperties`).
    """

    def __init__(self, shape: Shape) -> None:
        """`shape` is the shape of an event."""
        closed: Any = _struct(shape, closed=True)
        self.closed = msgspec.json.Decoder(closed).decode
        self.open = msgspec.json.Decoder(_struct(shape, closed=False)).decode
        self.closed_list = msgspec.json.Decoder(list[closed]).decode


def _struct(shape: Shape, *, closed: bool) -> type[msgspec.Struct]:
    return msgspec.defstruct(
        "Row",
        [_field(f"f{at}", member, closed) for at, member in enumerate(shape.members)],
        rename={f"f{at}": member.name for at, member in enumerate(shape.members)},
        forbid_unknown_fields=closed or shape.extras != "keep",
        kw_only=True,
        gc=False,  # rows hold no cycles
    )


def _field(name: str, member: Member, closed: bool) -> Any:
    found = decoded_type(member.shape, closed=closed)
    return (name, found) if member.required else (name, found, None)


def decoded_type(shape: Shape, *, closed: bool) -> Any:
    """The type annotation that msgspec decodes a value of this shape with."""
    if shape.kind == "json":
        return msgspec.Raw
    if shape.kind == "struct":
        found: Any = _struct(shape, closed=closed)
    elif shape.item is not None:
        limits: Any = _limits(shape.schema, min_length="minItems", max_length="maxItems")
        found = Annotated[list[decoded_type(shape.item, closed=closed)], msgspec.Meta(**limits)]  # type: ignore[misc]
    else:
        found = {"integer": _integer, "number": _number, "boolean": _boolean}.get(shape.kind, _text)(shape)
    return found | None if shape.nullable else found


def _limits(schema: Any, **names: str) -> dict[str, int]:
    return {ours: int(schema[theirs]) for ours, theirs in names.items() if theirs in schema}


def allowed_texts(shape: Shape) -> list[str]:
    """What an enum or const leaves of text; empty: the decoder does not restrict it."""
    return [value for value in shape.allowed or () if isinstance(value, str)]


def allowed_integers(shape: Shape) -> list[int]:
    """What an enum or const leaves of integers; empty: the decoder does not restrict them."""
    return [value for value in shape.allowed or () if type(value) is int and INT_MIN <= value <= INT_MAX]


def _text(shape: Shape) -> Any:
    if texts := allowed_texts(shape):
        return Literal[tuple(texts)]
    limits: Any = _limits(shape.schema, min_length="minLength", max_length="maxLength")
    return Annotated[str, msgspec.Meta(**limits)]


def _boolean(_: Shape) -> Any:
    return bool


def integer_bounds(schema: Any) -> tuple[int, int]:
    """The integers that pass the schema's bounds and fit int64, both ends included."""
    low, high = [INT_MIN], [INT_MAX]
    if "minimum" in schema:
        low.append(ceil(schema["minimum"]))
    if "exclusiveMinimum" in schema:
        low.append(floor(schema["exclusiveMinimum"]) + 1)
    if "maximum" in schema:
        high.append(floor(schema["maximum"]))
    if "exclusiveMaximum" in schema:
        high.append(ceil(schema["exclusiveMaximum"]) - 1)
    return max(low), min(high)


def _integer(shape: Shape) -> Any:
    if wholes := allowed_integers(shape):
        return Literal[tuple(wholes)]
    low, high = integer_bounds(shape.schema)
    if low > high:
        return int  # nothing passes; `value_checks` marks every value
    return Annotated[int, msgspec.Meta(ge=low, le=high)]


_BOUNDS = {"minimum": "ge", "exclusiveMinimum": "gt", "maximum": "le", "exclusiveMaximum": "lt"}


def number_bounds(schema: Any) -> dict[str, float]:
    """The bounds that a double holds exactly, by msgspec's name: ge, gt, le, lt."""
    return {
        ours: float(schema[theirs])
        for theirs, ours in _BOUNDS.items()
        if theirs in schema and is_double(schema[theirs])
    }


def _number(shape: Shape) -> Any:
    bounds: Any = number_bounds(shape.schema)
    for pair in (("ge", "gt"), ("le", "lt")):  # msgspec takes one of each; `value_checks` holds what is left out
        if set(pair) <= set(bounds):
            del bounds[pair[0]]
    return Annotated[float, msgspec.Meta(**bounds)]


def is_double(number: float) -> bool:
    """Whether a double holds the number exactly."""
    try:
        return float(number) == number
    except OverflowError:
        return False
