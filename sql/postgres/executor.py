"""Runs the statements of Postgres' clients in a SQL process. Called by `sql.child`, asked by `runner` from the server.

One query is open at a time, and its rows leave as they come, already as messages of the wire protocol: the server only
passes them on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from eagleray.cluster.access import TableAccess
from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError, QueryError, QueryFailed, QueryRejected
from eagleray.cluster.lake.glance import Glance
from eagleray.sql.cursor import Budget, Cursor
from eagleray.sql.engine import Deadline, bounded, renderable
from eagleray.sql.guard import place
from eagleray.sql.postgres import packing
from eagleray.sql.postgres import types as t
from eagleray.sql.postgres.catalog import LIMITS, Catalog, type_named
from eagleray.sql.postgres.comments import Comments
from eagleray.sql.postgres.prepare import Prepared, Unprepared, prepare
from eagleray.sql.postgres.requests import (
    PIECE_BYTES,
    Close,
    Closed,
    Describe,
    Described,
    Failure,
    Fetch,
    Fetched,
    Open,
    Opened,
    Piece,
    Query,
    Request,
)
from eagleray.sql.postgres.types import Column, described
from eagleray.sql.query import Sql
from eagleray.sql.tokens import significant, tokens

logger = logging.getLogger(__name__)

CANCELLED = Failure("57014", "canceling statement due to user request")
_PACKED_BYTES_MAX = 16 << 20
_CATALOGS_MAX = 3  # kept: one for each set of scopes that asks


class _Rows:
    """An open query, and the rows of its batch that are not fetched yet."""

    def __init__(self, cursor: Cursor, columns: tuple[Column, ...]) -> None:
        self.cursor = cursor
        self.columns = columns
        self._batch: pa.RecordBatch | None = None
        self._at = 0

    def fetch(self, rows_max: int, formats: tuple[bool, ...], budget: Budget) -> Iterator[Piece | Fetched]:
        binary = _formats(formats, len(self.columns))
        left = rows_max or -1
        while left:
            if self._batch is None:
                self._batch, self._at = self.cursor.read(budget), 0
                if self._batch is None:
                    yield Fetched(True)
                    return
            batch = self._batch.slice(self._at) if left < 0 else self._batch.slice(self._at, left)
            yield from self._pieces(batch, binary)
            self._at += batch.num_rows
            left -= batch.num_rows if left > 0 else 0
            if self._at >= self._batch.num_rows:
                self._batch = None
        yield Fetched(False)

    def _pieces(self, batch: pa.RecordBatch, binary: tuple[bool, ...]) -> Iterator[Piece]:
        if not batch.num_rows:
            return
        if batch.num_rows > 1 and batch.nbytes > _PACKED_BYTES_MAX:  # wide rows: what is packed at once stays small
            half = batch.num_rows // 2
            yield from self._pieces(batch.slice(0, half), binary)
            yield from self._pieces(batch.slice(half), binary)
            return
        data, ends = packing.rows(batch, self.columns, binary)
        first = start = 0
        while first < batch.num_rows:
            last = max(first + 1, int(np.searchsorted(ends, start + PIECE_BYTES, side="right")))
            end = int(ends[last - 1])
            yield Piece(data[start:end], last - first)
            first, start = last, end


class Executor:
    """Answers requests, one after the other. `cancel` comes from another thread."""

    def __init__(self, sql: Sql, config: Config, temp_dir: Path) -> None:
        """Nothing is open."""
        self._sql = sql
        self._comments = Comments(config)
        self._temp_dir = temp_dir
        self._open: _Rows | None = None
        self._prepared: Prepared | None = None  # the statement that is at work: it knows where its parts come from
        self._catalogs: dict[tuple[TableAccess, tuple[Any, ...]], Catalog] = {}
        self._cancelled = False

    def begin(self) -> None:
        """A request comes: what was cancelled before is past."""
        self._cancelled = False

    def cancel(self) -> None:
        """Stop what is under way."""
        self._cancelled = True
        if (rows := self._open) is not None:
            rows.cursor.interrupt()

    def answer(self, request: Request) -> Iterator[Any]:
        """The answers to `request`, the last of which ends it."""
        try:
            yield from self._answer(request)
        except Unprepared as error:
            yield self._failed(error.error, error.message, error.position)
        except QueryError as error:
            yield self._failed(error, *(self._prepared.placed(error) if self._prepared else (str(error), None)))
        except EaglerayError as error:
            yield self._failed(QueryFailed(str(error)), str(error), None)
        except MemoryError:
            yield self._failed(QueryFailed("", "53200"), "the result does not fit into memory", None)
        except Exception as error:  # whatever a statement led to, the next one finds a process that answers
            logger.exception("a statement could not be run")
            yield self._failed(QueryFailed("", "XX000"), f"internal error: {type(error).__name__}", None)

    def _failed(self, error: QueryError, message: str, position: int | None) -> Failure:
        self._close()
        return CANCELLED if self._cancelled else Failure(error.sqlstate, message, position)

    def _answer(self, request: Request) -> Iterator[Any]:
        match request:
            case Describe(query):
                self._prepared = None
                yield self._describe(query)
            case Open():
                self._close()
                self._prepared = None
                yield self._start(request)
            case Fetch():
                yield from self._fetch(request)
            case Close():
                self._close()
                yield Closed()

    def _close(self) -> None:
        if (rows := self._open) is not None:
            self._open = None
            rows.cursor.close()

    def _fetch(self, request: Fetch) -> Iterator[Piece | Fetched]:
        if self._open is None:
            yield Fetched(True)
            return
        for part in self._open.fetch(request.rows_max, request.formats, Budget(request.timeout_s)):
            if self._cancelled:
                raise QueryFailed(CANCELLED.message, CANCELLED.sqlstate)
            if isinstance(part, Fetched) and part.complete:
                self._close()
            yield part

    def _start(self, request: Open) -> Opened:
        query, values = request.query, request.values
        lake = self._sql.glance()
        instant = query.instant
        if query.fix_instant:
            instant = {name: one.snapshot for name, one in lake.items()}

        def constant(number: int) -> str:
            if number > len(values):
                raise QueryRejected(f"there is no parameter ${number}", "42P02")
            return t.constant(values[number - 1])

        prepared = self._prepare(query, lake, constant)
        if prepared.catalog:
            cursor = self._catalog_cursor(prepared, query, lake)
        else:
            cursor = self._sql.stream(prepared.approved, query.access, query.timeout_s, instant)
        try:
            columns = _columns(prepared, cursor.columns, cursor.types)
            if request.expected is not None and request.expected != tuple(column.oid for column in columns):
                raise QueryRejected("cached plan must not change result type", "0A000")
        except BaseException:
            cursor.close()
            raise
        self._open = _Rows(cursor, columns)
        if self._cancelled:
            raise QueryFailed(CANCELLED.message, CANCELLED.sqlstate)
        return Opened(columns, instant if query.fix_instant else None)

    def _prepare(self, query: Query, lake: Mapping[str, Glance], constants: Callable[[int], str]) -> Prepared:
        def look_up(kind: str, text: str) -> int | None:
            return self._catalog(lake, query.access).oid(kind, text)

        names = {name.lower() for name in lake}
        self._prepared = prepare(
            self._sql.guard, query.text, query.facts, query.access, constants, look_up, names.__contains__
        )
        return self._prepared

    def _catalog(self, lake: Mapping[str, Glance], access: TableAccess) -> Catalog:
        """The shadow catalog of what `access` opens, made again where tables or columns changed."""
        shape = tuple((name, one.fields, one.comment) for name, one in lake.items())
        key = (access, shape)
        if key not in self._catalogs:
            for old in [old for old in self._catalogs if old[0] == access or len(self._catalogs) >= _CATALOGS_MAX]:
                self._catalogs.pop(old).close()
            self._catalogs[key] = Catalog(lake, access, self._comments, str(self._temp_dir))
        return self._catalogs[key]

    def _catalog_cursor(self, prepared: Prepared, query: Query, lake: Mapping[str, Glance]) -> Cursor:
        connection = self._connection(prepared, query, lake)
        with ExitStack() as stack:
            stack.callback(connection.close)
            try:
                kept = ExitStack()
                cursor = Cursor(connection, prepared.approved.text, LIMITS, Deadline(query.timeout_s), kept)
                kept.push(stack.pop_all())
                return cursor
            except QueryRejected as error:
                raise _located(connection, prepared.approved.select, error) from None

    def _connection(self, prepared: Prepared, query: Query, lake: Mapping[str, Glance]) -> duckdb.DuckDBPyConnection:
        names = [".".join(table.names).lower() for table in prepared.approved.tables]
        return self._catalog(lake, query.access).cursor(names, prepared.functions, query.facts)

    def _describe(self, query: Query) -> Described:
        lake = self._sql.glance()
        count = _parameters(query.text)
        oids = [*query.oids, *[0] * (count - len(query.oids))]
        if 0 in oids:
            named = _cast(query.text)
            oids = [oid or named.get(number, 0) for number, oid in enumerate(oids, 1)]
            asked = self._prepare(query, lake, lambda n: t.null_of(oids[n - 1]) if oids[n - 1] else f"${n}")
            inferred = self._planned(asked, query, lake, _inferred)
            oids = [oid or inferred.get(number, t.TEXT) for number, oid in enumerate(oids, 1)]
        prepared = self._prepare(query, lake, lambda n: t.null_of(oids[n - 1]))

        def columns(connection: duckdb.DuckDBPyConnection) -> tuple[Column, ...]:
            with bounded(connection, LIMITS, Deadline(query.timeout_s)):
                relation = connection.sql(prepared.approved.text)
                return _columns(prepared, tuple(relation.columns), renderable(relation))

        return Described(tuple(oids), self._planned(prepared, query, lake, lambda connection, _: columns(connection)))

    def _planned(
        self,
        prepared: Prepared,
        query: Query,
        lake: Mapping[str, Glance],
        look: Callable[[duckdb.DuckDBPyConnection, Prepared], Any],
    ) -> Any:
        """What `look` finds on a connection that has the statement's tables, those of the lake without rows."""
        if prepared.catalog:
            with closing(self._connection(prepared, query, lake)) as connection:
                return look(connection, prepared)
        return self._sql.outline(
            prepared.approved, query.access, query.timeout_s, lambda connection: look(connection, prepared)
        )


def _located(connection: duckdb.DuckDBPyConnection, text: str, error: QueryRejected) -> QueryRejected:
    """`error` with its place in `text`, which DuckDB tells only where it is asked for a plan."""
    rows = connection.execute("SELECT json_serialize_plan(?)", [text]).fetchall()
    plan = json.loads(rows[0][0])
    if not plan.get("error") or "position" not in plan:
        return error
    return QueryRejected(f"{plan['error_message']}{place(text, plan['position'])}", error.sqlstate)


def _parameters(text: str) -> int:
    return max((int(token.text[1:]) for token in tokens(text) if token.kind == "parameter"), default=0)


def _cast(text: str) -> dict[int, int]:
    """The oids of parameters that are cast where they stand: `$1::oid[]`."""
    found: dict[int, int] = {}
    listed = significant(text)
    for at, token in enumerate(listed[:-2]):
        if token.kind == "parameter" and listed[at + 1].text == "::":
            behind = [one.text for one in listed[at + 2 : at + 7]]
            if behind[1:2] == ["."]:
                behind = behind[2:]
            oid, is_list = type_named(behind[0].strip('"').lower()), behind[1:3] == ["[", "]"]
            found[int(token.text[1:])] = t.ARRAYS.get(oid, 0) if is_list else oid
    return {number: oid for number, oid in found.items() if oid}


def _inferred(connection: duckdb.DuckDBPyConnection, prepared: Prepared) -> dict[int, int]:
    """The oids of parameters, as far as DuckDB's plan tells them."""
    found: dict[int, int] = {}
    rows = connection.execute("SELECT json_serialize_plan(?)", [prepared.approved.select]).fetchall()
    stack: list[Any] = [json.loads(rows[0][0])]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if node.get("expression_class") == "BOUND_PARAMETER":
                kind = node["return_type"]["id"]
                found[int(node["identifier"])] = t.NUMERIC if kind == "DECIMAL" else t.oid_of(kind)
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    return found


def _columns(prepared: Prepared, names: tuple[str, ...], types: tuple[str, ...]) -> tuple[Column, ...]:
    written = prepared.column_names(names)
    return tuple(described(name, kind, prepared.catalog) for name, kind in zip(written, types, strict=True))


def _formats(formats: tuple[bool, ...], count: int) -> tuple[bool, ...]:
    if len(formats) <= 1:
        return (formats[0] if formats else False,) * count
    if len(formats) != count:
        raise QueryRejected(f"bind message has {len(formats)} result formats but query has {count} columns", "08P01")
    return formats
