"""Which rows of each table a query can need: the filters that DuckDB's own optimizer would push into the scans.

Called by `sql.session` before files are planned: the query is optimized over empty tables, with only such rewrites
as hold for any data, so that the query over the pruned tables equals the query over the whole ones. What is not
understood prunes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any as Json

import duckdb

from eagleray.cluster.lake.predicate import EVERYTHING, All, Any, Compare, Comparison, In, IsNull, Predicate, Value
from eagleray.sql.guard import nodes

# All that is on: rewrites of logic alone, whatever the data. (Others draw on statistics of the empty tables, or make
# plans that DuckDB 2.0 cannot write down.)
_OPTIMIZERS = "cte_filter_pusher cte_inlining expression_rewriter filter_pullup filter_pushdown regex_range".split()
_PARTS_MAX = 200  # of one predicate: above, planning costs more than it saves

_OPERATORS: Mapping[str, Comparison] = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "!=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_CONSTANTS: Mapping[str, type] = {
    "BOOLEAN": bool,
    "INTEGER": int,
    "BIGINT": int,
    "DOUBLE": float,
    "VARCHAR": str,
    "DATE": int,
    "TIMESTAMP": int,
    "TIMESTAMP WITH TIME ZONE": int,
}
Columns = Mapping[str, str]
"""SQL type by column name; a column that is absent prunes nothing."""


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Switch off what `predicates` must not use."""
    present = [name for (name,) in connection.execute("FROM duckdb_optimizers()").fetchall()]
    off = ",".join(name for name in present if name not in _OPTIMIZERS)
    connection.execute(f"SET disabled_optimizers = '{off}'")


def predicates(
    connection: duckdb.DuckDBPyConnection, text: str, tables: Mapping[str, Columns]
) -> tuple[dict[str, Predicate], dict[str, Json] | None]:
    """For each table that some scan restricts: what restricts it. And the error where the query cannot be planned.

    `connection` holds the tables, empty and declared as `tables` says, by `schema.table`, and is prepared.
    """
    rows = connection.execute("SELECT json_serialize_plan(?, optimize := true)", [text]).fetchall()
    try:
        plan = json.loads(rows[0][0])
    except (ValueError, RecursionError):  # DuckDB writes NaN as a bare word
        return {}, None
    if plan["error"]:
        return {}, plan
    found: dict[str, list[Predicate]] = {}
    for scan in _scans(plan):
        path = scan["function_data"].get("qualified_name", {}).get("path", [])
        table = ".".join(path[1:]).casefold()
        if table in tables:
            found.setdefault(table, []).append(_scan_predicate(scan, tables[table]))
    return {table: _any(parts) for table, parts in found.items() if EVERYTHING not in parts}, None


def _scans(plan: Json) -> Iterator[dict[str, Json]]:
    for node in nodes(plan):
        if node.get("type") == "LOGICAL_GET" and isinstance(node.get("function_data"), dict):
            yield node


def _scan_predicate(scan: dict[str, Json], columns: Columns) -> Predicate:
    """What one scan restricts its table to; EVERYTHING where it does not, or in a way that is not understood."""
    if scan.get("table_filters_by_projection") is not True:  # keys would count table columns
        return EVERYTHING
    try:
        parts = _parts(scan, columns)
    except (KeyError, IndexError, TypeError):  # written by another DuckDB than this was read from
        return EVERYTHING
    return All(tuple(parts)) if parts and _size(parts) <= _PARTS_MAX else EVERYTHING


def _parts(scan: dict[str, Json], columns: Columns) -> list[Predicate]:
    parts = []
    for entry in scan["table_filters"]["filters"]:
        index = scan["column_indexes"][entry["key"]]["index"]
        name: str = scan["names"][index] if index < len(scan["names"]) else ""  # virtual columns count from 2^63
        part = _filter(entry["value"], name, columns[name]) if name in columns else None
        if part is not None:
            parts.append(part)
    return parts


def _filter(node: dict[str, Json], column: str, kind: str) -> Predicate | None:
    """A scan's filter on one column; None: not understood."""
    match node["filter_type"].removeprefix("LEGACY_"):
        case "IS_NULL":
            return IsNull(column)
        case "IS_NOT_NULL":
            return IsNull(column, negated=True)
        case "CONSTANT_COMPARISON":
            return _comparison(node, column, kind)
        case "EXPRESSION_FILTER":
            return Compare(column, "=", True) if node["expr"]["type"] == "BOUND_REF" and kind == "BOOLEAN" else None
        case "OPTIONAL_FILTER":
            return _filter(node["child_filter"], column, kind)
        case "IN_FILTER":
            values = [_constant(value, kind) for value in node["values"]]
            return In(column, tuple(values)) if None not in values else None  # type: ignore[arg-type]
        case "CONJUNCTION_AND":
            parts = [_filter(child, column, kind) for child in node["child_filters"]]
            understood = tuple(part for part in parts if part is not None)
            return All(understood) if understood else None
        case "CONJUNCTION_OR":
            parts = [_filter(child, column, kind) for child in node["child_filters"]]
            understood = tuple(part for part in parts if part is not None)
            return Any(understood) if understood and len(understood) == len(parts) else None
    return None


def _comparison(node: dict[str, Json], column: str, kind: str) -> Predicate | None:
    operator = _OPERATORS.get(node["comparison_type"])
    value = _constant(node["constant"], kind)
    if operator is None or value is None:
        return None
    return Compare(column, operator, value)


def _constant(node: dict[str, Json], kind: str) -> Value | None:
    """A constant of the column's own type, as `cluster.lake.predicate` has it; None for all others."""
    value: Value | None = node.get("value")
    wanted = _CONSTANTS.get(kind)
    if wanted is None or node["type"]["id"] != kind or node.get("is_null") or type(value) is not wanted:
        return None
    if value != value:  # NaN
        return None
    return value


def _any(parts: list[Predicate]) -> Predicate:
    return parts[0] if len(parts) == 1 else Any(tuple(parts))


def _size(parts: list[Predicate] | tuple[Predicate, ...]) -> int:
    return sum(_size(part.parts) if isinstance(part, All | Any) else 1 for part in parts)
