"""Tables of the lake for code outside of SQL: notebooks, scripts, training, and functions of jobs.

    eagleray.connect("path/to/project").dataset("wiki_edits.events", columns=["time", "page"]).polars()

Reads the lake's files; nothing has to run. Re-exported by `eagleray`.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import QueryRejected
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.cluster.lake.scan import Pinned
from eagleray.cluster.near_names import instead
from eagleray.jobs.engines.context import current
from eagleray.jobs.engines.duckdb import DuckDb, limits_of
from eagleray.jobs.engines.rows import Rows
from eagleray.jobs.engines.table_types import shaped
from eagleray.jobs.project.declare import TableInput, listed
from eagleray.jobs.project.inputs import TABLE, Inputs
from eagleray.jobs.project.signature import selection
from eagleray.jobs.query_result import ROWS_SHOWN, QueryResult
from eagleray.sql.query import Sql
from eagleray.sql.session import readable
from eagleray.sql.tables import Declared

CONFIG_FILE = "eagleray.yaml"
TIMEOUT_S = 3_600.0  # of one reading
_until_exit = ExitStack()
atexit.register(_until_exit.close)
Snapshot = int | str | datetime
"""A snapshot's id, or a time: the table as it was then. Text is ISO 8601, in UTC unless it says otherwise."""


class Dataset(Rows):
    """Rows of a table at one snapshot; each method reads them anew, in its form.

    What `duckdb` and `polars_lazy` return is read later, so it stays open until `close` or the end of the process.
    """

    def __init__(self, config: Config, pinned: Pinned, text: str, tables: Mapping[str, Declared]) -> None:
        """Use `Connection.dataset`."""
        self._config = config
        self._pinned = pinned
        self._release = ExitStack()
        super().__init__(text, tables, lambda: self._opened(_until_exit.enter_context(self._release)))

    @property
    def snapshot_id(self) -> int | None:
        """The snapshot that is read; None where nothing was ever committed. Keep it beside a trained model."""
        return self._pinned.snapshot_id

    def batches(self) -> pa.RecordBatchReader:
        """Arrow record batches, one after another: for more than fits into memory."""
        release = ExitStack()
        try:
            reader = shaped(self._opened(release).stream_of(self._text))
        except BaseException:
            release.close()
            raise
        return pa.RecordBatchReader.from_batches(reader.schema, _released(reader, release))

    def close(self) -> None:
        """End relations and lazy frames that were made of this."""
        self._release.close()

    def sql(self, text: str) -> QueryResult:
        """The answer to a query that calls these rows `this`: `SELECT page, count(*) FROM this GROUP BY page`.

        Other tables are read as `Connection.sql` reads them. Raises QueryRejected, QueryFailed.
        """
        more = text.lstrip()
        rest = f", {more[4:]}" if more[:5].lower().rstrip() == "with" else f" {text}"
        return Connection(self._config, {self._pinned.name: self._pinned}).sql(f"WITH this AS ({self._text}){rest}")

    def _repr_html_(self) -> str:
        """The first rows as a table, for notebooks."""
        return self.sql(f"SELECT * FROM this LIMIT {ROWS_SHOWN}")._repr_html_()

    def _opened(self, release: ExitStack) -> DuckDb:
        temp = tempfile.mkdtemp(prefix="eagleray-dataset-")
        release.callback(shutil.rmtree, temp, ignore_errors=True)
        limits = limits_of(self._config.lake.query_memory_max, os.cpu_count() or 1, temp, "lake.query_memory_max")
        return DuckDb.open(self._tables.values(), [self._text], limits, temp, TIMEOUT_S, release)


def _released(reader: pa.RecordBatchReader, release: ExitStack) -> Iterator[pa.RecordBatch]:
    with release:
        yield from reader


class Connection:
    """The lake of a project."""

    def __init__(self, config: Config, pinned: Mapping[str, Pinned] | None = None) -> None:
        """`pinned`: tables that are read as they are there."""
        self._config = config
        self._pinned = dict(pinned or {})

    def sql(self, text: str, timeout_s: float = TIMEOUT_S) -> QueryResult:
        """The answer to a query, within the limits of `eagleray sql`; raises QueryRejected, QueryFailed.

        All of its tables are read at one instant.
        """
        with Sql(self._config) as sql:
            return QueryResult(sql.query(text, timeout_s, pinned=self._pinned))

    def tables(self) -> list[str]:
        """Every table as `namespace.table`, sorted."""
        with readable("the lake"):
            return open_snapshots(self._config).names()

    def dataset(
        self,
        name: str,
        *,
        columns: str | Sequence[str] | None = None,
        where: str | None = None,
        snapshot: Snapshot | None = None,
    ) -> Dataset:
        """The table `name`: some columns or one, the rows for which the SQL condition `where` holds, as of `snapshot`.

        Pinned now and read later. Raises QueryRejected for a table, a snapshot or a condition that is not there or not
        allowed; a column that is not there is found where rows are read.
        """
        if not re.fullmatch(TABLE, name):
            raise QueryRejected(f"{name!r} is no table; expected namespace.table")
        text = selection(TableInput(name, listed(columns), where))
        with Inputs() as inputs:
            names = inputs.of(text)
        tables = {table: Declared(pinned) for table, pinned in self._pin(names).items()}
        if snapshot is not None:
            tables[name] = Declared(_at(tables[name].pinned, snapshot))
        return Dataset(self._config, tables[name].pinned, text, tables)

    def _pin(self, names: Sequence[str]) -> dict[str, Pinned]:
        missing = [name for name in names if name not in self._pinned]
        with readable("the lake"):
            lake = open_snapshots(self._config)
            pinned = {**self._pinned, **lake.pin(missing)} if missing else self._pinned
            for name in names:
                if name not in pinned:
                    raise QueryRejected(f"table {name} does not exist{instead(name, lake.names())}")
        return {name: pinned[name] for name in names}


_default: list[Connection] = []


def connect(project: str | Path | Config = ".") -> Connection:
    """The lake of a project: its folder, its eagleray.yaml, or a configuration. `dataset` reads from it from now on.

    Raises ConfigError where the configuration cannot be read.
    """
    connection = Connection(project if isinstance(project, Config) else load_config(_file(Path(project))))
    _default[:] = [connection]
    return connection


def dataset(
    name: str,
    *,
    columns: str | Sequence[str] | None = None,
    where: str | None = None,
    snapshot: Snapshot | None = None,
) -> Dataset:
    """`Connection.dataset` of the job that is running, else of the last `connect`, else of ./eagleray.yaml.

    In a job, its inputs are read at the snapshots that the run was given.
    """
    return _connection().dataset(name, columns=columns, where=where, snapshot=snapshot)


def query(text: str) -> QueryResult:
    """`Connection.sql` of the last `connect`, else of ./eagleray.yaml."""
    return _connection().sql(text)


def _connection() -> Connection:
    if work := current():
        return Connection(work.config, {name: table.pinned for name, table in work.tables.items()})
    return _default[0] if _default else connect()


def _file(project: Path) -> Path:
    return project / CONFIG_FILE if project.is_dir() else project


def _at(pinned: Pinned, snapshot: Snapshot) -> Pinned:
    try:
        if isinstance(snapshot, str):
            snapshot = datetime.fromisoformat(snapshot)
        if isinstance(snapshot, datetime) and snapshot.tzinfo is None:
            snapshot = snapshot.replace(tzinfo=UTC)
        return pinned.at(snapshot)
    except ValueError as error:
        raise QueryRejected(f"snapshot: {error}") from None
