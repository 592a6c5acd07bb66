"""Row predicates over a table's columns, as plain values: what SQL hands to the lake so that whole files are skipped.

Made by `sql.prune` from DuckDB's plan, translated by `cluster.lake.scan` for Iceberg. A predicate only prunes: the
query still filters rows itself, so a predicate that is too weak costs time and never an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Comparison = Literal["=", "!=", "<", "<=", ">", ">="]
Value = str | int | float | bool
"""A constant: dates are days and timestamps microseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Compare:
    """`column op value`; no row whose column is null passes."""

    column: str
    op: Comparison
    value: Value


@dataclass(frozen=True, slots=True)
class In:
    """`column IN (values)`; no row whose column is null passes."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class IsNull:
    """`column IS NULL`, or with `negated` `column IS NOT NULL`."""

    column: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds. Without parts: every row passes."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """At least one part holds; never empty."""

    parts: tuple[Predicate, ...]


Predicate = Compare | In | IsNull | All | Any

EVERYTHING = All(())
"""The predicate that every row passes."""
