"""Has Daft carry out DuckDB's plan of a statement: Daft reads, joins, groups and sorts, DuckDB computes.

The plan is bound: every name, type and cast is settled as DuckDB means it. So what differs between two dialects (null
conditions, casts, NaN, text of dates, overflow) cannot differ: expressions run on DuckDB inside Daft's tasks, batch by
batch (`jobs.engines.bound_sql`), and only what both mean the same is left to Daft. What is left over raises Unwritten.

Rows of every operator are columns `c0`, `c1` and so on, by place. Held by tests/unit/test_engine_daft_differential.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import daft
import duckdb
import pyarrow as pa
from daft import col

from eagleray.cluster.errors import QueryRejected
from eagleray.jobs.engines.bound_sql import Node, Unwritten, arrow_types, constant, references, type_sql, written
from eagleray.jobs.engines.daft_groups import grouped, windowed
from eagleray.jobs.engines.daft_joins import COMPARED, JOINS, NULL_SAFE, crossed, joined, marked, one_each
from eagleray.jobs.engines.daft_rows import (
    Rows,
    all_of,
    computed_rows,
    fresh,
    picked,
    reference,
    shifted,
    sort_keys,
    where,
    with_values,
)

_OPTIMIZERS = "cte_inlining filter_pullup filter_pushdown deliminator unused_columns".split()

_WORDS = re.compile(r'("value":-?)(NAN|INF\w*)')  # DuckDB writes these as no JSON knows them


def prepared(connection: duckdb.DuckDBPyConnection, text: str) -> Node:
    """The plan of `text`, with those rewrites alone that Daft can follow; raises QueryRejected."""
    present = [name for (name,) in connection.execute("FROM duckdb_optimizers()").fetchall()]
    off = ",".join(name for name in present if name not in _OPTIMIZERS)
    connection.execute(f"SET disabled_optimizers = '{off}'")
    ((found,),) = connection.execute("SELECT json_serialize_plan(?, optimize := true)", [text]).fetchall()
    try:
        plan = json.loads(_WORDS.sub(lambda match: match[1] + {"NAN": "NaN"}.get(match[2], "Infinity"), found))
    except ValueError:
        raise Unwritten("the statement's plan") from None
    if plan["error"]:
        if plan.get("error_type") in ("internal", "fatal", "serialization", "not implemented"):
            raise Unwritten("the statement's plan")
        raise QueryRejected(str(plan["error_message"]))
    root: Node = plan["plans"][0]
    return root


Read = Callable[[str, Sequence[str]], daft.DataFrame]
"""The rows of a table, by name, with these of its columns."""


def carried_out(plan: Node, read: Read, names: Sequence[str]) -> daft.DataFrame:
    """The statement's rows, under `names`; nothing is read yet. Raises Unwritten for what Daft would do otherwise."""
    rows = _Lowering(read).lower(plan)
    return rows.frame.select(*(col(own).alias(name) for own, name in zip(rows.names, names, strict=True)))


class _Lowering:
    def __init__(self, read: Read) -> None:
        self._read = read
        self._named: dict[int, Rows] = {}  # bodies of WITH that are used more than once

    def lower(self, node: Node) -> Rows:
        """The rows of an operator and all below it."""
        kind = node["type"].removeprefix("LOGICAL_").lower()
        lower = getattr(self, f"_{kind}", None)
        if lower is None:
            raise Unwritten(f"the operator {kind}")
        rows: Rows = lower(node)
        return rows

    def _child(self, node: Node) -> Rows:
        (child,) = node["children"]
        return self.lower(child)

    # sources

    def _get(self, node: Node) -> Rows:
        path = (node.get("function_data") or {}).get("qualified_name", {}).get("path", [])
        if len(path) != 3:
            raise Unwritten("a table function")
        if any(column["index_type"] != "FULL_READ" for column in node["column_indexes"]):
            raise Unwritten("a part of a struct")
        names, types, indexes = node["names"], node["returned_types"], [c["index"] for c in node["column_indexes"]]
        read = [at for at in dict.fromkeys(indexes) if at < len(names)] or [0]  # rows are counted by any column
        frame = self._read(".".join(path[1:]).lower(), [names[at] for at in read])
        place = {at: f"t{number}" for number, at in enumerate(read)}
        rows = Rows.of(
            frame,
            (col(place.get(at, "t0")) for at in indexes),
            [types[at] if at < len(types) else types[read[0]] for at in indexes],
        )
        filters = node["table_filters"]
        if filters.get("multi_column_filters") or node.get("table_filters_by_projection") is not True:
            raise Unwritten("a filter over several columns")
        conditions = [
            text for one in filters["filters"] if (text := _filter(one["value"], one["key"], rows.types[one["key"]]))
        ]
        if conditions:
            rows = where(rows, " AND ".join(conditions), (one["key"] for one in filters["filters"]))
        kept = node.get("projection_ids") or range(len(indexes))
        return picked(rows, list(kept))

    def _dummy_scan(self, node: Node) -> Rows:
        (name,) = fresh(1)
        return Rows(daft.from_arrow(pa.table({name: pa.array([True])})), [name], [{"id": "BOOLEAN"}])

    def _empty_result(self, node: Node) -> Rows:
        types = node.get("return_types") or []
        if not types:
            raise Unwritten("an empty result")
        names = fresh(len(types))
        schema = pa.schema(list(zip(names, arrow_types([type_sql(kind) for kind in types]), strict=True)))
        return Rows(daft.from_arrow(schema.empty_table()), names, types)

    def _materialized_cte(self, node: Node) -> Rows:
        body, statement = node["children"]
        self._named[node["table_index"]] = self.lower(body)
        return self.lower(statement)

    def _cte_ref(self, node: Node) -> Rows:
        if node["cte_index"] not in self._named:
            raise Unwritten("a recursive WITH")
        return self._named[node["cte_index"]]

    # row by row

    def _projection(self, node: Node) -> Rows:
        return computed_rows(self._child(node), node["expressions"])

    def _filter(self, node: Node) -> Rows:
        rows = self._child(node)
        condition = " AND ".join(written(one) for one in node["expressions"])
        rows = where(rows, condition, references(node["expressions"]))
        return picked(rows, node.get("projection_map") or list(range(len(rows.types))))

    # order

    def _order_by(self, node: Node) -> Rows:
        rows = self._child(node)
        if node.get("projection_map"):
            raise Unwritten("an order with columns left out")
        frame = rows.frame
        keys: list[daft.Expression | str] = []
        descending: list[bool] = []
        nulls_first: list[bool] = []
        for order in node["orders"]:
            expression = order["expression"]
            down, first = order["type"] == "DESCENDING", order["null_order"] == "NULLS FIRST"
            parts = sort_keys(expression)
            frame, made = with_values(frame, parts, rows.columns(references(expression)))
            for name in made:
                keys.append(name)
                descending.append(down)
                nulls_first.append(first)
        ordered = frame.sort(keys, desc=descending, nulls_first=nulls_first)
        return Rows(ordered.select(*rows.names), rows.names, rows.types)

    def _limit(self, node: Node) -> Rows:
        rows, frame = self._child(node), None
        for key in ("offset_val", "limit_val"):
            value = node[key]
            if value["type"] == "UNSET":
                continue
            if value["type"] != "CONSTANT_VALUE":
                raise Unwritten("a LIMIT that is computed")
            frame = rows.frame if frame is None else frame
            count = value["constant_integer"]
            frame = frame.offset(count) if key == "offset_val" else frame.limit(count)
        return rows if frame is None else Rows(frame, rows.names, rows.types)

    # groups

    def _distinct(self, node: Node) -> Rows:
        rows = self._child(node)
        if node["distinct_type"] != "DISTINCT":
            raise Unwritten("DISTINCT ON")
        return grouped(rows, all_of(rows), [])

    def _aggregate_and_group_by(self, node: Node) -> Rows:
        if len(node.get("grouping_sets") or ()) > 1 or node.get("grouping_functions"):
            raise Unwritten("GROUPING SETS")
        return grouped(self._child(node), node["groups"], node["expressions"])

    def _window(self, node: Node) -> Rows:
        rows = self._child(node)
        for one in node["expressions"]:
            rows = windowed(rows, one)
        return rows

    # several inputs

    def _union(self, node: Node) -> Rows:
        parts = [self.lower(child) for child in node["children"]]
        rows = _beneath(parts)
        return (
            rows
            if node["setop_all"]
            else grouped(rows, [reference(at, kind) for at, kind in enumerate(rows.types)], [])
        )

    def _except(self, node: Node) -> Rows:
        return self._compared(node, "max(l) AND NOT max(r)")

    def _intersect(self, node: Node) -> Rows:
        return self._compared(node, "max(l) AND max(r)")

    def _compared(self, node: Node, which: str) -> Rows:
        if node["setop_all"]:
            raise Unwritten("EXCEPT ALL or INTERSECT ALL")
        left, right = (self.lower(child) for child in node["children"])
        count = len(left.types)
        sides = [computed_rows(rows, [*all_of(rows), *_flags(side)]) for side, rows in enumerate((left, right))]
        both = _beneath(sides)
        flags = [_aggregate("max", reference(count + at, _INT)) for at in (0, 1)]
        found = grouped(both, all_of(left), flags)
        wanted = f"c{count} = 1 AND c{count + 1} = {int('NOT' not in which)}"
        return picked(where(found, wanted, [count, count + 1]), list(range(count)))

    def _cross_product(self, node: Node) -> Rows:
        left, right = (self.lower(child) for child in node["children"])
        return crossed(left, right)

    def _any_join(self, node: Node) -> Rows:
        if node["join_type"] != "INNER":
            raise Unwritten("an outer join without an equality")
        rows = self._cross_product(node)
        return where(rows, written(node["condition"]), references(node["condition"]))

    def _comparison_join(self, node: Node) -> Rows:
        left, right = (self.lower(child) for child in node["children"])
        kind = node["join_type"]
        if kind == "SINGLE" and one_each(node["children"][1]):
            kind = "LEFT"
        equal = [one for one in node["conditions"] if one["comparison"] in ("COMPARE_EQUAL", NULL_SAFE)]
        rest = [one for one in node["conditions"] if one not in equal]
        if kind == "MARK":
            return marked(left, right, node["conditions"])
        if kind not in JOINS or (kind != "INNER" and rest) or node.get("predicate"):
            raise Unwritten(f"this {kind} join")
        rows = joined(left, right, equal, kind) if equal else crossed(left, right)
        if rest:
            count = len(left.types)
            texts = [
                f"({written(one['left'])} {COMPARED[one['comparison']]} {written(shifted(one['right'], count))})"
                for one in rest
                if one["comparison"] in COMPARED
            ]
            if len(texts) < len(rest):
                raise Unwritten("this comparison of a join")
            rows = where(rows, " AND ".join(texts), range(len(rows.types)))
        maps = (node.get("left_projection_map") or list(range(len(left.types))), node.get("right_projection_map"))
        if kind in ("SEMI", "ANTI"):
            return picked(rows, maps[0])
        return picked(rows, [*maps[0], *(len(left.types) + at for at in maps[1] or range(len(right.types)))])


def _beneath(parts: Sequence[Rows]) -> Rows:
    """The rows of all, one below the other, as the first one's columns."""
    names = fresh(len(parts[0].types))
    frames = [
        part.frame.select(*(col(own).alias(name) for own, name in zip(part.names, names, strict=True)))
        for part in parts
    ]
    return Rows(reduce(lambda above, below: above.concat(below), frames), names, parts[0].types)


_INT = {"id": "INTEGER", "type_info": None}


def _flags(side: int) -> list[Node]:
    return [
        {"expression_class": "BOUND_CONSTANT", "return_type": _INT, "value": {"type": _INT, "value": int(side == at)}}
        for at in (0, 1)
    ]


def _aggregate(name: str, argument: Node) -> Node:
    about = {"qname": {"path": [name]}, "aggregate_type": "NON_DISTINCT", "return_type": argument["return_type"]}
    return {"expression_class": "BOUND_AGGREGATE", "children": [argument], **about}


def _filter(node: Node, at: int, kind: Node) -> str | None:
    """A scan's own filter on a column as SQL; None where it only helps to skip. Raises Unwritten."""
    column = f"CAST(c{at} AS {type_sql(kind)})"
    match node["filter_type"].removeprefix("LEGACY_"):
        case "IS_NULL":
            return f"({column} IS NULL)"
        case "IS_NOT_NULL":
            return f"({column} IS NOT NULL)"
        case "CONSTANT_COMPARISON":
            sign = {"COMPARE_EQUAL": "=", **COMPARED}[node["comparison_type"]]
            return f"({column} {sign} {constant(node['constant'])})"
        case "IN_FILTER":
            return f"({column} IN ({', '.join(map(constant, node['values']))}))"
        case "CONJUNCTION_AND" | "CONJUNCTION_OR" as how:
            parts = [_filter(child, at, kind) for child in node["child_filters"]]
            known = [part for part in parts if part is not None]
            if how == "CONJUNCTION_AND":
                return f"({' AND '.join(known)})" if known else None
            return f"({' OR '.join(known)})" if len(known) == len(parts) else None
        case "OPTIONAL_FILTER":
            return None
        case "EXPRESSION_FILTER":
            return written(_placed(node["expr"], at))
    raise Unwritten(f"the filter {node['filter_type']}")


def _placed(node: Any, at: int) -> Any:
    """The expression with all of its references to the column at this place."""
    if isinstance(node, dict):
        placed = {key: _placed(value, at) for key, value in node.items()}
        return {**placed, "index": at} if node.get("expression_class") == "BOUND_REF" else placed
    return [_placed(one, at) for one in node] if isinstance(node, list) else node
