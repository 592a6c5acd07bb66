"""Stream filters: a SQL predicate over one event, evaluated on whole batches in a locked-down DuckDB in memory.

Checked when the configuration is read, used by the window workers. A predicate must be a deterministic expression over
the event's fields, so that a replay of the log filters alike; one that fails on an event (a bad cast) is null there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from eagleray.cluster.errors import ConfigError

_SETTINGS: dict[str, Any] = {"enable_external_access": False, "threads": 1, "autoload_known_extensions": False}
_EXPRESSIONS = {"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION"}
_EXPRESSIONS |= {"LAMBDA", "OPERATOR", "TYPE"}
_MACROS = {
    "nullif",
    "fdiv",
    "fmod",
    "if",
    "split_part",
    "array_to_string",
    "list_sum",
    "list_min",
    "list_max",
    "list_avg",
}
_UNSTABLE = {"age", "version", "hash"}  # declared stable, but they read the clock or depend on DuckDB's release
_TABLE = "event"


def _connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config=_SETTINGS)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    return connection


@cache
def _functions() -> frozenset[str]:
    """Scalar functions that always answer the same to the same arguments."""
    query = """
        SELECT function_name FROM duckdb_functions() GROUP BY function_name
        HAVING bool_and(function_type = 'scalar' AND stability = 'CONSISTENT')
    """
    with _connect() as connection:
        found = {name for (name,) in connection.execute(query).fetchall()}
    return frozenset((found | _MACROS) - _UNSTABLE)


def _query(predicate: str) -> str:
    return f"SELECT 1 FROM {_TABLE} WHERE (\n{predicate}\n)"


def _parsed(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, Any]:
    rows = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    parsed: dict[str, Any] = json.loads(rows[0][0])
    return parsed


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for below in tree.values():
            yield from _nodes(below)
    elif isinstance(tree, list):
        for below in tree:
            yield from _nodes(below)


def _objection(connection: duckdb.DuckDBPyConnection, predicate: str) -> str | None:
    """Why the predicate is not a deterministic expression; None where it is."""
    parsed = _parsed(connection, _query(predicate))
    if parsed["error"]:
        return f"not SQL: {parsed['error_message']}"
    bare = _parsed(connection, _query("true"))
    where = [statement["node"].pop("where_clause", None) for statement in parsed["statements"] + bare["statements"]]
    if parsed != bare:  # a bracket closed early: more than an expression
        return "expected one expression over the event's fields"
    for node in _nodes(where[0]):
        if problem := _node_problem(node):
            return problem
    return None


def _node_problem(node: dict[str, Any]) -> str | None:
    kind, name = node.get("class"), str(node.get("function_name", "")).lower()
    if kind is None:
        return None
    if kind not in _EXPRESSIONS or node.get("type") == "GROUPING_FUNCTION":
        return f"{str(kind).lower().replace('_', ' ')} is not allowed; expected an expression over the event's fields"
    if kind == "FUNCTION" and name not in _functions():
        return f"the function {name} is not allowed; expected scalar functions that depend on their arguments alone"
    return None


def _bound(connection: duckdb.DuckDBPyConnection, predicate: str, schema: pa.Schema) -> str | None:
    """Why the predicate does not fit the fields; None where it does."""
    connection.register(_TABLE, schema.empty_table())
    try:
        described = connection.sql(f"SELECT ({predicate}\n) AS verdict FROM {_TABLE}")
        type_ = str(described.types[0])
        described.fetchall()
    except duckdb.Error as error:
        return str(error).split("\n")[0]
    return None if type_ == "BOOLEAN" else f"it is {type_}; expected a boolean"


def _clockless(connection: duckdb.DuckDBPyConnection, predicate: str, schema: pa.Schema) -> str | None:
    """Refuse names that DuckDB would turn into functions (current_date), unless the event has such a field."""
    where = _parsed(connection, _query(predicate))["statements"][0]["node"]["where_clause"]
    fields = {name.lower() for name in schema.names}
    for node in _nodes(where):
        first = str(node.get("column_names", [""])[0]).lower()
        if node.get("class") == "COLUMN_REF" and first not in fields and first.startswith(("current_", "local")):
            return f"{first} is not a field of the event"
    return None


def check_filter(where: str, predicate: str, schema: pa.Schema) -> None:
    """Refuse a predicate that is not a deterministic boolean expression over the event's fields; raises ConfigError."""
    with _connect() as connection:
        problem = (
            _objection(connection, predicate)
            or _clockless(connection, predicate, schema)
            or _bound(connection, predicate, schema)
        )
    if problem is not None:
        raise ConfigError(where, f"{predicate!r}: {problem}")


class Filter:
    """A checked predicate, ready for batches. One thread at a time."""

    def __init__(self, predicate: str, schema: pa.Schema) -> None:
        """`schema` is the event's (`EventSchema.arrow`); the predicate passed `check_filter`."""
        self._connection = _connect()
        self._fields = schema.names
        self._query = f"SELECT TRY(({predicate}\n)) AS verdict FROM {_TABLE}"
        names = {
            str(name).lower()
            for node in _nodes(_parsed(self._connection, _query(predicate)))
            for name in node.get("column_names", [])
        }
        self.columns = [name for name in schema.names if name.lower() in names]
        """Fields of the event that the predicate reads, or more."""

    def mask(self, table: pa.Table) -> np.ndarray:
        """Which rows of `table` the predicate holds for: (rows,) bool, null counted as false.

        `table` has at least the fields that the predicate names; other columns are not looked at.
        """
        fields = [name for name in self._fields if name in table.column_names]
        self._connection.register(_TABLE, table.select(fields))
        try:
            verdict = self._connection.sql(self._query).to_arrow_table().column(0)
        finally:
            self._connection.unregister(_TABLE)
        return np.asarray(verdict.fill_null(False).to_numpy(), bool)
