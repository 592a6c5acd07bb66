"""Puts pinned tables of the lake into a DuckDB instance under their own names, `stream.table`.

Called by `sql.session`: first empty, to plan the query; then as views over the files of a scan plan. DuckDB reads the
files itself (`sql.parquet_select`), those of an object store by ranges (`sql.remote_files`); files with deletes go
through Iceberg's reader as Arrow batches.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from eagleray.cluster.lake.predicate import EVERYTHING, All, Predicate
from eagleray.cluster.lake.scan import Pinned, ScanPlan
from eagleray.sql.condition import condition
from eagleray.sql.duckdb_types import sql_type
from eagleray.sql.engine import identifier
from eagleray.sql.parquet_select import select_parquet
from eagleray.sql.remote_files import sources

_GLOB = "*?["  # DuckDB would look for files that match


def readable(plan: ScanPlan) -> bool:
    """Whether DuckDB can read the planned files itself."""
    return plan.plain and not any(sign in file for file in plan.files for sign in _GLOB if "://" not in file)


def unique_names(columns: Iterable[str]) -> list[str]:
    """SQL's names of columns: where names differ in case alone, later ones get a suffix."""
    names: list[str] = []
    taken: set[str] = set()
    for column in columns:
        name, count = column, 0
        while name.casefold() in taken:
            count += 1
            name = f"{column}_{count}"
        taken.add(name.casefold())
        names.append(name)
    return names


@dataclass(frozen=True)
class Declared:
    """A pinned table as SQL sees it. Columns whose names differ in case alone get a suffix: `User`, then `user_1`.

    Rows for which `only` does not hold are not there.
    """

    pinned: Pinned
    only: Predicate = EVERYTHING

    @property
    def schema(self) -> str:
        """The stream's name."""
        return self.pinned.name.split(".", 1)[0]

    @property
    def sql_name(self) -> str:
        """The quoted name."""
        return ".".join(map(identifier, self.pinned.name.split(".", 1)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """SQL's names of the columns."""
        return tuple(unique_names([column.name for column in self.pinned.columns]))

    @cached_property
    def types(self) -> tuple[str, ...]:
        """SQL's types of the columns."""
        return tuple(sql_type(column.type) for column in self.pinned.columns)

    @property
    def prunable(self) -> dict[str, str]:
        """Type by name, of the columns that are called the same here and in the lake."""
        columns = zip(self.pinned.columns, self.names, self.types, strict=True)
        return {name: kind for column, name, kind in columns if name == column.name}

    def plan(self, needed: Predicate) -> ScanPlan:
        """The files that may hold rows which are there and for which `needed` is true; raises OSError."""
        return self.pinned.plan(needed if self.only == EVERYTHING else All((self.only, needed)))

    def declare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create the table without rows."""
        columns = ", ".join(f"{identifier(n)} {kind}" for n, kind in zip(self.names, self.types, strict=True))
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(self.schema)}")
        connection.execute(f"CREATE TABLE {self.sql_name} ({columns})")

    def attach(self, connection: duckdb.DuckDBPyConnection, plan: ScanPlan) -> Sequence[str]:
        """Create a view over the planned files; returns the files that DuckDB itself has to open."""
        if not plan.files:
            self.declare(connection)
            return ()
        named = sources(connection, plan) if readable(plan) else {}
        for file in named.values():  # DuckDB would say no more than that it may not look for it
            if "://" not in file and not os.path.exists(file):
                raise FileNotFoundError(errno.ENOENT, "a file of the lake is missing", file)
        if named:
            source = select_parquet(plan, self.pinned.columns, self.names, named)
        else:
            source = self._arrow(connection, plan)
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(self.schema)}")
        connection.execute(f"CREATE VIEW {self.sql_name} AS {self._chosen(source)}")
        return list(named.values())

    def _chosen(self, source: str) -> str:
        if self.only == EVERYTHING:
            return source
        columns = {
            c.name: (name, kind) for c, name, kind in zip(self.pinned.columns, self.names, self.types, strict=True)
        }
        return f"SELECT * FROM ({source}) WHERE {condition(self.only, columns)}"

    def _arrow(self, connection: duckdb.DuckDBPyConnection, plan: ScanPlan) -> str:
        source = f"lake:{self.pinned.name}"
        connection.register(source, _PlannedRows(plan, self))
        return f"SELECT * FROM {identifier(source)}"


class _PlannedRows(ds.Dataset):  # type: ignore[misc]
    """The rows of a scan plan as a dataset: DuckDB asks it for the columns and rows that a scan needs, per scan."""

    def __init__(self, plan: ScanPlan, declared: Declared) -> None:
        # Not calling the base: it holds no C++ dataset, and DuckDB asks for nothing but `schema` and `scanner`.
        self._plan = plan
        self._lake_name = dict(zip(declared.names, (c.name for c in declared.pinned.columns), strict=True))
        fields = zip(declared.names, declared.pinned.columns, strict=True)
        self._arrow_schema = pa.schema([pa.field(name, column.type) for name, column in fields])

    @property
    def schema(self) -> pa.Schema:
        return self._arrow_schema

    def scanner(self, columns: list[str] | None = None, filter: Any = None, **_: Any) -> ds.Scanner:
        names = list(self._arrow_schema.names) if columns is None else columns
        # Rows are filtered here, also by columns that are not asked for; which ones, only the filter's text tells.
        text = "" if filter is None else str(filter)
        read = [name for name in self._arrow_schema.names if name in names or name in text]
        schema = pa.schema([self._arrow_schema.field(name) for name in read])
        # Computed columns, for a plain name with a dot in it would be taken for a path.
        wanted = {name: ds.field(name) for name in names}
        return ds.Scanner.from_batches(self._batches(read, schema), schema=schema, columns=wanted, filter=filter)

    def _batches(self, names: list[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for batch in self._plan.batches([self._lake_name[name] for name in names]):
            columns = [batch.column(self._lake_name[name]).cast(schema.field(name).type) for name in names]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
