"""Functions of Postgres' catalog, as macros of the shadow catalog (`catalog`). What is not asked for is not made.

The lake has tables with columns and comments, and one reader. It has no indexes, constraints, triggers, rules, defaults
or partitions in Postgres' sense, so the functions that describe these say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eagleray.sql.engine import literal
from eagleray.sql.postgres import types as t

NAMES: Mapping[int, str] = {
    t.BOOL: "boolean", t.BYTEA: "bytea", t.CHAR: '"char"', t.NAME: "name", t.INT8: "bigint", t.INT2: "smallint",
    t.INT4: "integer", t.TEXT: "text", t.OID: "oid", t.JSON: "json", t.FLOAT4: "real", t.FLOAT8: "double precision",
    t.BPCHAR: "character", t.VARCHAR: "character varying", t.DATE: "date", t.TIME: "time without time zone",
    t.TIMESTAMP: "timestamp without time zone", t.TIMESTAMPTZ: "timestamp with time zone", t.INTERVAL: "interval",
    t.NUMERIC: "numeric", t.UUID: "uuid", t.JSONB: "jsonb",
}  # fmt: skip
"""What Postgres calls each type where it is shown."""


@dataclass(frozen=True)
class Macro:
    """A function: its forms (parameters and body), and the catalog's tables that the bodies read."""

    forms: tuple[tuple[str, str], ...]
    tables: tuple[str, ...] = ()
    table: bool = False  # stands in FROM

    def ddl(self, name: str) -> str:
        """The statement that makes it."""
        kind = "TABLE " if self.table else ""
        return f"CREATE MACRO {name}{', '.join(f'({parameters}) AS {kind}({body})' for parameters, body in self.forms)}"


def _always(value: str, *forms: str) -> Macro:
    return Macro(tuple((parameters, value) for parameters in forms))


def _format_type() -> str:
    cases = [f"WHEN {oid} THEN {literal(name)}" for oid, name in NAMES.items() if oid != t.NUMERIC]
    cases += [f"WHEN {array} THEN {literal(NAMES[oid] + '[]')}" for oid, array in t.ARRAYS.items() if oid in NAMES]
    numeric = "'numeric' || CASE WHEN m > 0 THEN '(' || ((m - 4) >> 16) || ',' || ((m - 4) & 65535) || ')' ELSE '' END"
    return f"CASE o WHEN {t.NUMERIC} THEN {numeric} {' '.join(cases)} ELSE CASE WHEN o IS NOT NULL THEN '???' END END"


_NULL = "CAST(NULL AS VARCHAR)"
_QUOTE_IDENT = (
    "CASE WHEN regexp_matches(x, '^[a-z_][a-z0-9_$]*$') THEN x ELSE '\"' || replace(x, '\"', '\"\"') || '\"' END"
)
# The argument is asked in a select of its own: what is in it (`c.oid`, `oid`) is never taken for a column of the body.
_DESCRIPTION = (
    "(SELECT d__.description FROM (SELECT {asked}) a__, pg_description d__"
    " WHERE d__.objoid = a__.k AND d__.objsubid = {number})"
)
_OF_TABLE = _DESCRIPTION.format(asked="o AS k", number="0")
_OF_COLUMN = _DESCRIPTION.format(asked="o AS k, n AS m", number="a__.m AND a__.m > 0")
_CLASS_NAME = (
    "(SELECT n__.nspname || '.' || c__.relname FROM (SELECT o AS k) a__, pg_class c__, pg_namespace n__"
    " WHERE c__.oid = a__.k AND n__.oid = c__.relnamespace)"
)
_CLASS_OID = (
    "(SELECT c__.oid FROM (SELECT replace(replace(x, '\"', ''), 'lake.', '') AS k) a__, pg_class c__, pg_namespace n__"
    " WHERE n__.oid = c__.relnamespace AND a__.k = n__.nspname || '.' || c__.relname LIMIT 1)"
)
_TYPE_OID = (
    "(SELECT min(t__.oid) FROM (SELECT x AS k) a__, pg_type t__"
    " WHERE t__.typname = a__.k OR format_type(t__.oid, -1) = a__.k)"
)
_SETTING = "(SELECT s__.setting FROM (SELECT lower(x) AS k) a__, pg_settings s__ WHERE s__.name = a__.k)"
_NAMESPACE_OID = "(SELECT n__.oid FROM (SELECT x AS k) a__, pg_namespace n__ WHERE n__.nspname = a__.k)"
_NAMESPACE_NAME = "(SELECT n__.nspname FROM (SELECT o AS k) a__, pg_namespace n__ WHERE n__.oid = a__.k)"

FUNCTIONS: Mapping[str, Macro] = {
    "format_type": Macro((("o, m", _format_type()),)),
    "obj_description": Macro(
        (("o", _OF_TABLE), ("o, k", f"CASE WHEN k = 'pg_class' THEN {_OF_TABLE} END")), ("pg_description",)
    ),
    "col_description": Macro((("o, n", _OF_COLUMN),), ("pg_description",)),
    "current_setting": Macro((("x", _SETTING), ("x, m", _SETTING)), ("pg_settings",)),
    "shobj_description": _always(_NULL, "o, k"),
    "pg_get_userbyid": _always("'eagleray'", "o"),
    **{
        f"pg_{kind}_is_visible": _always("true", "o")
        for kind in (
            "table",
            "type",
            "function",
            "operator",
            "opclass",
            "opfamily",
            "collation",
            "conversion",
            "ts_config",
            "ts_dict",
            "ts_parser",
            "ts_template",
            "statistics_obj",
        )
    },
    "pg_get_expr": _always(_NULL, "e, o", "e, o, p"),
    "pg_get_indexdef": _always(_NULL, "o", "o, n, p"),
    "pg_get_constraintdef": _always(_NULL, "o", "o, p"),
    "pg_get_viewdef": _always(_NULL, "o", "o, p"),
    "pg_get_ruledef": _always(_NULL, "o", "o, p"),
    "pg_get_triggerdef": _always(_NULL, "o", "o, p"),
    "pg_get_functiondef": _always(_NULL, "o"),
    "pg_get_function_result": _always(_NULL, "o"),
    "pg_get_function_arguments": _always(_NULL, "o"),
    "pg_get_function_identity_arguments": _always(_NULL, "o"),
    "pg_get_function_sqlbody": _always(_NULL, "o"),
    "pg_get_statisticsobjdef_columns": _always(_NULL, "o"),
    "pg_get_statisticsobjdef": _always(_NULL, "o"),
    "pg_get_partkeydef": _always(_NULL, "o"),
    "pg_get_partition_constraintdef": _always(_NULL, "o"),
    "pg_get_serial_sequence": _always(_NULL, "t, c"),
    "pg_get_replica_identity_index": _always("CAST(NULL AS UINTEGER)", "o"),
    "pg_tablespace_location": _always("''", "o"),
    "pg_encoding_to_char": _always("CASE n WHEN 6 THEN 'UTF8' ELSE '' END", "n"),
    "pg_relation_size": _always("CAST(0 AS BIGINT)", "o", "o, f"),
    "pg_total_relation_size": _always("CAST(0 AS BIGINT)", "o"),
    "pg_table_size": _always("CAST(0 AS BIGINT)", "o"),
    "pg_indexes_size": _always("CAST(0 AS BIGINT)", "o"),
    "pg_database_size": _always("CAST(0 AS BIGINT)", "o"),
    "pg_size_pretty": _always("n || ' bytes'", "n"),
    "pg_relation_is_publishable": _always("false", "o"),
    "pg_is_other_temp_schema": _always("false", "o"),
    "pg_my_temp_schema": _always("CAST(0 AS UINTEGER)", ""),
    "pg_postmaster_start_time": _always("now()", ""),
    "pg_advisory_unlock_all": _always(_NULL, ""),
    "pg_stat_get_numscans": _always("CAST(0 AS BIGINT)", "o"),
    "has_table_privilege": _always("p ILIKE '%select%'", "o, p", "u, o, p"),
    "has_any_column_privilege": _always("p ILIKE '%select%'", "o, p", "u, o, p"),
    "has_column_privilege": _always("p ILIKE '%select%'", "o, c, p", "u, o, c, p"),
    "has_schema_privilege": _always("p ILIKE '%usage%'", "o, p", "u, o, p"),
    "has_database_privilege": _always("p ILIKE '%connect%'", "o, p", "u, o, p"),
    "has_function_privilege": _always("true", "o, p", "u, o, p"),
    "has_sequence_privilege": _always("false", "o, p", "u, o, p"),
    "has_tablespace_privilege": _always("false", "o, p", "u, o, p"),
    "pg_has_role": _always("true", "r, p", "u, r, p"),
    "quote_ident": Macro((("x", _QUOTE_IDENT),)),
    "quote_literal": _always("'''' || replace(CAST(x AS VARCHAR), '''', '''''') || ''''", "x"),
    "array_lower": _always("CASE WHEN len(a) > 0 THEN 1 END", "a, n"),
    "array_upper": _always("CASE WHEN len(a) > 0 THEN len(a) END", "a, n"),
    "to_regclass": Macro((("x", _CLASS_OID),), ("pg_class", "pg_namespace")),
    "to_regtype": Macro((("x", _TYPE_OID),), ("pg_type",)),
    "to_regnamespace": Macro((("x", _NAMESPACE_OID),), ("pg_namespace",)),
    "to_regproc": _always(_NULL, "x"),
    "regclass_name": Macro((("o", f"coalesce({_CLASS_NAME}, CAST(o AS VARCHAR))"),), ("pg_class", "pg_namespace")),
    "regtype_name": Macro((("o", "format_type(o, -1)"),)),
    "regnamespace_name": Macro((("o", _NAMESPACE_NAME),), ("pg_namespace",)),
    "regrole_name": _always("'eagleray'", "o"),
    "pg_get_keywords": Macro(
        (
            (
                "",
                "SELECT word, 'R' AS catcode, true AS barelabel, 'reserved' AS catdesc, 'requires AS' AS baredesc"
                " FROM (VALUES ('qualify'), ('pivot'), ('unpivot'), ('summarize'), ('describe'), ('lambda')) k(word)",
            ),
        ),
        table=True,
    ),
}
"""By name. A query that calls one of them is the catalog's."""

NEEDS: Mapping[str, tuple[str, ...]] = {"to_regtype": ("format_type",), "regtype_name": ("format_type",)}
"""Functions that others call."""
