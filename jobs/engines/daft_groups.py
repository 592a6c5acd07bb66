"""Groups and windows of a plan in Daft: DuckDB makes keys and arguments, Daft gathers them, DuckDB makes the results.

So a sum that goes round in Daft's 64 bits is an error, and NaN is the greatest number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import daft
from daft import col, functions

from eagleray.jobs.engines.bound_sql import Node, Unwritten, computed, references, type_sql, written
from eagleray.jobs.engines.daft_rows import FLOATS, Rows, fresh, key_of, sort_keys, type_of, with_values

_SUM_SLACK = 1e17  # sums that are so far apart as whole numbers and as doubles have gone round


def grouped(rows: Rows, groups: Sequence[Node], aggregates: Sequence[Node]) -> Rows:
    """One row per group: DuckDB makes keys and arguments, Daft gathers, DuckDB makes the results."""
    parts = [_Part.of(one) for one in aggregates]
    texts = [*map(key_of, groups), *(text for part in parts for text in part.arguments)]
    used = rows.columns([*references(list(groups)), *references(list(aggregates))])
    frame, made = with_values(rows.frame, texts, used)
    keys, columns = made[: len(groups)], iter(made[len(groups) :])
    gathered = [one for part in parts for one in part.gathered([next(columns) for _ in part.arguments])]
    if not keys:
        frame = frame.agg(*gathered)
    elif gathered:
        frame = frame.groupby(*keys).agg(*gathered)
    else:
        frame = frame.select(*keys).distinct()
    types = [type_of(one) for one in (*groups, *aggregates)]
    results = [
        *(f"CAST({key} AS {type_sql(kind)})" for key, kind in zip(keys, types, strict=False)),
        *(f"CAST({part.result()} AS {type_sql(type_of(one))})" for part, one in zip(parts, aggregates, strict=True)),
    ]
    named = [*keys, *(name for part in parts for name in part.names)]
    frame, names = with_values(frame, results, {name: name for name in named})
    return Rows(frame.select(*names), names, types)


@dataclass(frozen=True)
class _Part:
    """One aggregate: SQL of what goes into Daft, what Daft makes of it, and SQL of the result."""

    name: str
    arguments: Sequence[str]
    kind: str  # of the argument
    names: Sequence[str]  # of the columns that Daft makes

    @classmethod
    def of(cls, node: Node) -> _Part:
        name = node["qname"]["path"][-1]
        children = node.get("children") or []
        if node.get("order_bys") or len(children) > 1:
            raise Unwritten(f"the aggregate {name}")
        if node.get("aggregate_type") == "DISTINCT" and name in ("count", "sum", "avg"):
            name = f"{name} distinct"
        if name not in _AGGREGATES:
            raise Unwritten(f"the aggregate {name}")
        argument = written(children[0]) if children else "1"
        kind = type_of(children[0])["id"] if children else "INTEGER"
        if name.endswith("distinct") or name in ("min", "max", "any_value", "first"):
            key = key_of(children[0])  # raises for what is in no order
            argument = key if name == "count distinct" else argument
        if condition := node.get("filter"):
            argument = f"CASE WHEN {written(condition)} THEN {argument} END"
        arguments = _AGGREGATES[name](argument, kind)
        return cls(name, arguments, kind, fresh(len(arguments)))

    def bare(self, columns: Sequence[str]) -> list[daft.Expression]:
        """What Daft makes of the arguments, in these columns."""
        return [
            getattr(col(column), how)() for column, how in zip(columns, _GATHERED[self.name](self.kind), strict=True)
        ]

    def gathered(self, columns: Sequence[str]) -> list[daft.Expression]:
        """The same under `names`."""
        return [one.alias(name) for one, name in zip(self.bare(columns), self.names, strict=True)]

    def result(self) -> str:
        """SQL of the result, over `names`."""
        return _RESULT[self.name](self.kind, *self.names)


def _whole(kind: str) -> bool:
    return kind.endswith("INT") or kind in ("INTEGER", "BOOLEAN")


def _sum_arguments(argument: str, kind: str) -> list[str]:
    if _whole(kind):  # as DOUBLE besides, for Daft's sums of whole numbers go round
        return [f"CAST({argument} AS BIGINT)", f"CAST({argument} AS DOUBLE)"]
    return [argument]


def _sum_result(kind: str, *columns: str) -> str:
    if not _whole(kind):
        return columns[0]
    whole, double = columns
    apart = f"abs(CAST({whole} AS DOUBLE) - {double}) > {_SUM_SLACK}"
    return f"CASE WHEN {apart} THEN error('a sum is beyond 64 bits, which Daft does not have') ELSE {whole} END"


def _extreme(argument: str, kind: str) -> list[str]:
    if kind not in FLOATS:
        return [f"CAST({argument} AS INTEGER)" if kind == "BOOLEAN" else argument]
    return [f"CASE WHEN NOT isnan({argument}) THEN {argument} END", f"CASE WHEN isnan({argument}) THEN 1 END"]


def _least(kind: str, *columns: str) -> str:
    if len(columns) == 1:
        return columns[0]
    return f"coalesce({columns[0]}, CASE WHEN {columns[1]} > 0 THEN 'nan'::DOUBLE END)"


def _greatest(kind: str, *columns: str) -> str:
    if len(columns) == 1:
        return columns[0]
    return f"CASE WHEN {columns[1]} > 0 THEN 'nan'::DOUBLE ELSE {columns[0]} END"


def _mean(argument: str, kind: str) -> list[str]:
    return [f"CAST({argument} AS DOUBLE)", argument]


_AGGREGATES: Mapping[str, Callable[[str, str], list[str]]] = {
    "count_star": lambda argument, _: [argument],
    "count": lambda argument, _: [argument],
    "count distinct": lambda argument, _: [argument],
    "sum": _sum_arguments,
    "sum_no_overflow": _sum_arguments,
    "min": _extreme,
    "max": _extreme,
    "avg": _mean,
}

_GATHERED: Mapping[str, Callable[[str], list[str]]] = {
    "count_star": lambda _: ["count"],
    "count": lambda _: ["count"],
    "count distinct": lambda _: ["count_distinct"],
    "sum": lambda kind: ["sum", "sum"] if _whole(kind) else ["sum"],
    "sum_no_overflow": lambda kind: ["sum", "sum"] if _whole(kind) else ["sum"],
    "min": lambda kind: ["min", "count"] if kind in FLOATS else ["min"],
    "max": lambda kind: ["max", "count"] if kind in FLOATS else ["max"],
    "avg": lambda _: ["sum", "count"],
}

_RESULT: Mapping[str, Callable[..., str]] = {
    "count_star": lambda _, made: made,
    "count": lambda _, made: made,
    "count distinct": lambda _, made: made,
    "sum": _sum_result,
    "sum_no_overflow": _sum_result,
    "min": _least,
    "max": _greatest,
    "avg": lambda _, total, count: f"CASE WHEN {count} > 0 THEN {total} / {count} END",
}


def windowed(rows: Rows, node: Node) -> Rows:
    """The rows with the value of a window function as one more column."""
    kind = node["type"].removeprefix("WINDOW_")
    if node.get("ignore_nulls") or node.get("distinct") or node.get("filter_expr") or node.get("arg_orders"):
        raise Unwritten("this window function")
    if node.get("exclude_clause") != "NO_OTHER":
        raise Unwritten("EXCLUDE in a window")
    part = _Part.of(node) if kind == "AGGREGATE" else None
    orders, partitions = node.get("orders") or [], node.get("partitions") or []
    arguments = list(part.arguments) if part else [written(one) for one in (node.get("children") or [])[:1]]
    sorted_by = [sort_keys(order["expression"]) for order in orders]
    texts = [*map(key_of, partitions), *(text for texts in sorted_by for text in texts), *arguments]
    used = rows.columns([*references(partitions), *references(orders), *references(node.get("children") or [])])
    frame, values = with_values(rows.frame, texts, used)
    names = iter(values)
    window = daft.Window()
    if partitions:
        window = window.partition_by(*(next(names) for _ in partitions))
    else:
        (whole,) = fresh(1)
        frame = frame.with_column(whole, daft.lit(1))
        window = window.partition_by(whole)
    keys = [(next(names), order) for order, texts in zip(orders, sorted_by, strict=True) for _ in texts]
    if keys:
        window = window.order_by(
            *(name for name, _ in keys),
            desc=[order["type"] == "DESCENDING" for _, order in keys],
            nulls_first=[order["null_order"] == "NULLS FIRST" for _, order in keys],
        )
    columns = [next(names) for _ in arguments]
    kinds = type_of(node)
    if part:
        window = _framed(window, node, bool(keys))
        made = [one.over(window).alias(name) for one, name in zip(part.bare(columns), part.names, strict=True)]
        frame = frame.with_columns(dict(zip(part.names, made, strict=True)))
        text, over = part.result(), part.names
    else:
        over = fresh(1)
        frame = frame.with_column(over[0], _ranked(kind, node, columns).over(window))
        text = over[0]
    frame, (found,) = with_values(frame, [f"CAST({text} AS {type_sql(kinds)})"], {name: name for name in over})
    after = [*rows.names, found]
    return Rows(frame.select(*after), after, [*rows.types, kinds])


def _ranked(kind: str, node: Node, columns: Sequence[str]) -> daft.Expression:
    match kind:
        case "ROW_NUMBER":
            return functions.row_number()
        case "RANK":
            return functions.rank()
        case "RANK_DENSE":
            return functions.dense_rank()
        case "LAG" | "LEAD":
            rest = (node.get("children") or [])[1:]
            if any(True for _ in references(rest)):
                raise Unwritten(f"{kind} with an offset or a default that is computed")
            values = [computed([written(one)], {}, 1).column(0)[0].as_py() for one in rest]
            offset, default = values[0] if values else 1, values[1] if len(values) > 1 else None
            if default is not None or not isinstance(offset, int) or offset < 0:
                raise Unwritten(f"{kind} with this offset or default")
            shifted: daft.Expression = getattr(col(columns[0]), kind.lower())(offset)
            return shifted
    raise Unwritten(f"the window function {kind.lower()}")


def _framed(window: Any, node: Node, ordered: bool) -> Any:
    frame = (node["start"], node["end"])
    if frame == ("UNBOUNDED_PRECEDING", "UNBOUNDED_FOLLOWING") or not ordered:
        if ordered:
            return window.rows_between(daft.Window.unbounded_preceding, daft.Window.unbounded_following)
        if frame[0] == "UNBOUNDED_PRECEDING" and frame[1] in ("UNBOUNDED_FOLLOWING", "CURRENT_ROW_RANGE"):
            return window
    elif frame == ("UNBOUNDED_PRECEDING", "CURRENT_ROW_ROWS"):
        return window.rows_between(daft.Window.unbounded_preceding, daft.Window.current_row)
    elif frame == ("UNBOUNDED_PRECEDING", "CURRENT_ROW_RANGE") and len(node["orders"]) == 1:
        if node["orders"][0]["expression"]["return_type"]["id"] not in FLOATS:
            return window.range_between(daft.Window.unbounded_preceding, daft.Window.current_row)
    raise Unwritten("this frame of a window")
