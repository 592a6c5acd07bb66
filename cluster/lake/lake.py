"""The lake: Iceberg tables with exactly-once progress. `cluster.lake` alone imports pyiceberg.

Used by the writer and window workers (write), the committer (commit, expire), SQL and jobs (load).

Promise: what `commit` returned True for is in the table once, whatever died or was retried on the way.
"""

from __future__ import annotations

import copy
import itertools
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from eagleray.cluster.backup.hold import deleting
from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import BadCursor, ConfigError, EaglerayError, FilesLost
from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.events.stream import Stream
from eagleray.cluster.lake import predicate as p
from eagleray.cluster.lake.alteration import (
    Retyping,
    Unfitting,
    altered,
    check_columns,
    converted,
    has_extra,
    plan_retyping,
)
from eagleray.cluster.lake.catalog import kept_connection, metadata_location, open_catalog
from eagleray.cluster.lake.commit import NOTHING, commit
from eagleray.cluster.lake.commit import Beside as Beside
from eagleray.cluster.lake.commit_loop import settle
from eagleray.cluster.lake.damage import metadata_of
from eagleray.cluster.lake.expire import Expired, Expiry, Retention
from eagleray.cluster.lake.file_schema import file_schema
from eagleray.cluster.lake.job_tables import ensure_output
from eagleray.cluster.lake.parquet_files import FileWriter
from eagleray.cluster.lake.parquet_stream import SORT_BYTES, FileStream
from eagleray.cluster.lake.progress import decode
from eagleray.cluster.lake.replace import Change, drop, forward, keep, main_line, replace
from eagleray.cluster.lake.scan import Pinned
from eagleray.cluster.lake.schema_evolution import (
    TableChange,
    drop_columns,
    ensure_columns,
    ensure_table,
    iceberg_schema,
    planned_change,
    rename_columns,
)
from eagleray.cluster.lake.staged_files import Renewal, check_staged
from eagleray.cluster.lake.stream_tables import TableSpec, table_specs
from eagleray.cluster.windowing.page import Cursor, Range, page


class UnfittingValues(EaglerayError):
    """Values of a table do not fit the type that was asked for, and nothing keeps them besides."""


@dataclass(frozen=True)
class Retyped:
    """A table that was written anew: which columns, how many rows, and what did not fit, as a clause."""

    columns: tuple[str, ...]
    rows: int
    unfitting: str


class Lake:
    """All tables. Threads may share one; a pickled one is opened anew by the process that receives it."""

    def __init__(self, config: Config, catalog: Catalog, clock: Clock | None = None) -> None:
        """Use `Lake.open`."""
        self.config = config
        self._catalog = catalog
        self._tables: dict[str, Table] = {}  # as last read; replaced as wholes
        self._writers: dict[str, FileWriter] = {}
        self._claimed = False
        self._writer = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._clock = clock or SystemClock()
        self._expiry = Expiry(self._clock)

    @classmethod
    def open(cls, config: Config, clock: Clock | None = None) -> Lake:
        """Open the catalog; raises ConfigError where `lake.catalog` is wrong."""
        return cls(config, open_catalog(config), clock)

    def __reduce__(self) -> tuple[Any, ...]:
        return Lake.open, (self.config,)

    def ensure(
        self,
        streams: Mapping[str, Stream],
        said: Mapping[str, Mapping[str, str]] | None = None,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Create what is missing and bring tables up to `streams`; raises ConfigError where columns cannot change so.

        `said`: by stream, properties that all of its tables have besides. `say` hears of columns that are written anew,
        before and after, for that takes time.

        For the start of the platform, before workers run: a worker goes by the columns and partitions it found first.
        """
        file = str(self.config.file)
        with self.kept_connection():
            # 1. refuse, before anything changed  2. change
            changes = self.changes(streams)
            for change in changes:
                change.check(file)
            self._claim()
            for change in changes:
                self._rewrite(change, say)
            for stream in streams.values():
                for spec in table_specs(stream):
                    known = self.find(spec.name)
                    ensure_table(self._catalog, file, spec, (said or {}).get(stream.name, {}), known)
        self._writers.clear()

    def _rewrite(self, change: TableChange, say: Callable[[str], object]) -> None:
        """Write columns anew whose new type takes all that the old one did."""
        if not change.rewritten:
            return
        table = change.spec.name
        say(f"{table}: {'; '.join(map(str, change.rewritten))}; {self.pin(table).plan().rows:,} rows")
        try:
            done = self.retype(table, change.spec.columns)
        except UnfittingValues as error:
            how = f"`eagleray table migrate {table}` with --keep COLUMN=NAME or --lose"
            raise ConfigError(f"{self.config.file}: {change.spec.where}", f"{error}: run {how}") from None
        if done is not None:
            beyond = f"; beyond a double's 53 bits, so in _extra: {done.unfitting}" if done.unfitting else ""
            say(f"{table}: {', '.join(done.columns)} written anew, {done.rows:,} rows{beyond}")

    def _claim(self) -> None:
        """Before tables are made: raises ConfigError where an object store's folder belongs to another catalog."""
        if not self._claimed and self.config.warehouse.startswith("s3://"):
            from eagleray.cluster.lake.warehouse_claim import claim

            claim(self.config, self._catalog)
        self._claimed = True

    def ensure_output(
        self,
        name: str,
        schema: pa.Schema,
        partition_by: Sequence[str] = (),
        sort_by: Sequence[str] = (),
        *,
        where: str | None = None,
    ) -> None:
        """Create the table `name` of a job, or add columns, so that rows of `schema` fit.

        Raises ConfigError at `where`, the job's file and line; without one, at the configuration's file.
        """
        self._claim()
        layout = (tuple(partition_by), tuple(sort_by))
        ensure_output(self._catalog, self.find, where or str(self.config.file), name, schema, *layout)

    def changes(self, streams: Mapping[str, Stream]) -> list[TableChange]:
        """What `ensure` would do to each table of `streams`, and what it would refuse, without doing anything."""
        specs = [spec for stream in streams.values() for spec in table_specs(stream)]
        return [planned_change(self.find(spec.name), spec) for spec in specs]

    def retyping(self, table: str, wanted: pa.Schema) -> Retyping | None:
        """What gives `table` the types of `wanted`; None where it has them, or can widen to them."""
        return plan_retyping(self.load(table), iceberg_schema(wanted), {})

    def widen(self, table: str, wanted: pa.Schema) -> None:
        """Add and widen columns in place so that `table` has those of `wanted`; raises ConfigError where it cannot."""
        ensure_columns(self.load(table), str(self.config.file), TableSpec(table, wanted, "TABLE"))
        self._writers.pop(table, None)

    def rename_columns(self, table: str, renames: Mapping[FieldPath, str]) -> None:
        """Give columns other names; files stay as they are. Raises ConfigError for a name that cannot be."""
        rename_columns(self.load(table), renames)
        self._writers.pop(table, None)

    def drop_columns(self, table: str, columns: Sequence[FieldPath]) -> None:
        """Take columns out of the table; files keep them until they are written anew. Raises ConfigError."""
        drop_columns(self.load(table), columns)
        self._writers.pop(table, None)

    def rename_table(self, table: str, name: str) -> None:
        """Call `table` `name` from then on; its files stay where they are. Raises ConfigError for a name in use."""
        try:
            self._catalog.create_namespace_if_not_exists(name.split(".")[0])
            self._catalog.rename_table(table, name)
        except TableAlreadyExistsError:
            raise ConfigError(f"table {table}", f"there is a table {name} already") from None
        self._tables.pop(table, None)

    def drop_table(self, table: str) -> None:
        """Drop `table` and delete its files."""
        self._catalog.purge_table(table)
        self._tables.pop(table, None)
        self._writers.pop(table, None)

    def retype(
        self, table: str, wanted: pa.Schema, kept: Mapping[str, str] | None = None, *, lose: bool = False
    ) -> Retyped | None:
        """Write `table` anew with the types of `wanted`, in one commit; None where it has them, or can widen to them.

        A value that its new type cannot hold goes to `_extra` in a table of events; `kept` names, by column, what the
        old one is called from then on. Otherwise raises UnfittingValues, unless `lose`, and changes nothing.
        """
        loaded = self.load(table)
        plan = plan_retyping(loaded, iceberg_schema(wanted), kept or {})
        if plan is None:
            return None
        pinned, unfitting = Pinned(table, loaded), Unfitting()
        scan = pinned.plan()
        future, _, _ = altered(loaded, plan)
        with self._stream_to(future, SORT_BYTES, None) as out:
            out.write_all(converted(scan.batches(scan.columns), loaded.schema(), plan, unfitting))
            lost = {name: n for name, n in unfitting.counts.items() if name not in plan.kept}
            if lost and not lose and not has_extra(loaded.schema()):
                raise UnfittingValues(f"table {table}: {unfitting} do not fit their new type; nothing was changed")
            files = out.finish()
        change = Change(scan.data_files, files, base=pinned.snapshot_id, exclusive=True, retyping=plan)
        replace(lambda: self.load(table), change, self._clock)
        self._writers.pop(table, None)
        return Retyped(plan.changed, out.rows, str(unfitting))

    def tables(self, stream: str | None = None) -> list[str]:
        """Names of all tables, `stream.table`, sorted; or only those of `stream`, which is one question for a few."""
        namespaces = self._catalog.list_namespaces() if stream is None else [(stream,)]
        try:
            return sorted(".".join(name) for namespace in namespaces for name in self._catalog.list_tables(namespace))
        except NoSuchNamespaceError:
            if stream is None:
                raise
            return []

    def kept_connection(self) -> AbstractContextManager[None]:
        """A scope of this thread in which the catalog is asked over one connection: for many questions in a row."""
        return kept_connection(self._catalog)

    def load(self, table: str) -> Table:
        """The table as it is now, the caller's own copy. Metadata that did not change is not read again."""
        namespace, _, name = table.partition(".")
        location = metadata_location(self._catalog, namespace, name)
        known = self._tables.get(table)
        if known is None or location is None or known.metadata_location != location:
            with metadata_of(table, location):
                known = self._tables[table] = self._catalog.load_table(table)
        return copy.copy(known)  # a commit changes the object it was made with

    def find(self, table: str) -> Table | None:
        """The table as `load` has it; None where there is none."""
        try:
            return self.load(table)
        except NoSuchTableError:
            return None

    def columns(self, table: str) -> pa.Schema | None:
        """The table's columns, each with Iceberg's id and documentation; None where there is no such table."""
        found = self.find(table)
        return file_schema(found.schema()) if found is not None else None

    def pin(self, table: str, snapshot: int | str | None = None) -> Pinned:
        """The table for reading, now or at a snapshot or branch; raises ValueError where there is no such snapshot."""
        pinned = Pinned(table, self.load(table))
        return pinned if snapshot is None else pinned.at(snapshot)

    def write(self, table: str, rows: pa.Table) -> list[DataFile]:
        """Parquet files of `rows` for `table`: zstd, sorted, one or more per partition, durable, not yet committed.

        Columns go by name; absent optional ones are null. Raises ValueError for columns that do not fit, OSError where
        the warehouse cannot be written. The files pickle, for the process that commits.
        """
        writer = self._writers.get(table)
        if writer is None or writer.table.spec() != self.load(table).spec():  # another engine may change it
            writer = self._writers[table] = self._new_writer(table)
        return writer.write(rows)

    def named_now(self, table: str, rows: pa.Table) -> pa.Table:
        """`rows` under the names that their columns have in `table` by now; without those that it has no longer."""
        pinned = self.pin(table)
        called = {name: pinned.called(name) for name in rows.column_names}
        if all(name == now for name, now in called.items()):
            return rows
        kept = {now: name for name, now in called.items() if now is not None}
        return rows.select(list(kept.values())).rename_columns(list(kept))

    def _new_writer(self, table: str) -> FileWriter:
        return FileWriter(self.load(table), self.config.lake.file_bytes_max, self._writer, self._numbers)

    def stream(
        self,
        table: str,
        sort_bytes: int = SORT_BYTES,
        partition: Record | None = None,
        retyping: Retyping | None = None,
    ) -> FileStream:
        """A writer of any number of rows into files for `table` as it is now, not yet committed.

        `partition`: all rows are of this one, so that nobody has to look. `retyping`: for the table as it will be.
        """
        loaded = self.load(table)
        return self._stream_to(loaded if retyping is None else altered(loaded, retyping)[0], sort_bytes, partition)

    def _stream_to(self, table: Table, sort_bytes: int, partition: Record | None) -> FileStream:
        writer = FileWriter(table, self.config.lake.file_bytes_max, self._writer, self._numbers)
        return FileStream(writer, sort_bytes, partition, Renewal(self._clock))

    def stale(self, table: str, files: Sequence[DataFile]) -> bool:
        """Whether no commit would add `files` any more: they waited too long, are gone, or the table changed since.

        Their rows are to be written again, with the columns and partitions that the table has now.
        """
        loaded = self.load(table)
        try:
            check_staged(loaded, files, self._clock.now_us())
            check_columns(loaded, files)
        except FilesLost:
            self._writers.pop(table, None)
            return True
        if any(file.spec_id != loaded.spec().spec_id for file in files):
            self._writers.pop(table, None)
            return True
        return False

    def commit(
        self,
        table: str,
        files: Sequence[DataFile],
        begins: Mapping[str, int],
        ends: Mapping[str, int],
        beside: Beside = NOTHING,
    ) -> bool:
        """Append `files` and move the table's progress from `begins` to `ends` in one snapshot, exactly once.

        True: in the table, now or since before. Raises FilesLost where a file waited too long or is gone, CommitFailed
        where the table stands elsewhere, CommitUnknown where the outcome could not be read back, ValueError where
        progress does not move.
        """
        return commit(lambda: self.load(table), files, begins, ends, self._clock, beside)

    def newest_snapshot(self, table: str) -> int:
        """The id of the table's newest snapshot; 0: it has none, or is gone."""
        found = self.find(table)
        return (found.metadata.current_snapshot_id or 0) if found is not None else 0

    def replace(self, table: str, change: Change) -> int:
        """Swap files of `table` for others in one snapshot, exactly once beside any appends; returns its id.

        Raises CommitFailed where a file that goes is there no longer, or the table moved on: plan again.
        """
        return replace(lambda: self.load(table), change, self._clock)

    def forward(self, table: str, branch: str, properties: Mapping[str, str]) -> int:
        """Make main what was staged on `branch`, and set `properties`; raises CommitFailed where main moved on."""
        return forward(lambda: self.load(table), branch, properties)

    def keep_branch(self, table: str, branch: str, name: str, age_ms: int) -> int:
        """Let what was staged on `branch` stay readable as `name` for `age_ms`."""
        return keep(lambda: self.load(table), branch, name, age_ms)

    def history(self, table: str) -> list[tuple[int, Mapping[str, str]]]:
        """The snapshots that main came through, newest first: id and summary."""
        line = main_line(self.load(table).metadata)
        return [(s.snapshot_id, s.summary.additional_properties if s.summary else {}) for s in line]

    def snapshot_count(self, table: str) -> int:
        """How many snapshots the table keeps, of branches too."""
        return len(self.load(table).metadata.snapshots)

    def branches(self, table: str) -> list[str]:
        """Names of branches and tags besides main, sorted."""
        return sorted(set(self.load(table).metadata.refs) - {"main"})

    def properties(self, table: str) -> Mapping[str, str]:
        """The table's properties, fresh from the catalog; empty where there is no such table."""
        found = self.find(table)
        return found.properties if found is not None else {}

    def set_properties(self, table: str, properties: Mapping[str, str]) -> None:
        """Set properties of a table in a commit of their own; for what no data belongs to. Raises CommitFailed."""

        def there(found: Table) -> bool | None:
            return all(found.properties.get(key) == value for key, value in properties.items()) or None

        def put(found: Table) -> bool:
            found.transaction().set_properties(dict(properties)).commit_transaction()
            return True

        settle(lambda: self.load(table), there, put)

    def drop_branch(self, table: str, branch: str) -> None:
        """Forget what was staged on `branch`."""
        drop(lambda: self.load(table), branch)

    def progress(self, table: str) -> dict[str, int]:
        """How far the table is, fresh from the catalog; absent keys were never committed."""
        return decode(self.load(table).properties)

    def expire(self, table: str, retention: Retention | None = None) -> Expired:
        """Forget old snapshots, and delete the metadata and the data files that only they used.

        By default all but `lake.snapshots_kept` go; what replaced files stays for `lake.replaced_files_kept`. Nothing
        goes while a backup is taken: the next call will do.
        """
        lake = self.config.lake
        retention = retention or Retention(lake.snapshots_kept, 0, lake.replaced_files_kept)
        with deleting(self.config.data_dir) as allowed:
            return self._expiry.expire(self.load(table), retention) if allowed else Expired()

    def expirable(self, table: str, retention: Retention) -> bool:
        """Whether `expire` would find something."""
        return self._expiry.due(self.load(table), retention)

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of `table`, or some of its top-level columns, in memory: for tests and small tables."""
        return self.load(table).scan(selected_fields=tuple(columns or ("*",))).to_arrow()

    def window_rows(self, table: str, keys: Sequence[str], wanted: Range) -> pa.Table:
        """A page of a window's table in the order of `keys`; raises BadCursor.

        Files are read in the order in which their windows begin, and only until the page is full.
        """
        low = max((at for at in (wanted.from_us, _start(wanted.cursor)) if at is not None), default=None)
        limits: list[p.Predicate] = [p.Compare("window_start", ">=", low)] if low is not None else []
        limits += [p.Compare("window_start", "<", wanted.to_us)] if wanted.to_us is not None else []
        pinned = Pinned(table, self.load(table))
        columns = [column.name for column in pinned.columns]
        schema = pa.schema([pa.field(column.name, column.type) for column in pinned.columns])
        found = schema.empty_table()
        for begins, plan in pinned.plan(p.All(tuple(limits))).in_order_of("window_start"):
            if found.num_rows >= wanted.limit and _us(found, found.num_rows - 1) < begins:
                break  # no row of this file, or of a later one, comes before what there is
            for batch in plan.batches(columns):
                rows = pa.Table.from_batches([batch]).select(columns).cast(schema)
                found = page(pa.concat_tables([found, rows]), keys, wanted)
        return found


def _start(cursor: Cursor | None) -> int | None:
    if cursor is None:
        return None
    if not cursor or type(cursor[0]) is not int:
        raise BadCursor("it has no window_start")
    return cursor[0]


def _us(rows: pa.Table, at: int) -> int:
    return int(rows.column("window_start").slice(at, 1).cast(pa.int64())[0].as_py())
