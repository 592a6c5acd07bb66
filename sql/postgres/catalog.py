"""The shadow catalog: `pg_catalog` and `information_schema` about the lake, as Postgres' clients ask for them.

A DuckDB without any data, beside: DuckDB's own `pg_catalog` answers a quarter of what clients ask. It has every table
of Postgres 15's catalog with its columns (`relations.txt`, `pg_types.txt`); those that say something about the lake
have rows, the others none. Tables and functions are made when a query names them. Used by `executor`, in the child.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any
from zlib import crc32

import duckdb
import pyarrow as pa

from eagleray.cluster.access import TableAccess
from eagleray.cluster.lake.glance import Glance
from eagleray.sql.duckdb_types import sql_type
from eagleray.sql.engine import MIB, Limits, connect, identifier, lock
from eagleray.sql.postgres import types as t
from eagleray.sql.postgres.catalog_functions import FUNCTIONS, NAMES, NEEDS
from eagleray.sql.postgres.comments import Comments
from eagleray.sql.postgres.dialect import DATABASE, INFORMATION, Facts
from eagleray.sql.postgres.settings import DEFAULTS
from eagleray.sql.tables import unique_names

SCHEMA = "pgc"
LIMITS = Limits(memory_bytes_max=256 * MIB, threads=1)
OWNER = 10
_NAMESPACES = {"pg_catalog": 11, "information_schema": 13183, "public": 2200}
_FIRST_OID = 16_384  # below are Postgres' own
_CHARS = ", ".join(f"'{chr(code)}'" if chr(code) != "'" else "''''" for code in range(33, 127)) + ", ''"

Row = dict[str, Any]

_DUCKDB: Mapping[str, str] = {
    "oid": "UINTEGER", "char": "pgchar", "bool": "BOOLEAN", "int2": "SMALLINT", "int4": "INTEGER", "int8": "BIGINT",
    "float4": "FLOAT", "float8": "DOUBLE", "timestamptz": "TIMESTAMPTZ", "interval": "INTERVAL", "xid": "BIGINT",
    "cid": "BIGINT", "numeric": "DECIMAL(38,9)", "bytea": "BLOB", "int2vector": "SMALLINT[]", "oidvector": "UINTEGER[]",
}  # fmt: skip
"""DuckDB's type for a column of the catalog; all others are text."""

_ARROW: Mapping[str, pa.DataType] = {
    "oid": pa.uint32(), "bool": pa.bool_(), "int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64(),
    "float4": pa.float32(), "float8": pa.float64(), "int2vector": pa.list_(pa.int16()),
    "oidvector": pa.list_(pa.uint32()), "timestamptz": pa.timestamp("us", "UTC"), "xid": pa.int64(),
}  # fmt: skip
_EMPTY: Mapping[str, Any] = {
    "oid": 0, "bool": False, "int2": 0, "int4": 0, "int8": 0, "float4": 0.0, "float8": 0.0, "char": "", "name": "",
}  # fmt: skip
"""What stands in a column that a row says nothing of; otherwise null."""


@dataclass(frozen=True)
class Relation:
    """A table of the catalog: its columns with Postgres' types."""

    schema: str
    name: str
    oid: int
    columns: tuple[tuple[str, str], ...]


@cache
def relations() -> Mapping[tuple[str, str], Relation]:
    """Every table of the catalog, by schema and name."""
    found = {}
    for line in _lines("relations.txt"):
        schema, name, oid, columns = line.split(" ", 3)
        pairs = tuple((pair.rpartition(" ")[0], pair.rpartition(" ")[2]) for pair in columns.split(","))
        found[schema, name] = Relation(schema, name, int(oid), pairs)
    return found


@cache
def pg_types() -> Sequence[Row]:
    """Postgres' types as rows of pg_type."""
    found = []
    for line in _lines("pg_types.txt"):
        oid, name, length, by_value, kind, category, preferred, element, array, read, align, storage, collation = (
            line.split()
        )
        found.append(
            {
                "oid": int(oid), "typname": name, "typnamespace": 11, "typowner": OWNER, "typlen": int(length),
                "typbyval": by_value == "t", "typtype": kind, "typcategory": category,
                "typispreferred": preferred == "t", "typisdefined": True, "typdelim": ",", "typelem": int(element),
                "typarray": int(array), "typinput": read, "typalign": align, "typstorage": storage, "typtypmod": -1,
                "typcollation": int(collation),
            }
        )  # fmt: skip
    return found


@cache
def _type_names() -> Mapping[str, int]:
    return {name: oid for oid, name in NAMES.items()} | {str(row["typname"]): row["oid"] for row in pg_types()}


def type_named(name: str) -> int:
    """The oid of a type by either of its names (`int8`, `bigint`); 0: there is none."""
    return _type_names().get(name, 0)


def _lines(name: str) -> Iterable[str]:
    text = (files(__package__) / name).read_text()
    return (line for line in text.splitlines() if not line.startswith("#"))


def is_catalog(names: Sequence[str]) -> bool:
    """Whether a table's name, as the query has it once `dialect` was over it, is one of the catalog's."""
    schema, name = (names[-2] if len(names) > 1 else "pg_catalog"), names[-1].lower()
    return (schema.lower().removesuffix("_"), name) in relations() and len(names) <= 2


@dataclass(frozen=True)
class _Table:
    """A table of the lake as the catalog describes it."""

    schema: str
    name: str
    oid: int
    glance: Glance

    @cached_property
    def columns(self) -> list[tuple[str, t.Column, bool, str]]:
        """SQL's name, the type, whether it may be null, the comment."""
        names = unique_names([field.name for field in self.glance.fields])
        return [
            (name, t.described(name, _kind(field.type)), field.nullable, field.comment)
            for name, field in zip(names, self.glance.fields, strict=True)
        ]


def _kind(kind: pa.DataType) -> str:
    try:
        return sql_type(kind)
    except ValueError:
        return "VARCHAR"


class Catalog:
    """The catalog as one key sees it; `user` is the key's name."""

    def __init__(self, lake: Mapping[str, Glance], access: TableAccess, comments: Comments, temp: str) -> None:
        """Of those tables in `lake` that `access` opens. `temp` takes what queries spill."""
        self._comments = comments
        self.tables = _tables(lake, access)
        self._namespaces = {**_NAMESPACES, **_oids({table.schema for table in self.tables}, "schema ")}
        self._connection = connect(LIMITS, temp)
        self._connection.execute(
            f"ATTACH ':memory:' AS {DATABASE}; USE {DATABASE}; CREATE SCHEMA {SCHEMA}; CREATE SCHEMA {INFORMATION};"
            f"CREATE TYPE {SCHEMA}.pgchar AS ENUM ({_CHARS}); SET search_path = '{DATABASE}.{SCHEMA}'"
        )
        lock(self._connection)
        self._made: set[str] = set()

    def close(self) -> None:
        """Release it."""
        self._connection.close()

    def cursor(self, names: Iterable[str], functions: Iterable[str], facts: Facts) -> duckdb.DuckDBPyConnection:
        """A connection on which these tables (`schema.name`, or a name of pg_catalog) and functions can be asked."""
        for function in functions:
            self._make_function(function, facts)
        for name in names:
            self._make_table(name, facts)
        cursor = self._connection.cursor()
        cursor.execute(f"USE {DATABASE}.{SCHEMA}")
        return cursor

    def oid(self, kind: str, text: str) -> int | None:
        """What `'text'::regclass` and its like stand for; None: there is no such thing."""
        parts = [part.strip('"') for part in text.replace('"."', ".").split(".")]
        if kind == "regtype":
            return type_named(parts[-1]) or None
        if kind == "regnamespace":
            return self._namespaces.get(parts[-1])
        known = {(relation.schema, relation.name): relation.oid for relation in relations().values()}
        known |= {(table.schema, table.name): table.oid for table in self.tables}
        schema = parts[-2] if len(parts) > 1 else "pg_catalog"
        return known.get((schema, parts[-1]))

    def _make_function(self, name: str, facts: Facts) -> None:
        macro = FUNCTIONS[name]
        for table in macro.tables:
            self._make_table(table, facts)
        if name in self._made:
            return
        for needed in NEEDS.get(name, ()):
            self._make_function(needed, facts)
        self._connection.execute(macro.ddl(name))
        self._made.add(name)

    def _make_table(self, full_name: str, facts: Facts) -> None:
        schema, _, name = full_name.rpartition(".")
        schema = schema.removesuffix("_") or "pg_catalog"
        place = f"{INFORMATION if schema == 'information_schema' else SCHEMA}.{identifier(name)}"
        if place in self._made and name not in _OF_SESSION:
            return
        relation = relations()[schema, name]
        columns = ", ".join(f"{identifier(column)} {_duckdb(kind)}" for column, kind in relation.columns)
        self._connection.execute(f"CREATE OR REPLACE TABLE {place} ({columns})")
        make = _ROWS.get(name) if schema == "pg_catalog" else _INFORMATION_ROWS.get(name)
        if make and (rows := make(self, facts)):
            self._connection.register("filling", _arrow(relation, rows))
            self._connection.execute(f"INSERT INTO {place} SELECT * FROM filling")
            self._connection.unregister("filling")
        self._made.add(place)

    def namespaces(self, _: Facts) -> list[Row]:
        """Rows of pg_namespace."""
        return [{"oid": oid, "nspname": name, "nspowner": OWNER} for name, oid in self._namespaces.items()]

    def classes(self, _: Facts) -> list[Row]:
        """Rows of pg_class."""
        return [
            {
                "oid": table.oid, "relname": table.name, "relnamespace": self._namespaces[table.schema],
                "relowner": OWNER, "relam": 2, "relfilenode": table.oid, "relpersistence": "p", "relkind": "r",
                "relnatts": len(table.columns), "relispopulated": True, "relreplident": "d", "reltuples": -1.0,
            }
            for table in self.tables
        ]  # fmt: skip

    def attributes(self, _: Facts) -> list[Row]:
        """Rows of pg_attribute."""
        known = {row["oid"]: row for row in pg_types()}
        return [
            {
                "attrelid": table.oid, "attname": name, "atttypid": column.oid, "attstattarget": -1,
                "attlen": known[column.oid]["typlen"], "attnum": number, "attcacheoff": -1,
                "atttypmod": column.modifier, "attbyval": known[column.oid]["typbyval"],
                "attalign": known[column.oid]["typalign"], "attstorage": known[column.oid]["typstorage"],
                "attnotnull": not nullable, "attislocal": True, "attcollation": known[column.oid]["typcollation"],
                "attndims": int(column.oid in t.ELEMENTS),
            }
            for table in self.tables
            for number, (name, column, nullable, _) in enumerate(table.columns, 1)
        ]  # fmt: skip

    def descriptions(self, _: Facts) -> list[Row]:
        """Rows of pg_description."""
        found = []
        for table in self.tables:
            about = {0: table.glance.comment or self._comments.table(table.schema, table.name)}
            for number, (name, _type, _nullable, comment) in enumerate(table.columns, 1):
                about[number] = comment or self._comments.column(table.schema, table.name, name)
            found += [
                {"objoid": table.oid, "classoid": 1259, "objsubid": number, "description": text}
                for number, text in about.items()
                if text
            ]
        return found

    def listed(self, _: Facts) -> list[Row]:
        """Rows of pg_tables."""
        return [
            {"schemaname": table.schema, "tablename": table.name, "tableowner": "eagleray"} for table in self.tables
        ]


def _tables(lake: Mapping[str, Glance], access: TableAccess) -> list[_Table]:
    open_ = {name: glance for name, glance in lake.items() if access.may_read(name.lower())}
    oids = _oids(open_, "")
    parts = [(name.partition("."), oids[name], glance) for name, glance in open_.items()]
    return [_Table(schema, table, oid, glance) for (schema, _, table), oid, glance in parts]


def _oids(names: Iterable[str], kind: str) -> dict[str, int]:
    """Numbers that hang on the names alone, so that they are the same in every process."""
    found: dict[str, int] = {}
    taken: set[int] = set()
    for name in sorted(names):
        oid = _FIRST_OID + crc32((kind + name).encode()) % (2**31 - _FIRST_OID)
        while oid in taken:
            oid += 1
        taken.add(oid)
        found[name] = oid
    return found


def _duckdb(kind: str) -> str:
    if kind.startswith("_"):
        return f"{_duckdb(kind[1:])}[]"
    return _DUCKDB.get(kind, "VARCHAR")


def _arrow(relation: Relation, rows: Sequence[Row]) -> pa.Table:
    columns = {}
    for name, kind in relation.columns:
        arrow = pa.list_(_ARROW.get(kind[1:], pa.string())) if kind.startswith("_") else _ARROW.get(kind, pa.string())
        columns[name] = pa.array([row.get(name, _EMPTY.get(kind)) for row in rows], arrow)
    return pa.table(columns)


def _settings(_: Catalog, facts: Facts) -> list[Row]:
    values = {**DEFAULTS, **facts.settings}
    return [
        {"name": name, "setting": value, "category": "", "short_desc": "", "context": "user", "vartype": "string",
         "source": "default", "boot_val": value, "reset_val": value, "pending_restart": False}
        for name, value in values.items()
    ]  # fmt: skip


def _roles(_: Catalog, facts: Facts) -> list[Row]:
    names = dict.fromkeys(["eagleray", facts.user])
    return [
        {"oid": OWNER + number, "rolname": name, "rolinherit": True, "rolcanlogin": True, "rolconnlimit": -1,
         "usename": name, "usesysid": OWNER + number, "rolpassword": None}
        for number, name in enumerate(names)
    ]  # fmt: skip


def _one(**row: Any) -> Callable[[Catalog, Facts], list[Row]]:
    return lambda catalog, facts: [row]


_ROWS: Mapping[str, Callable[[Catalog, Facts], list[Row]]] = {
    "pg_namespace": Catalog.namespaces,
    "pg_class": Catalog.classes,
    "pg_attribute": Catalog.attributes,
    "pg_description": Catalog.descriptions,
    "pg_tables": Catalog.listed,
    "pg_type": lambda catalog, facts: list(pg_types()),
    "pg_settings": _settings,
    "pg_roles": _roles,
    "pg_authid": _roles,
    "pg_user": _roles,
    "pg_database": _one(
        oid=5, datname=DATABASE, datdba=OWNER, encoding=6, datlocprovider="c", datallowconn=True, datconnlimit=-1,
        dattablespace=1663, datcollate="C.UTF-8", datctype="C.UTF-8",
    ),
    "pg_am": _one(oid=2, amname="heap", amhandler="heap_tableam_handler", amtype="t"),
    "pg_collation": _one(
        oid=100, collname="default", collnamespace=11, collowner=OWNER, collprovider="d", collencoding=-1
    ),
    "pg_tablespace": _one(oid=1663, spcname="pg_default", spcowner=OWNER),
    "pg_language": _one(oid=14, lanname="sql", lanowner=OWNER, lanpltrusted=True),
}  # fmt: skip


_OF_SESSION = frozenset(
    "pg_settings pg_roles pg_authid pg_user table_privileges role_table_grants enabled_roles".split()
)
"""Tables that say something about who asks, and are made anew for each query."""


def _schemata(catalog: Catalog, facts: Facts) -> list[Row]:
    return [
        {"catalog_name": DATABASE, "schema_name": row["nspname"], "schema_owner": "eagleray"}
        for row in catalog.namespaces(facts)
    ]


def _information_tables(catalog: Catalog, _: Facts) -> list[Row]:
    return [
        {**_place(table), "table_type": "BASE TABLE", "is_insertable_into": "NO", "is_typed": "NO"}
        for table in catalog.tables
    ]


def _privileges(catalog: Catalog, facts: Facts) -> list[Row]:
    return [
        {**_place(table), "grantor": "eagleray", "grantee": facts.user, "privilege_type": "SELECT",
         "is_grantable": "NO", "with_hierarchy": "YES"}
        for table in catalog.tables
    ]  # fmt: skip


_PRECISIONS = {
    t.INT2: (16, 2, 0),
    t.INT4: (32, 2, 0),
    t.INT8: (64, 2, 0),
    t.FLOAT4: (24, 2, None),
    t.FLOAT8: (53, 2, None),
}


def _information_columns(catalog: Catalog, _: Facts) -> list[Row]:
    known = {row["oid"]: row["typname"] for row in pg_types()}
    return [
        {**_place(table), **_typed(column, known[column.oid]), "column_name": name, "ordinal_position": number,
         "is_nullable": "YES" if nullable else "NO", "is_self_referencing": "NO", "is_identity": "NO",
         "identity_cycle": "NO", "is_generated": "NEVER", "is_updatable": "NO", "dtd_identifier": str(number)}
        for table in catalog.tables
        for number, (name, column, nullable, _) in enumerate(table.columns, 1)
    ]  # fmt: skip


def _place(table: _Table) -> Row:
    return {"table_catalog": DATABASE, "table_schema": table.schema, "table_name": table.name}


def _typed(column: t.Column, name: str) -> Row:
    precision, radix, scale = _PRECISIONS.get(column.oid, (None, None, None))
    if column.oid == t.NUMERIC and column.modifier > 0:
        precision, radix, scale = (column.modifier - 4) >> 16, 10, (column.modifier - 4) & 0xFFFF
    return {
        "data_type": "ARRAY" if column.oid in t.ELEMENTS else NAMES[column.oid],
        "numeric_precision": precision, "numeric_precision_radix": radix, "numeric_scale": scale,
        "datetime_precision": 6 if column.oid in (t.TIME, t.TIMESTAMP, t.TIMESTAMPTZ, t.INTERVAL) else None,
        "character_octet_length": 1 << 30 if column.oid == t.TEXT else None,
        "udt_catalog": DATABASE, "udt_schema": "pg_catalog", "udt_name": name,
    }  # fmt: skip


_INFORMATION_ROWS: Mapping[str, Callable[[Catalog, Facts], list[Row]]] = {
    "schemata": _schemata,
    "tables": _information_tables,
    "columns": _information_columns,
    "table_privileges": _privileges,
    "role_table_grants": _privileges,
    "information_schema_catalog_name": _one(catalog_name=DATABASE),
    "enabled_roles": lambda catalog, facts: [{"role_name": facts.user}],
    "character_sets": _one(
        character_set_name="UTF8", character_repertoire="UCS", form_of_use="UTF8", default_collate_name="C.UTF-8"
    ),
}
