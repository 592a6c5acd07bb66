"""Rows of a plan in Daft, and what DuckDB computes over them, batch by batch in Daft's tasks. Used by `daft_plan`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import daft
import pyarrow as pa
from daft import DataType, col

from eagleray.jobs.engines.bound_sql import Node, Unwritten, computed, references, type_sql, written

FLOATS = ("FLOAT", "DOUBLE")
_KEYS = frozenset(
    {"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "HUGEINT", "VARCHAR",
     "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "DECIMAL", *FLOATS}
)  # fmt: skip


_numbers = itertools.count()


def fresh(count: int) -> list[str]:
    """Names for columns that no other column has.

    No name is ever given twice, not even after its column is gone: where a projection gives columns each other's names
    (SELECT b AS a, a AS b), Daft's optimizer (0.7) reads a Python function's argument through it twice, and the
    function gets another column.
    """
    return [f"v{next(_numbers)}" for _ in range(count)]


@dataclass(frozen=True)
class Rows:
    """An operator's rows: a frame, the names of its columns in their order, and their bound types.

    SQL over them says `c<n>` for the column at place n.
    """

    frame: daft.DataFrame
    names: Sequence[str]
    types: Sequence[Node]

    @classmethod
    def of(cls, frame: daft.DataFrame, columns: Iterable[daft.Expression], types: Sequence[Node]) -> Rows:
        """These columns of `frame`, under names of their own."""
        chosen = list(columns)
        names = fresh(len(chosen))
        return cls(frame.select(*(one.alias(name) for one, name in zip(chosen, names, strict=True))), names, types)

    def columns(self, used: Iterable[int]) -> dict[str, str]:
        """By its name in SQL, the name of each column at the places `used`; of the first, where there is none."""
        return {f"c{at}": self.names[at] for at in sorted(set(used))} or {"c0": self.names[0]}


def reference(at: int, kind: Node) -> Node:
    """The column at a place as a bound expression."""
    return {"expression_class": "BOUND_REF", "type": "BOUND_REF", "index": at, "return_type": kind}


def all_of(rows: Rows) -> list[Node]:
    """Every column as a bound expression."""
    return [reference(at, kind) for at, kind in enumerate(rows.types)]


def shifted(node: Any, by: int) -> Any:
    """The expression over columns that stand `by` places further."""
    if isinstance(node, dict):
        moved = {key: shifted(value, by) for key, value in node.items()}
        return {**moved, "index": node["index"] + by} if node.get("expression_class") == "BOUND_REF" else moved
    return [shifted(one, by) for one in node] if isinstance(node, list) else node


def picked(rows: Rows, kept: Sequence[int]) -> Rows:
    """These columns alone, in this order."""
    names = [rows.names[at] for at in kept]
    types = [rows.types[at] for at in kept]
    if len(set(names)) < len(names):
        return Rows.of(rows.frame, map(col, names), types)
    return Rows(rows.frame.select(*names), names, types)


def where(rows: Rows, condition: str, used: Iterable[int]) -> Rows:
    """The rows for which the SQL condition over the columns `used` is true."""
    frame, (true,) = with_values(rows.frame, [f"CAST({condition} AS BOOLEAN)"], rows.columns(used))
    return Rows(frame.where(col(true)).select(*rows.names), rows.names, rows.types)


def computed_rows(rows: Rows, expressions: Sequence[Node]) -> Rows:
    """The rows with these columns instead; those that are only moved stay Daft's."""
    types = [type_of(one) for one in expressions]
    new = [at for at, one in enumerate(expressions) if one["expression_class"] != "BOUND_REF"]
    used = rows.columns(place for at in new for place in references(expressions[at]))
    texts = [f"CAST({written(expressions[at])} AS {type_sql(types[at])})" for at in new]
    frame, made = with_values(rows.frame, texts, used)
    chosen = [made[new.index(at)] if at in new else rows.names[one["index"]] for at, one in enumerate(expressions)]
    return Rows.of(frame, map(col, chosen), types)


def type_of(expression: Node) -> Node:
    """The bound type of an expression."""
    if expression["expression_class"] == "BOUND_CONSTANT":
        kind: Node = expression["value"]["type"]
        return kind
    if expression["expression_class"] == "BOUND_CONJUNCTION":
        return {"id": "BOOLEAN", "type_info": None}
    found: Node = expression["return_type"]
    return found


def with_values(
    frame: daft.DataFrame, texts: Sequence[str], columns: Mapping[str, str]
) -> tuple[daft.DataFrame, list[str]]:
    """`frame` with the values of SQL expressions, and the names of their columns.

    `columns`: by the name that the SQL has for it, each column that the expressions are over; at least one.
    """
    if not texts:
        return frame, []
    kinds = _arrow_of(texts, frame, columns)
    kind = DataType.from_arrow_type(pa.struct([(f"e{at}", one) for at, one in enumerate(kinds)]))
    compute = daft.func.batch(return_dtype=kind)(partial(_batch, tuple(texts), tuple(columns)))
    struct, *names = fresh(1 + len(texts))
    frame = frame.with_column(struct, compute(*map(col, columns.values())))
    frame = frame.with_columns({name: col(struct)[f"e{at}"] for at, name in enumerate(names)})
    return frame.exclude(struct), names


def _arrow_of(texts: Sequence[str], frame: daft.DataFrame, columns: Mapping[str, str]) -> list[pa.DataType]:
    """The types of what SQL expressions give, by computing them for no row."""
    schema = frame.schema().to_pyarrow_schema()
    empty = {name: pa.array([], schema.field(own).type) for name, own in columns.items()}
    return list(computed(texts, empty, 0).schema.types)


def _batch(texts: Sequence[str], names: Sequence[str], *series: daft.Series) -> pa.Array:
    """One batch, in Daft's task."""
    columns = {name: one.to_arrow() for name, one in zip(names, series, strict=True)}
    made = computed(texts, columns, len(series[0]))
    arrays = [column.combine_chunks() for column in made.columns]
    arrays = [one.chunk(0) if isinstance(one, pa.ChunkedArray) else one for one in arrays]
    return pa.StructArray.from_arrays(arrays, names=made.column_names)


def _number_in_order(text: str) -> list[str]:
    """NaN after every number, and 0.0 beside -0.0, as two columns to sort by."""
    return [f"CASE WHEN isnan({text}) THEN 1 WHEN {text} IS NOT NULL THEN 0 END", _number(text)]


def _number(text: str) -> str:
    return f"CASE WHEN isnan({text}) THEN 0 WHEN {text} = 0 THEN 0 ELSE {text} END"


def key_of(expression: Node) -> str:
    """A value by which Daft groups and joins as DuckDB does: numbers with a fraction as text, for NaN and -0.0."""
    kind, text = type_of(expression), written(expression)
    if kind["id"] not in _KEYS:
        raise Unwritten(f"groups and joins by {kind['id']}")
    if kind["id"] in FLOATS:
        return f"CAST(CASE WHEN {text} = 0 THEN 0 ELSE {text} END AS VARCHAR)"
    return f"CAST({text} AS INTEGER)" if kind["id"] == "BOOLEAN" else text


def sort_keys(expression: Node) -> list[str]:
    """SQL of what Daft sorts by, as DuckDB would sort by the expression; raises Unwritten."""
    kind, text = type_of(expression)["id"], written(expression)
    if kind not in _KEYS:
        raise Unwritten(f"an order by {kind}")
    return _number_in_order(text) if kind in FLOATS else [text]
