"""Writes DuckDB's bound expressions as SQL again, and computes them over record batches, inside other engines.

Used by `jobs.engines.daft_plan`. A bound expression has no names and no open types: columns are `c0`, `c1` and so on,
by their place in what comes in, and every cast is there. Promise: values and errors are those of DuckDB's own plan.
"""

from __future__ import annotations

import base64
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from eagleray.jobs.engines.duckdb import read
from eagleray.sql.engine import MIB, Limits, connect, identifier, literal, lock
from eagleray.sql.guard import nodes

Node = dict[str, Any]
_NOWHERE = 1 << 60  # above it DuckDB says that an expression stands nowhere in the text
_LIMITS = Limits(memory_bytes_max=512 * MIB, threads=1)  # one thread: rows come out in the order in which they came in
_INFIX = {
    "CONJUNCTION_AND": "AND", "CONJUNCTION_OR": "OR",
    "COMPARE_EQUAL": "=", "COMPARE_NOTEQUAL": "<>", "COMPARE_LESSTHAN": "<", "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=", "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_DISTINCT_FROM": "IS DISTINCT FROM", "COMPARE_NOT_DISTINCT_FROM": "IS NOT DISTINCT FROM",
}  # fmt: skip
_SIGNS = frozenset(
    {"+", "-", "*", "/", "//", "%", "||", "**", "^", "&", "|", "<<", ">>", "~~", "!~~", "~~*", "!~~*", "^@"}
)


class Unwritten(Exception):
    """An expression, or an operator, that cannot be carried over: says which, and where in the statement it stands."""

    def __init__(self, what: str, at: int | None = None) -> None:
        """`at`: its first byte; None: not known."""
        super().__init__(what)
        self.at = at


def type_sql(kind: Node) -> str:
    """A bound type as SQL; raises Unwritten for one that no column can have."""
    name, about = kind["id"], kind.get("type_info") or {}
    match name:
        case "DECIMAL":
            return f"DECIMAL({about['width']}, {about['scale']})"
        case "LIST":
            return f"{type_sql(about['child_type'])}[]"
        case "STRUCT":
            children = (f"{identifier(child['first'])} {type_sql(child['second'])}" for child in about["child_types"])
            return f"STRUCT({', '.join(children)})"
        case "NULL":
            return '"NULL"'
        case _ if name in _PLAIN:
            return str(name)
    raise Unwritten(f"values of type {name}")


_PLAIN = frozenset(
    {"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
     "FLOAT", "DOUBLE", "VARCHAR", "BLOB", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "INTERVAL"}
)  # fmt: skip


def written(node: Node) -> str:
    """The SQL of a bound expression; raises Unwritten."""
    write = _WRITE.get(node["expression_class"])
    try:
        if write is None:
            raise Unwritten(f"the expression {node['expression_class'].removeprefix('BOUND_').lower()}")
        return write(node)
    except Unwritten as error:
        if error.at is None and node.get("query_location", _NOWHERE) < _NOWHERE:
            error.at = node["query_location"]
        raise


def _reference(node: Node) -> str:
    return f"CAST(c{node['index']} AS {type_sql(node['return_type'])})"


def _function(node: Node) -> str:
    children = [written(child) for child in node.get("children") or ()]
    if node["type"] == "OPERATOR_CAST":
        how = "TRY_CAST" if (node.get("function_data") or {}).get("try_cast") else "CAST"
        return f"{how}({children[0]} AS {type_sql(node['return_type'])})"
    if node["type"] in _INFIX:
        return _between(node["type"], children)
    name = node["qname"]["path"][-1]
    if name in _SIGNS:
        return f"({children[0]} {name} {children[1]})" if len(children) == 2 else f"({name} {children[0]})"
    if not name.replace("_", "").isalnum() or name.startswith("__"):
        raise Unwritten(f"the function {name}")
    return f"{identifier(name)}({', '.join(children)})"


def _between(kind: str, children: Iterable[str]) -> str:
    return "(" + f" {_INFIX[kind]} ".join(children) + ")"


def _operator(node: Node) -> str:
    children = [written(child) for child in node["children"]]
    match node["type"]:
        case "OPERATOR_NOT":
            return f"(NOT {children[0]})"
        case "OPERATOR_IS_NULL":
            return f"({children[0]} IS NULL)"
        case "OPERATOR_IS_NOT_NULL":
            return f"({children[0]} IS NOT NULL)"
        case "OPERATOR_COALESCE":
            return f"coalesce({', '.join(children)})"
        case "COMPARE_IN" | "COMPARE_NOT_IN" as kind:
            return f"({children[0]} {'NOT ' * (kind == 'COMPARE_NOT_IN')}IN ({', '.join(children[1:])}))"
        case "OPERATOR_TRY":
            return f"TRY({children[0]})"
        case "ARRAY_EXTRACT":
            return f"({children[0]})[{children[1]}]"
        case "STRUCT_EXTRACT":
            return f"struct_extract({children[0]}, {children[1]})"
    raise Unwritten(f"the operator {node['type']}")


def _case(node: Node) -> str:
    checks = (f"WHEN {written(one['when_expr'])} THEN {written(one['then_expr'])}" for one in node["case_checks"])
    return f"CASE {' '.join(checks)} ELSE {written(node['else_expr'])} END"


def constant(value: Node) -> str:
    """A bound constant as SQL; raises Unwritten."""
    kind = value["type"]
    if value.get("is_null"):
        return f"CAST(NULL AS {type_sql(kind)})"
    return f"CAST({_plain(kind, value['value'])} AS {type_sql(kind)})"


def _plain(kind: Node, value: Any) -> str:
    name = kind["id"]
    if name in ("DECIMAL", "HUGEINT"):
        whole = (int(value["upper"]) << 64) + int(value["lower"]) if isinstance(value, dict) else int(value)
        return f"'{_scaled(whole, (kind.get('type_info') or {}).get('scale', 0))}'"
    if name == "BLOB" and isinstance(value, dict) and "base64" in value:
        return f"from_hex('{base64.b64decode(value['base64']).hex()}')"
    if name == "VARCHAR" and not isinstance(value, str):
        raise Unwritten("text that is no UTF-8")
    if (write := _CONSTANTS.get(name)) is None:
        raise Unwritten(f"a constant of type {name}")
    return write(value)


def _scaled(whole: int, scale: int) -> str:
    digits = f"{abs(whole):0{scale + 1}d}"
    if not scale:
        return str(whole)
    return f"{'-' * (whole < 0)}{digits[:-scale]}.{digits[-scale:]}"


def _date(days: int) -> str:
    if abs(days) >= (1 << 31) - 1:
        return "'infinity'" if days > 0 else "'-infinity'"
    return f"(DATE '1970-01-01' + CAST({days} AS INTEGER))"


def _instant(micros: int, zone: str = "") -> str:
    if abs(micros) >= (1 << 63) - 1:
        return "'infinity'" if micros > 0 else "'-infinity'"
    return f"make_timestamp(CAST({micros} AS BIGINT)){zone}"


_CONSTANTS: Mapping[str, Callable[[Any], str]] = {
    "VARCHAR": literal,
    "BOOLEAN": lambda value: str(value).lower(),
    "FLOAT": lambda value: f"'{value!r}'",
    "DOUBLE": lambda value: f"'{value!r}'",
    "DATE": _date,
    "TIMESTAMP": _instant,
    "TIMESTAMP WITH TIME ZONE": lambda value: _instant(value, " AT TIME ZONE 'UTC'"),
    "INTERVAL": lambda v: f"'{v['months']} months {v['days']} days {v['micros']} microseconds'",
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"), str),
}
_WRITE: Mapping[str, Callable[[Node], str]] = {
    "BOUND_REF": _reference,
    "BOUND_FUNCTION": _function,
    "BOUND_CONJUNCTION": lambda node: _between(node["type"], map(written, node["children"])),
    "BOUND_COMPARISON": lambda node: f"({written(node['left'])} {_INFIX[node['type']]} {written(node['right'])})",
    "BOUND_OPERATOR": _operator,
    "BOUND_CASE": _case,
    "BOUND_CONSTANT": lambda node: constant(node["value"]),
}


def references(node: Any) -> Iterator[int]:
    """The places of the columns that an expression reads."""
    return (one["index"] for one in nodes(node) if one.get("expression_class") == "BOUND_REF")


def arrow_types(kinds: Sequence[str]) -> list[pa.DataType]:
    """Arrow's types of SQL types, as `computed` gives them."""
    chosen = ", ".join(f"CAST(NULL AS {kind}) AS e{at}" for at, kind in enumerate(kinds))
    return list(read(_connection().sql(f"SELECT {chosen} LIMIT 0")).schema.types)


def computed(chosen: Sequence[str], columns: Mapping[str, pa.Array | pa.ChunkedArray], rows: int) -> pa.Table:
    """The values `e0`, `e1` and so on of SQL expressions over equally long columns, row by row in order.

    Raises duckdb.Error, and QueryRejected for integers beyond 64 bits.
    """
    connection = _connection()
    table = pa.table(dict(columns)) if columns else pa.table({"_": pa.nulls(rows, pa.int8())})
    connection.register("batch", table)
    try:
        listed = ", ".join(f"{one} AS e{at}" for at, one in enumerate(chosen))
        return read(connection.sql(f"SELECT {listed} FROM batch")).read_all()
    finally:
        connection.unregister("batch")


_local = threading.local()


def _connection() -> duckdb.DuckDBPyConnection:
    """A DuckDB of this thread that holds nothing."""
    found: duckdb.DuckDBPyConnection | None = getattr(_local, "connection", None)
    if found is None:
        found = _local.connection = connect(_LIMITS, tempfile.gettempdir())
        lock(found)
    return found
