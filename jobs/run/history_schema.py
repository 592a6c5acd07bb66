"""The tables of the jobs' history, the same in SQLite and Postgres, and the version that guards them.

Times are microseconds since the Unix epoch. `jobs.run.history` reads and writes them.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError

from eagleray.cluster.database import open_postgres
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.file_lock import locked_beside
from eagleray.cluster.machine_errors import advice

VERSION = "1"
BUSY_TIMEOUT_S = 30
_ADVICE = "see that it can be reached and written, or restore it from a backup"

metadata = sa.MetaData()
_big = sa.BigInteger()

meta = sa.Table(
    "eagleray_meta",
    metadata,
    sa.Column("key", sa.String(40), primary_key=True),
    sa.Column("value", sa.String(40), nullable=False),
)
runs = sa.Table(
    "eagleray_runs",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("kind", sa.String(20), nullable=False),  # run, backfill, schedule, late
    sa.Column("what", sa.Text, nullable=False),  # the selection, such as `--all` or the jobs' names
    sa.Column("date", sa.String(40), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("owner", sa.String(200), nullable=False),  # the process that runs it
    sa.Column("started_us", _big, nullable=False),
    sa.Column("seen_us", _big, nullable=False),  # its owner lived
    sa.Column("ended_us", _big),
    sa.Column("resumes", sa.String(40)),
    sa.Index("eagleray_runs_started", "started_us"),
)
nodes = sa.Table(
    "eagleray_nodes",
    metadata,
    sa.Column("run", sa.String(40), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("job", sa.String(80), nullable=False),
    sa.Column("period", sa.String(40), nullable=False),
    sa.Column("output", sa.String(200), nullable=False),
    sa.Column("fingerprint", sa.String(40), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("started_us", _big),
    sa.Column("ended_us", _big),
    sa.Column("rows", _big),
    sa.Column("bytes", _big),
    sa.Column("files", _big),
    sa.Column("snapshot_id", _big),
    sa.Column("inputs", sa.JSON),  # table → snapshot and position
    sa.Index("eagleray_nodes_job", "job", "period", "ended_us"),
)
attempts = sa.Table(
    "eagleray_attempts",
    metadata,
    sa.Column("run", sa.String(40), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("started_us", _big, nullable=False),
    sa.Column("ended_us", _big),
    sa.Column("kind", sa.String(20)),  # succeeded, or the kind of failure
    sa.Column("message", sa.Text),
)
checks = sa.Table(
    "eagleray_checks",
    metadata,
    sa.Column("run", sa.String(40), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(400), primary_key=True),
    sa.Column("bad_rows", _big, nullable=False),
    sa.Column("sample", sa.JSON),
)
claims = sa.Table(
    "eagleray_claims",  # of the schedule: who claims a period runs it, and nobody else
    metadata,
    sa.Column("job", sa.String(80), primary_key=True),
    sa.Column("period", sa.String(40), primary_key=True),
    sa.Column("tick_us", _big, nullable=False),
    sa.Column("claimed_us", _big, nullable=False),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("run", sa.String(40)),
    sa.Column("state", sa.String(20), nullable=False),  # seen, claimed, or how it ended
)
leases = sa.Table(
    "eagleray_leases",  # of output tables: one run at a time writes a table
    metadata,
    sa.Column("output", sa.String(200), primary_key=True),
    sa.Column("run", sa.String(40), nullable=False),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("until_us", _big, nullable=False),
)

messages = sa.Table(
    "eagleray_messages",  # to be delivered, or delivered (`jobs.notify.outbox`)
    metadata,
    sa.Column("target", sa.String(80), primary_key=True),  # empty: noted only
    sa.Column("event", sa.String(20), primary_key=True),
    sa.Column("job", sa.String(80), primary_key=True),
    sa.Column("period", sa.String(40), primary_key=True),
    sa.Column("run", sa.String(40), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("created_us", _big, nullable=False),
    sa.Column("due_us", _big, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),  # waiting, sent, failed
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("inputs", sa.JSON),
    sa.Index("eagleray_messages_due", "state", "due_us"),
)
paused = sa.Table(
    "eagleray_paused",  # jobs that their schedules do not start
    metadata,
    sa.Column("job", sa.String(80), primary_key=True),
    sa.Column("since_us", _big, nullable=False),
    sa.Column("owner", sa.String(200), nullable=False),  # the process that said so
)


def insert(connection: Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An insert into `table` that can leave alone what is there: SQLite and Postgres each have their own."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def open_engine(url: str, where: str) -> Engine:
    """Connect to the history at `url` and create it on first use; raises ConfigError that names `where`."""
    try:
        address = sa.make_url(url)
        if address.get_backend_name() == "sqlite":
            engine = sa.create_engine(address, connect_args={"timeout": BUSY_TIMEOUT_S})
            sa.event.listen(engine, "connect", _on_connect)
            sa.event.listen(engine, "begin", _begin_immediate)
        elif address.get_backend_name() == "postgresql":
            engine = open_postgres(url)
        else:
            engine = sa.create_engine(address, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(where, f"{error}; expected sqlite:///FILE or postgresql://USER@HOST/DATABASE") from error
    try:
        _ensure(engine, where)
    except (DatabaseError, sqlite3.Error, OSError) as error:  # locked, full, away; else no database of ours
        engine.dispose()
        place = engine.url.database if engine.dialect.name == "sqlite" else engine.url.host
        cause = error.orig if isinstance(error, DatabaseError) else error
        raise ConfigError(where, f"{place} cannot be opened: {cause}; {advice(error) or _ADVICE}") from error
    except ConfigError:
        engine.dispose()
        raise
    return engine


def _write_ahead(file: Path) -> None:
    """Make the database one of a write-ahead log, which stays with the file.

    SQLite waits for nobody when it changes the mode: of two that open a new file at once, one would fail.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked_beside(file), closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_S)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _on_connect(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions begin as `_begin_immediate` says, not as the driver thinks
    connection.execute("PRAGMA synchronous=FULL")  # a claim that a power cut takes back would be run twice


def _begin_immediate(connection: Connection) -> None:
    # A deferred transaction that reads first and then writes fails when another has written in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _ensure(engine: Engine, where: str) -> None:
    if engine.dialect.name == "sqlite":
        _write_ahead(Path(engine.url.database or "").absolute())
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7205759403792)")  # one creates, others wait
        if not sa.inspect(connection).has_table(meta.name):
            metadata.create_all(connection)
            connection.execute(sa.insert(meta).values(key="version", value=VERSION))
        elif not sa.inspect(connection).has_table(paused.name):
            metadata.create_all(connection, tables=[messages, paused])  # a history of before they were known
        found = connection.execute(sa.select(meta.c.value).where(meta.c.key == "version")).scalar()
    if found != VERSION:
        raise ConfigError(
            where, f"the history is of version {found}, this Eagleray writes version {VERSION}; use another database"
        )
