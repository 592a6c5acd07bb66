"""Joins of a plan in Daft: by keys that DuckDB has made, so that null, NaN and -0.0 meet as they do in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from daft import col

from eagleray.jobs.engines.bound_sql import Node, Unwritten, references
from eagleray.jobs.engines.daft_rows import Rows, fresh, key_of, with_values

NULL_SAFE = "COMPARE_NOT_DISTINCT_FROM"

COMPARED = {
    "COMPARE_NOTEQUAL": "<>", "COMPARE_LESSTHAN": "<", "COMPARE_GREATERTHAN": ">", "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHANOREQUALTO": ">=", "COMPARE_DISTINCT_FROM": "IS DISTINCT FROM",
}  # fmt: skip

JOINS = {"INNER": "inner", "LEFT": "left", "RIGHT": "right", "FULL": "outer", "SEMI": "semi", "ANTI": "anti"}


def one_each(node: Node) -> bool:
    """Whether an operator's rows are groups, of which a join by their keys finds one at most."""
    while node["type"] in ("LOGICAL_PROJECTION", "LOGICAL_FILTER"):
        (node,) = node["children"]
    return bool(node["type"] == "LOGICAL_AGGREGATE_AND_GROUP_BY")


def joined(left: Rows, right: Rows, conditions: Sequence[Node], kind: str) -> Rows:
    """Pairs of rows with equal keys, by a kind of JOINS; all columns of both sides, or of the left one alone."""
    sides = []
    for rows, side in ((left, "left"), (_renamed(right), "right")):
        texts = [_join_key(one[side], one["comparison"] == NULL_SAFE) for one in conditions]
        used = rows.columns(references([one[side] for one in conditions]))
        sides.append((rows, *with_values(rows.frame, texts, used)))
    (left, mine, left_on), (right, other, right_on) = sides
    how: Any = JOINS[kind]
    frame = mine.join(other, left_on=[*map(col, left_on)], right_on=[*map(col, right_on)], how=how)
    if kind in ("SEMI", "ANTI"):
        return Rows(frame.select(*left.names), left.names, left.types)
    names = [*left.names, *right.names]
    return Rows(frame.select(*names), names, [*left.types, *right.types])


def _renamed(rows: Rows) -> Rows:
    """The same rows under names that nobody else has: the other side may come from the same WITH."""
    return Rows.of(rows.frame, map(col, rows.names), rows.types)


def _join_key(expression: Node, null_safe: bool) -> str:
    text = key_of(expression)
    return f"coalesce('=' || CAST({text} AS VARCHAR), '')" if null_safe else text


def crossed(left: Rows, right: Rows) -> Rows:
    """Every pair of rows."""
    right = _renamed(right)
    names = [*left.names, *right.names]
    frame = left.frame.select(*left.names).join(right.frame, how="cross")
    return Rows(frame.select(*names), names, [*left.types, *right.types])


def marked(left: Rows, right: Rows, conditions: Sequence[Node]) -> Rows:
    """The left rows, and whether each is among the right ones: null where a null among them leaves it open."""
    if len(conditions) != 1 or conditions[0]["comparison"] not in ("COMPARE_EQUAL", NULL_SAFE):
        raise Unwritten("IN or EXISTS with more than one comparison")
    (condition,) = conditions
    safe = condition["comparison"] == NULL_SAFE
    right = _renamed(right)
    texts = [_join_key(condition["right"], safe)]
    listed, (theirs,) = with_values(right.frame, texts, right.columns(references(condition["right"])))
    among = listed.where(col(theirs).not_null()).select(theirs).distinct()
    among, (found,) = with_values(among, ["true"], {"c0": theirs})
    every, known = fresh(2)
    about = listed.agg(col(theirs).count("all").alias(every), col(theirs).count().alias(known))
    texts = [_join_key(condition["left"], safe)]
    frame, (mine,) = with_values(left.frame, texts, left.columns(references(condition["left"])))
    frame = frame.join(among, left_on=[col(mine)], right_on=[col(theirs)], how="left").join(about, how="cross")
    (unknown,) = fresh(1)
    frame = frame.with_column(unknown, col(mine).is_null())
    mark = "CASE WHEN f THEN true WHEN every = 0 THEN false WHEN unknown OR known < every THEN NULL ELSE false END"
    columns = {"f": found, "every": every, "known": known, "unknown": unknown}
    frame, (marks,) = with_values(frame, [f"CAST({mark} AS BOOLEAN)"], columns)
    names = [*left.names, marks]
    return Rows(frame.select(*names), names, [*left.types, {"id": "BOOLEAN", "type_info": None}])
