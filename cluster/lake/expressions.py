"""Predicates as Iceberg's expressions, and the ranges that statistics of files tell. Used by `cluster.lake.scan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    IsNaN,
    IsNull,
    LessThan,
    LessThanOrEqual,
    NotEqualTo,
    NotNull,
    Or,
    Reference,
)
from pyiceberg.manifest import DataFile
from pyiceberg.types import DateType, IcebergType, IntegerType, LongType, StringType, TimestampType, TimestamptzType

from eagleray.cluster.lake import predicate as p

_COMPARE: Mapping[str, Callable[..., BooleanExpression]] = {
    "=": EqualTo,
    "!=": NotEqualTo,
    "<": LessThan,
    "<=": LessThanOrEqual,
    ">": GreaterThan,
    ">=": GreaterThanOrEqual,
}
_RANGED = (IntegerType, LongType, StringType, DateType, TimestampType, TimestamptzType)
_WIDTH_MAX = 1_000_000  # of `truncate`, as `table_layout` has it
_NULL: Mapping[bool, Callable[..., BooleanExpression]] = {False: IsNull, True: NotNull}
_IN: Callable[..., BooleanExpression] = In
_IS_NAN: Callable[..., BooleanExpression] = IsNaN


def expression(predicate: p.Predicate) -> BooleanExpression:
    """What holds wherever `predicate` does, and but for numbers at the end of their type nowhere else."""
    match predicate:
        case p.Compare(column, ">" | ">=" as op, value) if isinstance(value, float):
            # NaN is greater than every number, and no bound of a file says whether it is there.
            return Or(_COMPARE[op](Reference(column), value), _IS_NAN(Reference(column)))
        case p.Compare(_, "=" | "<" | "<=", value) if _least(value):
            return AlwaysTrue()
        case p.In(_, values) if any(map(_least, values)):
            return AlwaysTrue()
        case p.Compare(column, op, value):
            return _COMPARE[op](Reference(column), value)
        case p.IsNull(column, negated):
            return _NULL[negated](Reference(column))
        case p.In(column, values):
            return _IN(Reference(column), values)
        case p.All(parts):
            return _joined(And, parts)
        case p.Any(parts):
            return _joined(Or, parts)


def _least(value: object) -> bool:
    """Whether `truncate` of a partition may have gone below the type, and stands at its least number instead."""
    return isinstance(value, int) and any(least <= value <= least + _WIDTH_MAX for least in (-(2**31), -(2**63)))


def _joined(how: type[And] | type[Or], parts: tuple[p.Predicate, ...]) -> BooleanExpression:
    expressions = [expression(part) for part in parts]
    return how(*expressions) if len(expressions) > 1 else expressions[0] if expressions else AlwaysTrue()


def values_range(name: str, kind: IcebergType, field_id: int, files: Sequence[DataFile]) -> p.Predicate | None:
    """Where the values of a column of `files` lie, if plain values can tell."""
    if not isinstance(kind, _RANGED):
        return None
    filled = [file for file in files if file.value_counts.get(field_id, 0) > file.null_value_counts.get(field_id, 0)]
    if any(field_id not in file.lower_bounds or field_id not in file.upper_bounds for file in filled):
        return None
    parts: list[p.Predicate] = []
    if filled:
        least = min(from_bytes(kind, file.lower_bounds[field_id]) for file in filled)
        greatest = max(from_bytes(kind, file.upper_bounds[field_id]) for file in filled)
        parts.append(p.All((p.Compare(name, ">=", least), p.Compare(name, "<=", greatest))))
    if len(filled) < len(files) or any(file.null_value_counts.get(field_id, 0) for file in files):
        parts.append(p.IsNull(name))
    return parts[0] if len(parts) == 1 else p.Any(tuple(parts)) if parts else None
