"""Parquet files of a table as one SELECT: columns by Iceberg field id, so files older than the schema fit.

Called by `sql.tables`. Files of one schema are read by its names: DuckDB then uses their statistics, and joins
are up to five times as fast. Where schemas differ in top-level columns, DuckDB maps these by id itself. Inside structs,
though, it goes by name, and it cannot look into a struct that a file lacks: files of such tables are grouped by their
schemas, read from their footers, and each group is spelled out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from eagleray.cluster.errors import LakeDamaged
from eagleray.cluster.lake.damage import ADVICE
from eagleray.cluster.lake.scan import Column, ScanPlan
from eagleray.sql.duckdb_types import sql_type
from eagleray.sql.engine import identifier, literal

_ID = b"PARQUET:field_id"


def select_parquet(
    plan: ScanPlan,
    columns: Sequence[Column],
    names: Sequence[str],
    sources: Mapping[str, str],
    path_as: str | None = None,
) -> str:
    """A SELECT of the plan's rows; `names` are SQL's names of `columns`. Raises OSError where a file cannot be read.

    `sources`: how DuckDB has to name each file. `path_as`: the name of one more column, with the path of each row's
    file, named so.
    """
    files = list(sources.values())
    if plan.layout == "alike":
        return _group(files, _file_schema(plan, plan.files[0])[1], columns, names, path_as)
    if plan.layout == "flat":
        extra = f", filename = {literal(path_as)}" if path_as else ""
        return f"SELECT * FROM {_parquet(files, _mapping(columns, names) + extra)}"
    groups: dict[bytes, tuple[pa.Schema, list[str]]] = {}
    for file in plan.files:
        key, schema = _file_schema(plan, file)
        groups.setdefault(key, (schema, []))[1].append(sources[file])
    return " UNION ALL ".join(_group(files, schema, columns, names, path_as) for schema, files in groups.values())


def _parquet(files: Sequence[str], options: str = "") -> str:
    # Files that others wrote, or we before, have least and greatest values of columns that hold NaN: Parquet leaves NaN
    # out of both, and without this word DuckDB concludes from them that there is none.
    fixed = "hive_partitioning = false, can_have_nan = true"
    return f"read_parquet([{', '.join(map(literal, files))}], {fixed}{options})"


def _mapping(columns: Sequence[Column], names: Sequence[str]) -> str:
    by_id = ", ".join(
        f"{column.id}: {{name: {literal(name)}, type: {literal(sql_type(column.type))}, default_value: NULL}}"
        for column, name in zip(columns, names, strict=True)
    )
    return f", schema = MAP {{{by_id}}}"


_SCHEMAS_MAX = 20_000  # some KB each
_schemas: dict[str, tuple[bytes, pa.Schema]] = {}  # by file, for files never change


def _file_schema(plan: ScanPlan, file: str) -> tuple[bytes, pa.Schema]:
    known = _schemas.get(file)
    if known is not None:
        return known
    try:
        with plan.stream(file) as source:
            schema = pq.read_schema(source).remove_metadata()
    except pa.ArrowInvalid as error:
        raise LakeDamaged(f"{file} is cut or damaged ({' '.join(str(error).split())}); {ADVICE}") from None
    if len(_schemas) >= _SCHEMAS_MAX:
        _schemas.clear()
    _schemas[file] = (schema.serialize().to_pybytes(), schema)
    return _schemas[file]


def _group(
    files: Sequence[str], schema: pa.Schema, columns: Sequence[Column], names: Sequence[str], path_as: str | None
) -> str:
    """The rows of files that have the same schema."""
    found = {_id(field): field for field in schema}
    selected = ", ".join(
        f"{_read(column.field, found.get(_id(column.field)))} AS {identifier(name)}"
        for column, name in zip(columns, names, strict=True)
    )
    if path_as is None:
        return f"SELECT {selected} FROM {_parquet(files)}"
    return f"SELECT {selected}, {identifier(path_as)} FROM {_parquet(files, f', filename = {literal(path_as)}')}"


def _read(wanted: pa.Field, found: pa.Field | None) -> str:
    return _convert(wanted, found, identifier(found.name) if found else "", 0)


def _convert(wanted: pa.Field, found: pa.Field | None, source: str, depth: int) -> str:
    """The SQL expression that makes `wanted` of `source`, which has the shape of `found`; None: the file lacks it."""
    kind = sql_type(wanted.type)
    if found is None:
        return f"CAST(NULL AS {kind})"
    if _shape(wanted) == _shape(found):
        return source
    if pt.is_struct(wanted.type):
        there = {_id(child): child for child in found.type.fields}
        parts = []
        for child in wanted.type.fields:
            old = there.get(_id(child))
            inner = f"{source}.{identifier(old.name)}" if old else ""
            parts.append(f"{identifier(child.name)} := {_convert(child, old, inner, depth)}")
        return f"CASE WHEN {source} IS NOT NULL THEN struct_pack({', '.join(parts)}) END"
    if pt.is_list(wanted.type) or pt.is_large_list(wanted.type):
        element = _convert(wanted.type.value_field, found.type.value_field, f"e{depth}", depth + 1)
        return f"list_transform({source}, lambda e{depth}: {element})"
    return f"CAST({source} AS {kind})"


def _id(field: pa.Field) -> bytes | None:
    return (field.metadata or {}).get(_ID)


def _shape(field: pa.Field) -> object:
    """What has to be equal for values to be taken as they are: SQL types, and names and ids of what is inside."""
    if not pt.is_nested(field.type):
        return sql_type(field.type)
    children = [field.type.field(index) for index in range(field.type.num_fields)]
    if pt.is_struct(field.type):
        return ["struct", *((_id(child), child.name, _shape(child)) for child in children)]
    return ["map" if pt.is_map(field.type) else "list", *map(_shape, children)]
