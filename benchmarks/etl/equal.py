"""Whether two engines gave the same rows: types normalised, exact values exact, floating point to 1e-9.

Rows are matched in an order of their own (the columns that are not floating point first), for a table has none.
Integers of any width are integers; times are compared as instants; a decimal is compared exactly with a decimal or an
integer. Where one engine divides decimals into a decimal of six places and the other into floating point, they must
agree to half a unit of the last place.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

RELATIVE = 1e-9


def difference(ours: pa.Table, theirs: pa.Table) -> str | None:
    """What differs first, in words; None where all rows are the same."""
    if ours.num_columns != theirs.num_columns or ours.num_rows != theirs.num_rows:
        return f"{ours.num_rows} rows of {ours.num_columns} columns, against {theirs.num_rows} of {theirs.num_columns}"
    inexact = [
        index
        for index in range(ours.num_columns)
        if pa.types.is_floating(ours.column(index).type) or pa.types.is_floating(theirs.column(index).type)
    ]
    names = ours.column_names
    for number, (mine, other) in enumerate(zip(_rows(ours, inexact), _rows(theirs, inexact), strict=True)):
        for name, a, b in zip(names, mine, other, strict=True):
            if not _same(a, b):
                return f"row {number}, {name}: {a!r} against {b!r}"
    return None


def _rows(table: pa.Table, inexact: list[int]) -> list[tuple[Any, ...]]:
    rows = [tuple(map(_plain, row)) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]
    exact = [index for index in range(table.num_columns) if index not in inexact]

    def place(row: tuple[Any, ...]) -> list[tuple[bool, Any]]:
        return [(row[index] is not None, row[index] if row[index] is not None else 0) for index in exact + inexact]

    return sorted(rows, key=place)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return value


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    if isinstance(a, float) or isinstance(b, float):
        half = max((_half_unit(value) for value in (a, b) if isinstance(value, Decimal)), default=0.0)
        if math.isnan(a) and math.isnan(b):
            return True
        return abs(float(a) - float(b)) <= max(half, RELATIVE * max(abs(float(a)), abs(float(b))))
    return bool(a == b)


def _half_unit(value: Decimal) -> float:
    exponent = value.as_tuple().exponent
    return 0.5 * 10.0**exponent * (1 + 1e-6) if isinstance(exponent, int) else 0.0
