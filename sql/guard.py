"""Lets through one reading statement on tables of the lake, and nothing else. Called by `sql.query` at first.

The text is parsed by DuckDB itself; its syntax tree is walked against allow-lists (nodes, functions, tables), so that
what is unknown is refused. The engine is locked besides (`sql.engine`): each of the two must hold alone.
"""

from __future__ import annotations

import atexit
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import duckdb

from eagleray.cluster.access import EVERYTHING, TableAccess, scope_for
from eagleray.cluster.errors import QueryForbidden, QueryRejected
from eagleray.sql.functions import FUNCTIONS, TABLE_FUNCTIONS

TEXT_CHARS_MAX = 100_000
SYNTAX, READ_ONLY, UNSUPPORTED, NO_FUNCTION, NO_TABLE, NO_COLUMN = "42601", "25006", "0A000", "42883", "42P01", "42703"
"""SQL's codes (SQLSTATE) for what is refused."""

_CLASSES = frozenset(
    """
    BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION LAMBDA LAMBDA_REF OPERATOR
    POSITIONAL_REFERENCE STAR SUBQUERY TYPE WINDOW
    """.split()
)
_NODES = frozenset(
    """
    SELECT_NODE SET_OPERATION_NODE RECURSIVE_CTE_NODE
    BASE_TABLE EMPTY EXPRESSION_LIST JOIN PIVOT SHOW_REF SUBQUERY TABLE_FUNCTION
    LIMIT_MODIFIER LIMIT_PERCENT_MODIFIER ORDER_MODIFIER DISTINCT_MODIFIER
    ORDER_DEFAULT ASCENDING DESCENDING
    """.split()
)
_OPAQUE = frozenset({"VALUE_CONSTANT", "TYPE"})  # nothing inside is a name of anything
_REFUSED = {
    "PARAMETER": "a parameter ($1, ?) has no value here: write the value",
    "INSERT_QUERY_NODE": "INSERT is not allowed: queries only read",
    "UPDATE_QUERY_NODE": "UPDATE is not allowed: queries only read",
    "DELETE_QUERY_NODE": "DELETE is not allowed: queries only read",
}
_EXPLAIN = re.compile(r"\s*explain\s+(?=select\b|with\b|from\b|values\b|\()", re.IGNORECASE)
_PLACE = re.compile(r" \(line (\d+), column (\d+)\)")
_ONE = "expected one SELECT (or WITH, VALUES, FROM, DESCRIBE, SUMMARIZE, SHOW TABLES, EXPLAIN SELECT)"


@dataclass(frozen=True)
class Reference:
    """A table as the query names it: one or two names, and where in the text, in words and in bytes."""

    names: tuple[str, ...]
    where: str
    at: int = 0


@dataclass(frozen=True)
class Approved:
    """A statement that may run. `tables` still have to be found in the lake; names of WITH are not among them."""

    text: str
    kind: Literal["select", "explain", "show_tables"]
    select: str  # `text` with EXPLAIN blanked out
    tables: tuple[Reference, ...] = field(default=())


@dataclass(frozen=True)
class Rules:
    """What may be called, of how many names a table's may be made, and whether `$1` may stand for a value."""

    functions: frozenset[str] = FUNCTIONS
    table_functions: frozenset[str] = TABLE_FUNCTIONS
    names_max: int = 2
    parameters: bool = False


RULES = Rules()


class Guard:
    """A parser and its rules; safe to share between threads. Close it, for DuckDB complains at exit otherwise."""

    def __init__(self, chars_max: int | None = TEXT_CHARS_MAX) -> None:
        """Open a DuckDB that can do nothing but parse. `chars_max`: the longest text; None for any."""
        self._chars_max = chars_max
        self._lock = threading.Lock()
        self._parser = duckdb.connect(
            ":memory:",
            config={"enable_external_access": "false", "lock_configuration": "true", "threads": "1"},
        )

    def close(self) -> None:
        """Release the parser."""
        self._parser.close()

    def approve(self, text: str, access: TableAccess = EVERYTHING) -> Approved:
        """What `text` wants to read; raises QueryRejected that says what is not allowed, and where.

        Raises QueryForbidden for a table that `access` does not open, whether or not there is such a table.
        """
        if self._chars_max is not None and len(text) > self._chars_max:
            raise QueryRejected(f"the query has {len(text)} characters; at most {self._chars_max} are allowed", "54000")
        select = without_explain(text)
        prefix = select != text
        node = self.parse(select)
        source = node.get("from_table") or {}
        if source.get("type") == "SHOW_REF" and source.get("table_name") == '"tables"' and not prefix:
            return Approved(text, "show_tables", select)
        tables = self.references(node, select, RULES)
        for table in tables:
            check_access(table, access)
        return Approved(text, "explain" if prefix else "select", select, tables)

    @staticmethod
    def references(node: dict[str, Any], text: str, rules: Rules) -> tuple[Reference, ...]:
        """The tables that a statement reads, which `parse` made of `text`; raises QueryRejected for what is no rule."""
        return tuple(_check(node, text, rules))

    def parse(self, text: str) -> dict[str, Any]:
        """The syntax tree of the one statement of `text`, as DuckDB serializes it; raises QueryRejected."""
        try:
            with self._lock:
                rows = self._parser.execute("SELECT json_serialize_sql(?)", [text]).fetchall()
            tree = json.loads(rows[0][0])
        except RecursionError:
            raise QueryRejected("the query is nested too deeply", "54001") from None
        except (duckdb.Error, UnicodeError, ValueError) as error:
            raise QueryRejected(str(error).strip()) from None
        if tree["error"]:
            self._refuse(text, tree)
        if len(tree["statements"]) != 1:
            raise QueryRejected(f"found {len(tree['statements'])} statements; {_ONE}", SYNTAX)
        node: dict[str, Any] = tree["statements"][0]["node"]
        return node

    def _refuse(self, text: str, tree: dict[str, Any]) -> None:
        if tree["error_type"] != "not implemented":
            raise QueryRejected(f"{tree['error_message']}{place(text, tree.get('position'))}", SYNTAX)
        with self._lock:
            kinds = [statement.type.name for statement in self._parser.extract_statements(text)]
        if kinds == ["MULTI"]:
            raise QueryRejected(
                "PIVOT is allowed inside a SELECT: SELECT * FROM (PIVOT t ON c IN ('a', 'b') USING ...)"
            )
        raise QueryRejected(f"{', '.join(kinds)} is not allowed: queries only read; {_ONE}", READ_ONLY)


def without_explain(text: str) -> str:
    """`text` with an EXPLAIN before a SELECT blanked out: what is behind it keeps its place."""
    prefix = _EXPLAIN.match(text)
    return re.sub(r"\S", " ", text[: prefix.end()]) + text[prefix.end() :] if prefix else text


@cache
def shared_guard() -> Guard:
    """A guard of the project's own statements for the whole process; opening one takes as long as many a query."""
    guard = Guard(chars_max=None)
    atexit.register(guard.close)
    return guard


def place(text: str, position: str | int | None) -> str:
    """` (line L, column C)` of a byte position in `text`; empty where there is none."""
    if position is None or int(position) > len(text.encode()):
        return ""
    before = text.encode()[: int(position)].decode(errors="replace")
    return f" (line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))})"


def displaced(message: str) -> tuple[str, tuple[int, int] | None]:
    """A message without what `place` wrote into it, and the line and column that this was, counted from 1."""
    match = _PLACE.search(message)
    return (_PLACE.sub("", message, count=1), (int(match[1]), int(match[2]))) if match else (message, None)


def nodes(root: Any) -> Iterator[dict[str, Any]]:
    """Every object of a syntax tree or plan that DuckDB wrote as JSON, an object before those within it."""
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def _check(root: dict[str, Any], text: str, rules: Rules) -> Iterator[Reference]:
    """Walk the tree; yields tables, raises QueryRejected. WITH names are tables only where they are in scope."""
    stack: list[tuple[Any, frozenset[str]]] = [(root, frozenset())]
    while stack:
        node, scope = stack.pop()
        if isinstance(node, list):
            stack.extend((child, scope) for child in reversed(node))
        if not isinstance(node, dict):
            continue
        kind = node.get("type")
        if isinstance(kind, str):
            _check_node(node, kind, text, rules)
            if kind in _OPAQUE:
                continue
        if kind == "BASE_TABLE":
            reference = _reference(node, text, rules)
            if len(reference.names) > 1 or reference.names[0].casefold() not in scope:
                yield reference
        for bodies, inner in _with(node, scope):
            stack.append((bodies, inner))
            scope = inner if bodies is None else scope
        children = node["function"]["arguments"] if kind == "TABLE_FUNCTION" else _children(node)
        stack.append((children, scope))


def check_access(table: Reference, access: TableAccess) -> None:
    """Raise QueryForbidden for a table that `access` does not open."""
    name = ".".join(table.names).lower()  # as it is looked up
    if len(table.names) > 1 and not access.may_read(name):
        raise QueryForbidden(f"{name} needs the scope {scope_for(name)}, which this key lacks{table.where}")


def _children(node: dict[str, Any]) -> list[Any]:
    return [value for key, value in node.items() if key != "cte_map" and isinstance(value, dict | list)]


def _with(node: dict[str, Any], scope: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """Each WITH body and the names it sees; at last None and the names that the statement after them sees."""
    for entry in (node.get("cte_map") or {}).get("map", ()):
        name = entry["key"].casefold()
        recursive = entry["value"].get("query_node", {}).get("type") == "RECURSIVE_CTE_NODE"
        yield entry["value"], scope | {name} if recursive else scope
        scope = scope | {name}
    yield None, scope


def _check_node(node: dict[str, Any], kind: str, text: str, rules: Rules) -> None:
    where = place(text, node.get("query_location"))
    known = node["class"] in _CLASSES if "class" in node else kind in _NODES
    known = known or (rules.parameters and node.get("class") == "PARAMETER")
    if not known:
        name = node.get("class", kind)
        state = READ_ONLY if name.endswith("_QUERY_NODE") else UNSUPPORTED
        raise QueryRejected(_REFUSED.get(name, f"{name} is not allowed in a query") + where, state)
    if kind == "TABLE_FUNCTION":
        name = node["function"].get("function_name", "?")
        if name.casefold() not in rules.table_functions:
            problem = f"the table function {name} is not allowed: a query reads tables of the lake{where}"
            raise QueryRejected(problem, NO_FUNCTION)
    elif "function_name" in node and node["function_name"].casefold() not in rules.functions:
        raise QueryRejected(f"the function {node['function_name']} is unknown or not allowed{where}", NO_FUNCTION)
    elif kind == "SHOW_REF" and not node.get("query"):
        raise QueryRejected(
            f"SHOW {node.get('table_name', '')} is not allowed; SHOW TABLES lists the lake{where}", UNSUPPORTED
        )


def _reference(node: dict[str, Any], text: str, rules: Rules) -> Reference:
    where = place(text, node.get("query_location"))
    names = tuple(node["qualified_name"]["path"])
    if node.get("at_clause") is not None:
        raise QueryRejected(f"AT is not supported: a query sees the newest snapshot{where}", UNSUPPORTED)
    if not 1 <= len(names) <= rules.names_max:
        problem = f"{'.'.join(names)} is not a table of the lake; tables are called stream.table{where}"
        raise QueryRejected(problem, NO_TABLE)
    return Reference(names, where, node.get("query_location") or 0)
