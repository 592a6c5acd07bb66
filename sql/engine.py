"""DuckDB, one instance per query, locked: bounded memory and time, no files but those named, no settings or extensions.

Called by `sql.query`. Turns DuckDB's errors into QueryRejected (the query is wrong) and QueryFailed (it could not
be completed within its limits).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import duckdb
import pyarrow as pa

from eagleray.cluster.errors import QueryFailed, QueryRejected

BATCH_ROWS = 16_384
MIB = 1 << 20
_WRONG = (
    duckdb.ParserException,
    duckdb.SyntaxException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.PermissionException,
    duckdb.NotImplementedException,
)
_SAID: tuple[tuple[str, str], ...] = (
    ("Referenced column", "42703"),
    ("does not have a column", "42703"),
    ("Referenced table", "42P01"),
    ("No function matches", "42883"),
    ("Function with name", "42883"),
    ("Could not convert", "22P02"),
    ("Conversion Error", "22P02"),
    ("out of range", "22003"),
    ("Overflow", "22003"),
)
_STATES: tuple[tuple[type[Exception], str], ...] = (
    (duckdb.ParserException, "42601"),
    (duckdb.SyntaxException, "42601"),
    (duckdb.CatalogException, "42P01"),
    (duckdb.BinderException, "42804"),
    (duckdb.PermissionException, "42501"),
    (duckdb.NotImplementedException, "0A000"),
    (duckdb.ConversionException, "22P02"),
    (duckdb.OutOfRangeException, "22003"),
    (duckdb.InvalidInputException, "22023"),
)
_UNRENDERED = ("BIT", "BIGNUM", "TIME WITH TIME ZONE", "UNION", "VARIANT", "GEOMETRY")


@dataclass(frozen=True)
class Limits:
    """What one query may use."""

    memory_bytes_max: int
    temp_bytes_max: int = 4096 * MIB  # spilled by sorts, joins and aggregates
    rows_max: int = 1_000_000  # of the result
    bytes_max: int = 256 * MIB  # of the result
    threads: int = 2
    setting: str = "lake.query_memory_max"  # to be named where memory_bytes_max is not enough


class Deadline:
    """When a query has to be done."""

    def __init__(self, timeout_s: float, spent_s: float = 0.0) -> None:
        """`timeout_s` from now, less what was spent of them."""
        self.timeout_s = timeout_s
        self._end = monotonic() + timeout_s - spent_s

    def left_s(self) -> float:
        """Seconds left; raises QueryFailed when there are none."""
        left = self._end - monotonic()
        if left <= 0:
            raise self.passed()
        return left

    def passed(self) -> QueryFailed:
        """The error for a query that took too long."""
        return QueryFailed(f"the query was stopped after its time limit of {self.timeout_s:g} s", "57014")


@dataclass(frozen=True)
class Answer:
    """A result. `types` are DuckDB's names of the columns' types."""

    table: pa.Table
    types: tuple[str, ...]


def connect(limits: Limits, temp_dir: str) -> duckdb.DuckDBPyConnection:
    """A new instance in memory, which spills into `temp_dir`. Not locked yet: see `lock`."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "max_temp_directory_size": f"{max(1, limits.temp_bytes_max)}B",  # 0 would be no limit at all
            "memory_limit": f"{limits.memory_bytes_max}B",
            "python_enable_replacements": "false",
            "temp_directory": temp_dir,
            "threads": str(limits.threads),
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def lock(connection: duckdb.DuckDBPyConnection, files: Sequence[str] = ()) -> None:
    """From here on the instance can open `files` and nothing else, and none of this can be changed."""
    if files:
        connection.execute(f"SET allowed_paths = [{', '.join(map(literal, files))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def run(connection: duckdb.DuckDBPyConnection, text: str, limits: Limits, deadline: Deadline) -> Answer:
    """Run one statement; raises QueryRejected or QueryFailed."""
    with bounded(connection, limits, deadline):
        relation = connection.sql(text)
        types = renderable(relation)
        reader = relation.to_arrow_reader(BATCH_ROWS)
        return Answer(_collect(reader, limits), types)


def renderable(relation: duckdb.DuckDBPyRelation) -> tuple[str, ...]:
    """DuckDB's names of the columns' types; raises QueryRejected for one that Arrow cannot hold."""
    types = tuple(str(kind).strip('"') for kind in relation.types)
    for name, kind in zip(relation.columns, types, strict=True):
        if kind.startswith(_UNRENDERED):
            raise QueryRejected(f"the column {name} has the type {kind}; cast it, for example to VARCHAR", "0A000")
    return types


def _collect(reader: pa.RecordBatchReader, limits: Limits) -> pa.Table:
    batches, rows, size = [], 0, 0
    for batch in reader:
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows > limits.rows_max:
            raise QueryFailed(f"the result has more than {limits.rows_max} rows; aggregate, or add a LIMIT")
        if size > limits.bytes_max:
            raise QueryFailed(f"the result has more than {limits.bytes_max // MIB} MiB; aggregate, or add a LIMIT")
        batches.append(batch)
    return pa.Table.from_batches(batches, schema=reader.schema)


@contextmanager
def bounded(connection: duckdb.DuckDBPyConnection, limits: Limits, deadline: Deadline) -> Iterator[None]:
    """Interrupt what runs inside at the deadline; raise what goes wrong as QueryRejected or QueryFailed."""
    timer = threading.Timer(deadline.left_s(), connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except _WRONG as error:
        raise QueryRejected(_message(error), _state(error)) from None
    except (duckdb.Error, pa.ArrowException, OSError, MemoryError) as error:
        raise _failure(error, limits, deadline) from None
    finally:
        timer.cancel()


def _failure(error: Exception, limits: Limits, deadline: Deadline) -> QueryFailed:
    text = str(error)
    if isinstance(error, duckdb.InterruptException) or text.startswith("INTERRUPT"):
        return deadline.passed()
    if isinstance(error, duckdb.OutOfMemoryException | MemoryError) or "Out of Memory Error" in text:
        return QueryFailed(
            f"the query needs more than its {limits.memory_bytes_max // MIB} MiB of memory and"
            f" {limits.temp_bytes_max // MIB} MiB of temporary files ({limits.setting})",
            "53200",
        )
    return QueryFailed(_message(error), _state(error))


def _state(error: Exception) -> str:
    """SQL's code for an error of DuckDB; empty where there is none of its own."""
    text = str(error)
    found = next((code for said, code in _SAID if said in text), "")
    return found or next((code for kind, code in _STATES if isinstance(error, kind)), "")


def _message(error: Exception) -> str:
    """DuckDB's message without the name of the error's class and without stack traces, its own or Python's."""
    text = str(error).split("\n\nStack Trace")[0].strip()
    if text.startswith("Traceback "):  # of a file that `sql.remote_files` could not read
        return text.splitlines()[-1].partition(": ")[2]
    head, colon, rest = text.partition(": ")
    return rest if colon and head.endswith(" Error") else text


def literal(text: str) -> str:
    """`text` as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
