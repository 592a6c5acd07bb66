"""Writes DuckDB's SQL as Daft 0.7 reads it, and refuses what Daft would run and answer differently.

Works on the syntax tree, whose nodes say where in the text they stand. What Daft itself refuses is left to its message.
Held by tests/unit/test_engine_daft.py, which compares the two row by row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Set
from decimal import Decimal
from operator import add, mul, sub
from typing import Any

from eagleray.cluster.errors import QueryRejected
from eagleray.sql.engine import identifier
from eagleray.sql.guard import Guard, place

Node = dict[str, Any]
Edit = tuple[int, int, str]
"""Bytes from, to, and what stands there instead."""

Nulls = Callable[[str, str], bool]
"""Whether a column of a table may hold nulls."""

_EXACT = {"+": add, "-": sub, "*": mul}
_KEEPING = frozenset({"min", "max", "abs"})  # functions that are a DECIMAL as their argument is; sums have 38 digits
_CALLS = frozenset({"user", "current_user", "session_user", "current_catalog"})  # functions, for Daft's parser
_FRAMED = frozenset({"WINDOW_AGGREGATE", "WINDOW_FIRST_VALUE", "WINDOW_LAST_VALUE", "WINDOW_NTH_VALUE"})
_FRAME = re.compile(rb"\b(rows|range|groups)\s+(between|unbounded|current|\d)", re.IGNORECASE)
_DESCENDING = re.compile(rb"[\s)]*\bdesc(ending)?\b", re.IGNORECASE)
_PARENTHESIS = re.compile(rb"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[()]")
_INSTANT = re.compile(rb"TIMESTAMPTZ '(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6})\+00'")


def translate(guard: Guard, text: str, decimals: Set[str], nulls: Nulls) -> str:
    """`text` for Daft; `decimals` are the columns of that type, in lower case. Raises QueryRejected."""
    edits = sorted(_edits(guard.parse(text), text, decimals, nulls), reverse=True)
    written = text.encode()
    for start, end, new in edits:
        written = written[:start] + new.encode() + written[end:]
    return written.decode()


def _edits(root: Node, text: str, decimals: Set[str], nulls: Nulls) -> Iterator[Edit]:
    data = text.encode()
    for node in _nodes(root):
        _check(node, text, nulls)
        for order in node.get("orders") or ():
            yield from _nulls_last(order, data, text)
        match node.get("type"):
            case "BASE_TABLE":
                yield from _table(node)
            case "COLUMN_REF":
                yield from _column(node)
            case "OPERATOR_CAST":
                yield from _instant(node, data)
            case "CASE_EXPR":
                yield from _case(node, decimals)
            case "FUNCTION":
                yield from _arithmetic(node, data, text)
                yield from _beside_decimals(node, decimals)
            case kind if kind in _FRAMED:
                yield from _frame(node, data, text)
        if node.get("function_name") == "avg" and not node.get("distinct"):
            yield from _average(node, data)


def _check(node: Node, text: str, nulls: Nulls) -> None:
    """Refuse what Daft answers differently without a word."""
    limited = _has(node, "LIMIT_MODIFIER")
    match node.get("type"):
        case "SELECT_NODE" if limited or _has(node, "DISTINCT_MODIFIER"):
            if any(inner.get("class") == "WINDOW" for inner in _nodes(node["select_list"])):
                problem = "a window function beside LIMIT or DISTINCT: put it into a subquery"
                raise _refused(problem, node["select_list"][0], text)
        case "SET_OPERATION_NODE" if limited:
            raise _refused("LIMIT after a set operation: put the operation into a subquery", node, text)
        case "OPERATOR_NOT":
            for child in node.get("children") or ():
                if child.get("class") == "SUBQUERY" and child.get("subquery_type") == "ANY":
                    _check_not_in(child, text, nulls)


def _check_not_in(node: Node, text: str, nulls: Nulls) -> None:
    """NOT IN of a column that has no nulls, as Daft leaves nulls in the list out of account."""
    query = node["subquery"]["node"]
    chosen, source = query.get("select_list") or [{}], query.get("from_table") or {}
    path = source.get("qualified_name", {}).get("path", ())
    plain = chosen[0].get("type") == "COLUMN_REF" and source.get("type") == "BASE_TABLE" and len(path) == 2
    if not plain or nulls(".".join(path).lower(), chosen[0]["column_names"][-1]):
        problem = "NOT IN of a subquery that may have nulls: write NOT EXISTS, or choose a column without nulls"
        raise _refused(problem, node, text)


def _table(node: Node) -> Iterator[Edit]:
    """`FROM s.events` is called `events` in the rest of the statement."""
    path = node["qualified_name"]["path"]
    if len(path) == 2 and not node.get("alias"):
        end = node["query_location"] + node["query_location_length"]
        yield end, end, f" AS {identifier(path[1])}"


def _column(node: Node) -> Iterator[Edit]:
    """Names that Daft's parser takes for functions, unless they are quoted already."""
    names, start, size = node["column_names"], node["query_location"], node.get("query_location_length")
    if names[-1].lower() in _CALLS and size == len(".".join(names).encode()):
        yield start, start + size, ".".join(map(identifier, names))


def _instant(node: Node, data: bytes) -> Iterator[Edit]:
    """The constants of `jobs.project.parameters`."""
    start = node["query_location"]
    if start < len(data) and (match := _INSTANT.match(data, start)):  # an interval's parts stand nowhere: 2^64 - 1
        yield start, match.end(), f"to_datetime('{match[1].decode()} +0000', '%Y-%m-%d %H:%M:%S%.f %z', 'UTC')"


def _case(node: Node, decimals: Set[str]) -> Iterator[Edit]:
    """Whole numbers beside DECIMAL among the branches of a CASE become DECIMAL, too."""
    branches = [check["then_expr"] for check in node["case_checks"]] + [node["else_expr"]]
    columns = (inner["column_names"][-1].lower() for inner in _nodes(branches) if inner.get("type") == "COLUMN_REF")
    if any(column in decimals for column in columns):
        for branch in branches:
            literal = branch.get("literal") or {}
            if literal.get("kind") == "INTEGER":
                start, number = branch["query_location"], literal["text"]
                yield start, start + branch["query_location_length"], f"CAST({number} AS DECIMAL({len(number)}, 0))"


def _arithmetic(node: Node, data: bytes, text: str) -> Iterator[Edit]:
    """`0.06 + 0.01` is 0.07, and not the sum of two doubles."""
    if not (_is_constant(node) and any(_kind(inner) == "NUMERIC" for inner in _nodes(node))):
        return
    left, right = (argument["expression"] for argument in node["arguments"])
    ends = [(each["query_location"], each["query_location"] + each["query_location_length"]) for each in (left, right)]
    (start, until), (since, end) = ends
    name = node["function_name"]
    if not (_kind(left) and _kind(right)) or data[until:since].strip() != name.encode():
        raise _refused("this computation with constants: write its result", node, text)
    result = _EXACT[name](Decimal(left["literal"]["text"]), Decimal(right["literal"]["text"]))
    yield start, end, f"{result:f}" if result >= 0 else f"({result:f})"


def _beside_decimals(node: Node, decimals: Set[str]) -> Iterator[Edit]:
    """`price + 0.01` is exact: Daft takes 0.01 for a double, and so the sum."""
    if node["function_name"] in _EXACT and not _is_constant(node):
        sides = [argument["expression"] for argument in node["arguments"]]
        for side in sides:
            if _kind(side) == "NUMERIC" and any(_is_decimal(other, decimals) for other in sides if other is not side):
                start, number = side["query_location"], side["literal"]["text"]
                scale = len(number.partition(".")[2])
                digits = max(len(number.replace(".", "").lstrip("0")), scale)
                yield start, start + side["query_location_length"], f"CAST('{number}' AS DECIMAL({digits}, {scale}))"


def _is_decimal(node: Node, decimals: Set[str]) -> bool:
    """Whether it surely is a DECIMAL, but for columns of one name and two types."""
    match node.get("type"):
        case "COLUMN_REF":
            return node["column_names"][-1].lower() in decimals
        case "FUNCTION":
            inner = [argument["expression"] for argument in node["arguments"]]
            held = [_is_decimal(each, decimals) for each in inner]
            if node["function_name"] in _EXACT:
                return any(held) and all(is_ or _kind(each) for is_, each in zip(held, inner, strict=True))
            return node["function_name"] in _KEEPING and all(held)
    return False


def _is_constant(node: Node) -> bool:
    if node.get("type") != "FUNCTION":
        return _kind(node) is not None
    arguments = [argument["expression"] for argument in node["arguments"]]
    return node["function_name"] in _EXACT and len(arguments) == 2 and all(map(_is_constant, arguments))


def _kind(node: Node) -> str | None:
    """INTEGER or NUMERIC, where the node is such a number; one with an exponent is a DOUBLE for DuckDB, too."""
    literal = node.get("literal") or {}
    exact = literal.get("kind") in ("INTEGER", "NUMERIC") and "e" not in literal["text"].lower()
    return str(literal["kind"]) if exact else None


def _average(node: Node, data: bytes) -> Iterator[Edit]:
    """DuckDB's average is a DOUBLE; Daft's of a DECIMAL is one of six digits."""
    start = data.index(b"(", node["query_location"]) + 1
    end = _closing(data, start)
    yield start, start, "CAST("
    yield end, end, " AS DOUBLE)"


def _frame(node: Node, data: bytes, text: str) -> Iterator[Edit]:
    """The frame that SQL means where there is an order and no frame; Daft would take the whole partition."""
    start, end = node["query_location"], node["query_location"] + node["query_location_length"]
    if node["orders"] and not _FRAME.search(data, start, end):
        if data[end - 1 : end] != b")":
            raise _refused("a named window: write it out after OVER", node, text)
        yield end - 1, end - 1, " RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"


def _nulls_last(order: Node, data: bytes, text: str) -> Iterator[Edit]:
    """DuckDB's nulls come last in either direction; Daft's come first in a descending one."""
    if order["type"] == "DESCENDING" and order["null_order"] == "ORDER_DEFAULT":
        expression = order["expression"]
        end = expression["query_location"] + (expression.get("query_location_length") or 0)
        found = _DESCENDING.search(data, end)
        if found is None:
            raise _refused("this order: write NULLS LAST after it", expression, text)
        yield found.end(), found.end(), " NULLS LAST"


def _closing(data: bytes, at: int) -> int:
    """The parenthesis that closes the one before `at`; strings and quoted names are passed over."""
    depth = 1
    for match in _PARENTHESIS.finditer(data, at):
        depth += {b"(": 1, b")": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return len(data)


def _nodes(root: Any) -> Iterator[Node]:
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def _has(node: Node, modifier: str) -> bool:
    return any(found["type"] == modifier for found in node.get("modifiers") or ())


def _refused(what: str, node: Node, text: str) -> QueryRejected:
    where = place(text, node.get("query_location"))
    return QueryRejected(f"Daft gives other rows than SQL for {what}{where}")
