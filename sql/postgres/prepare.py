"""A statement of a Postgres client, made ready for DuckDB and judged. In the child; called by `executor`.

1. on tokens: what DuckDB would not read (`dialect`)
2. parsed by DuckDB and judged by the guard's rules, with the catalog's functions and tables besides
3. on the syntax tree: full names of tables, casts to types that DuckDB has not
4. the result's columns get the names that Postgres would give them

Positions in errors are mapped back to what the client wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eagleray.cluster.access import TableAccess
from eagleray.cluster.errors import QueryError, QueryRejected
from eagleray.sql.functions import FUNCTIONS, TABLE_FUNCTIONS
from eagleray.sql.guard import (
    NO_TABLE,
    Approved,
    Guard,
    Reference,
    Rules,
    check_access,
    displaced,
    nodes,
    without_explain,
)
from eagleray.sql.postgres import catalog_functions
from eagleray.sql.postgres.catalog import is_catalog
from eagleray.sql.postgres.dialect import DATABASE, Facts, rewritten
from eagleray.sql.postgres.types import text_array
from eagleray.sql.tokens import Edit, Edited, significant

RULES = Rules(
    FUNCTIONS | catalog_functions.FUNCTIONS.keys() | {"array_to_string", "json_group_array"},
    TABLE_FUNCTIONS | {"pg_get_keywords"},
    names_max=3,
    parameters=True,  # those that are left stand where types are asked for; a query that runs has constants
)
_TYPES: Mapping[str, str] = {
    "jsonb": "JSON", "name": "VARCHAR", "citext": "VARCHAR", "xid": "BIGINT", "cid": "BIGINT", "money": "DECIMAL(19,2)",
    "inet": "VARCHAR", "cidr": "VARCHAR", "macaddr": "VARCHAR", "xml": "VARCHAR", "regclass": "VARCHAR",
    "regtype": "VARCHAR", "regproc": "VARCHAR", "regprocedure": "VARCHAR", "regnamespace": "VARCHAR",
    "regrole": "VARCHAR", "oid": "UINTEGER", "_text": "VARCHAR[]", "_varchar": "VARCHAR[]", "_int4": "INTEGER[]",
    "_int8": "BIGINT[]", "_oid": "UINTEGER[]", "int2vector": "SMALLINT[]", "oidvector": "UINTEGER[]",
    "sql_identifier": "VARCHAR", "character_data": "VARCHAR", "cardinal_number": "INTEGER", "yes_or_no": "VARCHAR",
}  # fmt: skip
"""Types that DuckDB has not, and what stands for them."""

_OBJECTS = ("regclass", "regtype", "regnamespace")
_NOWHERE = 1 << 63  # DuckDB's place of what has none
_LINE = re.compile(r"\n\nLINE (\d+): (.*)\n( *)\^.*\Z", re.DOTALL)

Lookup = Callable[[str, str], int | None]
"""The number of a named object: its kind (`regclass`) and its name."""


@dataclass(frozen=True)
class Prepared:
    """A statement that may run. `names` are those of its columns where it has them all; `catalog`: of the shadow's."""

    approved: Approved
    catalog: bool
    functions: tuple[str, ...]
    names: tuple[str | None, ...]
    star: int | None  # the columns of `names` from here on count from the end of the result's
    _levels: tuple[Edited, ...]

    def column_names(self, given: Sequence[str]) -> list[str]:
        """The result's column names, of which DuckDB has given these."""
        split = len(self.names) if self.star is None else self.star
        if len(given) < len(self.names):
            return list(given)
        behind = len(self.names) - split
        wanted = [*self.names[:split], *[None] * (len(given) - len(self.names)), *self.names[split:]]
        if not behind and self.star is None and len(given) != len(self.names):
            return list(given)
        return [name or there for name, there in zip(wanted, given, strict=True)]

    def placed(self, error: QueryError) -> tuple[str, int | None]:
        """An error's message without the place, and the place: a character of the client's text, counted from 1."""
        return placed(error, self.approved.text, self._levels)


def placed(error: QueryError, text: str, levels: Sequence[Edited]) -> tuple[str, int | None]:
    """As `Prepared.placed`, of a `text` that is what `levels` made of the client's."""
    message, place = displaced(str(error))
    if place is None and (match := _LINE.search(message)):
        message = message[: match.start()]
        place = int(match[1]), len(match[3]) - len(f"LINE {match[1]}: ") + 1
    if place is None:
        return message, None
    line, column = place
    at = sum(len(one) + 1 for one in text.split("\n")[: line - 1]) + column - 1
    for level in reversed(levels):
        at = level.origin(at)
    return message, at + 1


class Unprepared(Exception):
    """A statement that may not run; `message` and `position` are the client's."""

    def __init__(self, error: QueryError, levels: Sequence[Edited], text: str) -> None:
        """What was wrong with `text`, which `levels` led to."""
        super().__init__(str(error))
        self.error = error
        self.message, self.position = placed(error, text, levels)


def prepare(
    guard: Guard,
    text: str,
    facts: Facts,
    access: TableAccess,
    constants: Callable[[int], str],
    look_up: Lookup,
    known: Callable[[str], bool],
) -> Prepared:
    """`text` made ready; `known` says whether the lake has a table (`schema.name`). Raises Unprepared."""
    levels: list[Edited] = []
    now = text
    try:
        levels.append(rewritten(text, facts, constants))
        now = levels[0].text
        select = without_explain(now)
        node = guard.parse(select)
        if (node.get("from_table") or {}).get("table_name") == '"tables"':
            return Prepared(guard.approve(now, access), False, (), (), None, tuple(levels))
        tables = guard.references(node, select, RULES)
        named = _Names(facts, known)
        edits = [*named.edits(now, tables), *_casts(now, node, look_up)]
        levels.append(Edited(now, edits))
        references = tuple(named.resolved(table) for table in tables)
        for reference in references:
            if not is_catalog(reference.names):
                check_access(reference, access)
        functions = tuple(sorted({name for name in _called(node) if name in catalog_functions.FUNCTIONS}))
        functions += tuple(name for name in named.needed(edits) if name not in functions)
        catalog = _is_catalogs(references, functions)
        now = levels[1].text
        approved = Approved(now, "explain" if select != levels[0].text else "select", without_explain(now), references)
        names, star = ([], None) if approved.kind == "explain" else _column_names(node)
        return Prepared(approved, catalog, functions, tuple(names), star, tuple(levels))
    except QueryError as error:
        raise Unprepared(error, levels, now) from None


def _is_catalogs(references: Sequence[Reference], functions: Sequence[str]) -> bool:
    """Whether the shadow catalog answers; raises QueryRejected for a query of both that and the lake."""
    of_catalog = [is_catalog(reference.names) for reference in references]
    if all(of_catalog):
        return True
    if any(of_catalog) or functions:
        what = "tables" if any(of_catalog) else f"the function {functions[0]}"
        raise QueryRejected(f"{what} of the catalog and tables of the lake cannot be read in one query", "0A000")
    return False


class _Names:
    """Tables by the names that they have inside: catalog and database are taken off, a schema is put before."""

    def __init__(self, facts: Facts, known: Callable[[str], bool]) -> None:
        self._path = facts.search_path
        self._known = known

    def resolved(self, table: Reference) -> Reference:
        names = table.names
        if len(names) == 3:
            if names[0].lower() != DATABASE:
                problem = f"cross-database references are not implemented: {'.'.join(names)}{table.where}"
                raise QueryRejected(problem, "0A000")
            names = names[1:]
        if len(names) == 1 and not is_catalog(names):
            schema = next((schema for schema in self._path if self._known(f"{schema}.{names[0]}".lower())), None)
            if schema is None:
                problem = f'relation "{names[0]}" does not exist{table.where}; tables are called stream.table'
                raise QueryRejected(problem, NO_TABLE)
            names = (schema, *names)
        return Reference(tuple(names), table.where, table.at)

    def edits(self, text: str, tables: Sequence[Reference]) -> Iterator[Edit]:
        data = text.encode()
        for table in tables:
            wanted = self.resolved(table).names
            if len(wanted) == len(table.names):
                continue
            at = len(data[: table.at].decode(errors="ignore"))
            found = significant(text[at:])
            if len(table.names) == 3:
                yield Edit(at, at + found[1].end, "")
            else:
                yield Edit(at, at, f'"{wanted[0]}".')

    @staticmethod
    def needed(edits: Sequence[Edit]) -> list[str]:
        """Functions that edits have brought in."""
        return sorted({f"{kind}_name" for edit in edits for kind in _OBJECTS if edit.text.startswith(f"{kind}_name(")})


def _called(node: dict[str, Any]) -> Iterator[str]:
    return (str(one["function_name"]).lower() for one in nodes(node) if "function_name" in one)


def _casts(text: str, root: dict[str, Any], look_up: Lookup) -> Iterator[Edit]:
    """Edits of casts to types that DuckDB has not; raises QueryRejected for a name that nothing has."""
    data = text.encode()

    def character(at: int) -> int:
        return len(data[:at].decode(errors="ignore"))

    for node in nodes(root):
        if node.get("class") != "CAST":
            continue
        kind, child = node["type_expr"], node["child"]
        at, end = node["query_location"], node["query_location"] + node["query_location_length"]
        if at >= _NOWHERE:
            continue
        whole = (character(min(at, child["query_location"])), character(end))
        written = _cast(kind, child, look_up)
        if written:
            yield Edit(*whole, written)
        elif kind["query_location"] < _NOWHERE and (name := _TYPES.get(kind["type_name"].lower())):
            start = kind["query_location"]
            yield Edit(character(start), character(start + kind["query_location_length"]), name)


def _cast(kind: dict[str, Any], child: dict[str, Any], look_up: Lookup) -> str | None:
    """What takes the place of a whole cast; None: the type alone is another."""
    name = kind["type_name"].lower()
    text = _string(child)
    if name == "list" and text is not None and text.strip().startswith("{"):
        element = kind["children"][0]["type_name"]
        try:
            return f"CAST({text_array(text, 0)} AS {_TYPES.get(element.lower(), element)}[])"
        except ValueError as error:
            raise QueryRejected(f"malformed array literal: {error}", "22P02") from None
    if name in ("regproc", "regprocedure") and text is not None:
        return f"'{text.rpartition('.')[2]}'"
    if name not in _OBJECTS:
        return None
    if text is not None:
        found = int(text) if text.isdecimal() else look_up(name, text)
        if found is None:
            raise QueryRejected(f'{_KINDS[name]} "{text}" does not exist', "42P01" if name == "regclass" else "42704")
        return f"CAST({found} AS UINTEGER)"
    if child.get("class") == "COLUMN_REF":
        column = ".".join('"' + part.replace('"', '""') + '"' for part in child["column_names"])
        return f"{name}_name({column})"
    return None


_KINDS = {"regclass": "relation", "regtype": "type", "regnamespace": "schema"}


def _string(node: dict[str, Any]) -> str | None:
    constant = node.get("literal") or {}
    return constant.get("text") if constant.get("kind") == "STRING" else None


def _column_names(node: dict[str, Any]) -> tuple[list[str | None], int | None]:
    """Postgres' names of the columns, and where a star stands among them; None: DuckDB's name is right, or unknown."""
    while node.get("type") == "SET_OPERATION_NODE":
        node = node.get("left") or (node.get("children") or [{}])[0]
    listed = node.get("select_list") or []
    stars = [at for at, item in enumerate(listed) if item.get("class") == "STAR"]
    if len(stars) > 1:
        return [], 0
    named = [None if item.get("class") == "COLUMN_REF" else item.get("alias") or _named(item) for item in listed]
    if stars:
        return [*named[: stars[0]], *named[stars[0] + 1 :]], stars[0]
    return named, None


_NAMED = {"count_star": "count", "list_value": "array", "struct_pack": "row", "array_value": "array"}


def _named(node: dict[str, Any]) -> str:
    """What Postgres calls a column without a name."""
    kind = node.get("class")
    match kind:
        case "COLUMN_REF":
            return str(node["column_names"][-1])
        case "FUNCTION" | "WINDOW":
            name = str(node.get("function_name", "?column?"))
            return "?column?" if node.get("is_operator") else _NAMED.get(name, name)
        case "CAST":
            inner = _named(node["child"])
            return inner if inner != "?column?" else str(node["type_expr"]["type_name"]).lower()
        case "CASE":
            inner = _named(node.get("else_expr") or {})
            return inner if inner != "?column?" else "case"
        case "SUBQUERY":
            return _of_subquery(node)
        case "OPERATOR":
            return _of_operator(node)
    return "?column?"


def _of_subquery(node: dict[str, Any]) -> str:
    if node.get("subquery_type") != "SCALAR":
        return "exists" if node.get("subquery_type") == "EXISTS" else "?column?"
    names, _ = _column_names(node["subquery"]["node"])
    first = (node["subquery"]["node"].get("select_list") or [{}])[0]
    return (names[0] if names else None) or _named(first)


def _of_operator(node: dict[str, Any]) -> str:
    if node["type"] == "OPERATOR_COALESCE":
        return "coalesce"
    if node["type"] in ("ARRAY_EXTRACT", "STRUCT_EXTRACT"):
        return _named(node["children"][0])
    return "?column?"
