# ruff: noqa: E501
"""Random statements over a table of edge values, for differential tests: what sqlsmith does, typed, and by a seed.

Every statement is deterministic: a LIMIT stands behind an order of all columns, and no function has a will of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa

COLUMNS = {
    "n": ("BIGINT", pa.int64(), [0, 1, -1, 2, 7, 9223372036854775807, -9223372036854775808, None]),
    "i": ("INTEGER", pa.int32(), [0, 1, -1, 3, 2147483647, -2147483648, None]),
    "f": ("DOUBLE", pa.float64(), [0.0, -0.0, 1.5, -2.5, 1e308, 5e-324, math.nan, math.inf, -math.inf, None]),
    "p": (
        "DECIMAL",
        pa.decimal128(12, 2),
        [Decimal("0.00"), Decimal("2.50"), Decimal("-1.25"), Decimal("9999999999.99"), None],
    ),
    "s": (
        "VARCHAR",
        pa.string(),
        ["", "hello", "Hello", " a ", "12", "-1", "x%_y", "\u00e9\u4e2d", "nan", "2026-01-05", None],
    ),
    "d": (
        "DATE",
        pa.date32(),
        [date(1970, 1, 1), date(2026, 1, 5), date(2024, 2, 29), date(1, 1, 1), date(9999, 12, 31), None],
    ),
    "t": (
        "TIMESTAMP WITH TIME ZONE",
        pa.timestamp("us", "UTC"),
        [
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(2026, 1, 5, 3, 4, 5, 678901, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
            None,
        ],
    ),
    "b": ("BOOLEAN", pa.bool_(), [True, False, None]),
}
"""Name → SQL type, Arrow type, values."""


def edge_rows(count: int, seed: int = 0) -> pa.Table:
    """Rows of `k` (1, 2, ...) and COLUMNS, every value of each among them."""
    draw = Random(seed)
    columns: dict[str, Any] = {"k": pa.array(range(1, count + 1), pa.int64())}
    for name, (_, kind, values) in COLUMNS.items():
        drawn = [values[at] if at < len(values) else draw.choice(values) for at in range(count)]
        draw.shuffle(drawn)
        columns[name] = pa.array(drawn, kind)
    return pa.table(columns)


class Statements:
    """Draws statements over `table`, which has the columns of `edge_rows`."""

    def __init__(self, seed: int, table: str) -> None:
        self._draw = Random(seed)
        self._table = table

    def statement(self) -> str:
        """The next."""
        shape = self._draw.choice([self._plain, self._plain, self._plain, self._grouped, self._grouped, self._joined,
                                   self._united, self._nested, self._windowed, self._top])  # fmt: skip
        return shape()

    # shapes

    def _plain(self) -> str:
        chosen = ", ".join(f"{self.value()[0]} AS c{at}" for at in range(self._draw.randint(1, 3)))
        return f"SELECT k, {chosen} FROM {self._table}{self._where()}"

    def _top(self) -> str:
        keys = ", ".join(
            f"{self.column()} {self._draw.choice(['', 'DESC', 'DESC NULLS LAST', 'NULLS FIRST'])}" for _ in range(2)
        )
        return (
            f"SELECT k, n, f, s FROM {self._table}{self._where()} ORDER BY {keys}, k LIMIT {self._draw.randint(1, 20)}"
        )

    def _grouped(self) -> str:
        keys = [self._draw.choice([self.column(), self.of(self._draw.choice(["VARCHAR", "INTEGER", "DATE", "BOOLEAN"]))])
                for _ in range(self._draw.randint(0, 2))]  # fmt: skip
        aggregates = ", ".join(f"{self._aggregate()} AS a{at}" for at in range(self._draw.randint(1, 3)))
        listed = "".join(f"{key} AS g{at}, " for at, key in enumerate(keys))
        having = self._draw.choice(["", "", " HAVING count(*) > 1"])
        by = f" GROUP BY {', '.join(map(str, range(1, len(keys) + 1)))}" if keys else ""
        return f"SELECT {listed}{aggregates} FROM {self._table}{self._where()}{by}{having}"

    def _aggregate(self) -> str:
        kind = self._draw.choice(["count", "sum", "min", "max", "avg", "distinct", "filter"])
        if kind == "count":
            return self._draw.choice(["count(*)", f"count({self.column()})"])
        if kind == "sum":
            return f"sum({self._draw.choice(['i', 'p', self.of('INTEGER', 1), self.of('BOOLEAN') + '::INTEGER'])})"
        if kind == "avg":
            return f"avg({self._draw.choice(['i', 'p', 'CASE WHEN abs(f) < 10 THEN f END'])})"
        if kind == "distinct":
            return f"count(DISTINCT {self.column()})"
        if kind == "filter":
            return f"count(*) FILTER (WHERE {self.of('BOOLEAN')})"
        return f"{kind}({self._draw.choice([self.column(), self.value(1)[0]])})"

    def _joined(self) -> str:
        key = self._draw.choice(["n", "i", "f", "s", "d", "p", "t"])
        how = self._draw.choice(["JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN"])
        extra = self._draw.choice(["", " AND a.k < b.k"]) if how == "JOIN" else ""
        right = f"(SELECT k, {key} AS key, i FROM {self._table} WHERE k <= 12)"
        left = f"(SELECT * FROM {self._table}{self._where()})"
        return f"SELECT a.k, b.k AS m, coalesce(a.i, b.i) AS c FROM {left} a {how} {right} b ON a.{key} = b.key{extra}"

    def _united(self) -> str:
        how = self._draw.choice(["UNION ALL", "UNION", "EXCEPT", "INTERSECT"])
        names = ", ".join(self._draw.sample(list(COLUMNS), 2))
        parts = [f"SELECT {names} FROM {self._table}{self._where()}" for _ in range(2)]
        return f" {how} ".join(parts)

    def _nested(self) -> str:
        column = self._draw.choice(["n", "i", "s", "d", "f", "p"])
        if self._draw.random() < 0.3:
            outer, inner = self._draw.choice([("i", "max(i)"), ("n", "min(n)"), ("d", "max(d)"), ("p", "max(p)")])
            return f"SELECT k FROM {self._table} WHERE {outer} = (SELECT {inner} FROM {self._table}{self._where()})"
        no = self._draw.choice(["", "NOT "])
        among = f"SELECT {column} FROM {self._table}{self._where()}"
        return (
            f"SELECT k, {column} {no}IN ({among}) AS c0 FROM {self._table}"
            if self._draw.random() < 0.5
            else (f"SELECT k FROM {self._table} WHERE {column} {no}IN ({among})")
        )

    def _windowed(self) -> str:
        what = self._draw.choice(
            ["row_number()", "rank()", "sum(i)", "count(*)", "max(s)", "lag(k)", "min(d)", "avg(i)"]
        )
        part = self._draw.choice(["", "PARTITION BY b ", "PARTITION BY s ", "PARTITION BY f "])
        return f"SELECT k, {what} OVER ({part}ORDER BY k{self._draw.choice(['', ' DESC'])}) AS w FROM {self._table}"

    def _where(self) -> str:
        return self._draw.choice(["", f" WHERE {self.of('BOOLEAN')}", f" WHERE {self.of('BOOLEAN')}"])

    # values

    def column(self) -> str:
        """A column."""
        return self._draw.choice(list(COLUMNS))

    def value(self, depth: int = 2) -> tuple[str, str]:
        """An expression and its type."""
        kind = self._draw.choice(
            ["BIGINT", "INTEGER", "DOUBLE", "DECIMAL", "VARCHAR", "DATE", "BOOLEAN", "TIMESTAMP WITH TIME ZONE"]
        )
        return self.of(kind, depth), kind

    def of(self, kind: str, depth: int = 2) -> str:
        """An expression of that type."""
        columns = [name for name, (one, _, _) in COLUMNS.items() if one == kind]
        if depth <= 0 or self._draw.random() < 0.15:
            return self._draw.choice([*columns, *columns, *_CONSTANTS[kind]])
        return self._draw.choice(_MAKE[kind])(self, depth - 1)

    def _pair(self, depth: int) -> tuple[str, str]:
        kind = self._draw.choice(
            ["BIGINT", "INTEGER", "DOUBLE", "DECIMAL", "VARCHAR", "DATE", "TIMESTAMP WITH TIME ZONE"]
        )
        return self.of(kind, depth), self.of(kind, depth)

    def _compared(self, depth: int) -> str:
        left, right = self._pair(depth)
        sign = self._draw.choice(["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"])
        return f"({left} {sign} {right})"

    def _case(self, kind: str, depth: int) -> str:
        rest = self._draw.choice(["", f" ELSE {self.of(kind, depth)}"])
        return f"CASE WHEN {self.of('BOOLEAN', depth)} THEN {self.of(kind, depth)}{rest} END"


Make = Callable[[Statements, int], str]
_CONSTANTS = {
    "BIGINT": ["0::BIGINT", "3::BIGINT", "9223372036854775807"],
    "INTEGER": ["0", "1", "-7", "NULL::INTEGER"],
    "DOUBLE": ["0.5::DOUBLE", "'nan'::DOUBLE", "'-inf'::DOUBLE", "1e3"],
    "DECIMAL": ["2.50", "0.01", "NULL::DECIMAL(12,2)"],
    "VARCHAR": ["'hello'", "''", "'a''b'", "'12'", "NULL::VARCHAR"],
    "DATE": ["DATE '2026-01-05'", "DATE '1900-03-01'", "NULL::DATE"],
    "TIMESTAMP WITH TIME ZONE": ["TIMESTAMPTZ '2026-01-05 00:00:00+00'", "NULL::TIMESTAMPTZ"],
    "BOOLEAN": ["true", "false", "NULL::BOOLEAN"],
}
_ANY: dict[str, list[Make]] = {
    kind: [
        lambda g, depth, kind=kind: g._case(kind, depth),
        lambda g, depth, kind=kind: f"coalesce({g.of(kind, depth)}, {g.of(kind, depth)})",
        lambda g, depth, kind=kind: f"nullif({g.of(kind, depth)}, {g.of(kind, depth)})",
        lambda g, depth, kind=kind: f"greatest({g.of(kind, depth)}, {g.of(kind, depth)})",
    ]
    for kind in _CONSTANTS
}
_MAKE: dict[str, list[Make]] = {
    "BIGINT": [
        *_ANY["BIGINT"],
        lambda g, depth: f"(n {g._draw.choice('+-*')} {g._draw.choice(['0', 'i', '1'])})" if g._draw.random() < 0.1 else "n // 2",
        lambda g, depth: f"length({g.of('VARCHAR', depth)})",
        lambda g, depth: f"(k {g._draw.choice('+-*%')} {g._draw.choice(['2', '3', 'k'])})",
        lambda g, depth: f"year({g.of('DATE', depth)})",
        lambda g, depth: f"CAST({g.of('INTEGER', depth)} AS BIGINT)",
    ],
    "INTEGER": [
        *_ANY["INTEGER"],
        lambda g, depth: f"TRY_CAST({g.of('VARCHAR', depth)} AS INTEGER)",
        lambda g, depth: "CAST(2.50 AS INTEGER)",
        lambda g, depth: f"TRY_CAST({g.of('DOUBLE', depth)} AS INTEGER)",
        lambda g, depth: f"(i % {g._draw.choice(['2', '3', '0'])})",
        lambda g, depth: f"sign({g.of('INTEGER', depth)})::INTEGER",
    ],
    "DOUBLE": [
        *_ANY["DOUBLE"],
        lambda g, depth: f"(f {g._draw.choice('+-*/')} {g.of('DOUBLE', depth)})",
        lambda g, depth: f"abs({g.of('DOUBLE', depth)})",
        lambda g, depth: f"round({g.of('DOUBLE', depth)}, 1)",
        lambda g, depth: f"CAST({g.of('INTEGER', depth)} AS DOUBLE)",
        lambda g, depth: f"(k / {g._draw.choice(['2', '0', '3.0'])})",
    ],
    "DECIMAL": [
        *_ANY["DECIMAL"],
        lambda g, depth: f"CAST(p {g._draw.choice('+-')} 0.01 AS DECIMAL(14,2))",
        lambda g, depth: f"TRY_CAST({g.of('DOUBLE', depth)} AS DECIMAL(12,2))",
        lambda g, depth: f"TRY_CAST({g.of('VARCHAR', depth)} AS DECIMAL(12,2))",
    ],
    "VARCHAR": [
        *_ANY["VARCHAR"],
        lambda g, depth: f"substr({g.of('VARCHAR', depth)}, {g._draw.randint(-2, 3)}, {g._draw.randint(0, 3)})",
        lambda g, depth: f"concat({g.of('VARCHAR', depth)}, '!')",
        lambda g, depth: f"({g.of('VARCHAR', depth)} || {g.of('VARCHAR', depth)})",
        lambda g, depth: f"CAST({g.value(depth)[0]} AS VARCHAR)",
        lambda g, depth: f"{g._draw.choice(['upper', 'lower', 'trim', 'reverse'])}({g.of('VARCHAR', depth)})",
        lambda g, depth: f"replace({g.of('VARCHAR', depth)}, 'l', 'L')",
        lambda g, depth: f"left({g.of('VARCHAR', depth)}, {g._draw.randint(-1, 3)})",
    ],
    "DATE": [
        *_ANY["DATE"],
        lambda g, depth: f"TRY_CAST({g.of('VARCHAR', depth)} AS DATE)",
        lambda g, depth: f"CAST({g.of('TIMESTAMP WITH TIME ZONE', depth)} AS DATE)",
        lambda g, depth: "CASE WHEN d < DATE '9000-01-01' AND d > DATE '1000-01-01' THEN (d + INTERVAL 1 MONTH)::DATE END",
    ],
    "TIMESTAMP WITH TIME ZONE": [
        *_ANY["TIMESTAMP WITH TIME ZONE"],
        lambda g, depth: f"date_trunc('{g._draw.choice(['day', 'hour', 'month', 'week'])}', {g.of('TIMESTAMP WITH TIME ZONE', depth)})",
        lambda g, depth: "(t + INTERVAL 90 MINUTE)",
    ],
    "BOOLEAN": [
        *_ANY["BOOLEAN"],
        lambda g, depth: g._compared(depth),
        lambda g, depth: g._compared(depth),
        lambda g, depth: f"({g.of('BOOLEAN', depth)} {g._draw.choice(['AND', 'OR'])} {g.of('BOOLEAN', depth)})",
        lambda g, depth: f"(NOT {g.of('BOOLEAN', depth)})",
        lambda g, depth: f"({g.of('BOOLEAN', depth)} IS {g._draw.choice(['', 'NOT '])}{g._draw.choice(['TRUE', 'FALSE', 'NULL'])})",
        lambda g, depth: f"({g.value(depth)[0]} IS {g._draw.choice(['', 'NOT '])}NULL)",
        lambda g, depth: f"isnan({g.of('DOUBLE', depth)})",
        lambda g, depth: f"({g.of('VARCHAR', depth)} {g._draw.choice(['LIKE', 'NOT LIKE', 'ILIKE'])} '{g._draw.choice(['h%', '%l%', '_', ''])}')",
        lambda g, depth: f"(i {g._draw.choice(['', 'NOT '])}IN (0, 1, {g._draw.choice(['3', 'NULL'])}))",
        lambda g, depth: f"(f BETWEEN {g.of('DOUBLE', depth)} AND {g.of('DOUBLE', depth)})",
    ],
}  # fmt: skip
