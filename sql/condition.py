"""Writes a predicate of the lake as a SQL condition, where rows themselves have to be chosen and not only files."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

from eagleray.cluster.lake.predicate import All, Any, Compare, In, IsNull, Predicate, Value
from eagleray.sql.engine import identifier, literal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Columns = Mapping[str, tuple[str, str]]
"""SQL's name and type of a column, by its name in the lake."""


def condition(predicate: Predicate, columns: Columns) -> str:
    """The condition that holds exactly where `predicate` does."""
    match predicate:
        case Compare(column, op, value):
            name, kind = columns[column]
            return f"{identifier(name)} {op} {_constant(value, kind)}"
        case In(column, values):
            name, kind = columns[column]
            return f"{identifier(name)} IN ({', '.join(_constant(value, kind) for value in values)})"
        case IsNull(column, negated):
            return f"{identifier(columns[column][0])} IS {'NOT ' if negated else ''}NULL"
        case All(parts):
            return " AND ".join(f"({condition(part, columns)})" for part in parts) or "true"
        case Any(parts):
            return " OR ".join(f"({condition(part, columns)})" for part in parts)


def _constant(value: Value, kind: str) -> str:
    match kind:
        case "VARCHAR":
            return literal(str(value))
        case "DATE":
            return f"DATE '{date(1970, 1, 1) + timedelta(days=int(value))}'"
        case "TIMESTAMP" | "TIMESTAMP WITH TIME ZONE":
            at = f"{_EPOCH + timedelta(microseconds=int(value)):%Y-%m-%d %H:%M:%S.%f}"
            return f"TIMESTAMP '{at}'" if kind == "TIMESTAMP" else f"TIMESTAMPTZ '{at}+00'"
    return str(value).lower() if isinstance(value, bool) else repr(value)
