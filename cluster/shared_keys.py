"""API keys where every node reaches them: the table `eagleray_keys` of the shared state's Postgres.

The same keys, names and rules as `api_keys` has in a file. An edge follows the table in a thread of its own, so that a
database that hangs holds up no request; while it cannot be read, the keys that were read last work.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from eagleray.cluster.api_keys import COLUMNS, POLL_S, ApiKey, KeyStore, Stored, digest_of, key_of
from eagleray.cluster.clock import Clock
from eagleray.cluster.database import open_postgres
from eagleray.cluster.errors import EaglerayError

CLOSE_S = 1.0
_CREATING = 7205759403794  # of the advisory lock under which the table is made
_TABLE = """
CREATE TABLE IF NOT EXISTS eagleray_keys (
    hash BYTEA PRIMARY KEY, name VARCHAR(63) NOT NULL, scopes TEXT NOT NULL, rate DOUBLE PRECISION,
    created_us BIGINT NOT NULL, revoked_us BIGINT, scram TEXT
)
"""
_ACTIVE = "CREATE UNIQUE INDEX IF NOT EXISTS eagleray_active_names ON eagleray_keys (name) WHERE revoked_us IS NULL"
_INSERT = sa.text("INSERT INTO eagleray_keys VALUES (:hash, :name, :scopes, :rate, :created_us, :revoked_us, :scram)")
_REVOKE = sa.text("UPDATE eagleray_keys SET revoked_us = :now WHERE name = :name AND revoked_us IS NULL RETURNING 1")
_ALL = sa.text(f"SELECT {COLUMNS} FROM eagleray_keys ORDER BY created_us, name")
_WORKING = sa.text(f"SELECT hash, {COLUMNS} FROM eagleray_keys WHERE revoked_us IS NULL")
_THERE = sa.text("SELECT to_regclass('eagleray_keys') IS NOT NULL")
# Rows are added and revoked, never deleted: the two numbers tell whether anything changed.
_CHANGES = sa.text("SELECT count(*), count(revoked_us) FROM eagleray_keys")


class SharedKeyStore(KeyStore):
    """Creates, lists and revokes keys in the database at `url`. Methods raise EaglerayError where it is away."""

    def __init__(self, url: str, file: Path, clock: Clock) -> None:
        """Nothing is connected yet. `file`: keys of before the state was shared; taken over where there are none."""
        super().__init__(file, clock)
        self._engine = open_postgres(url)

    def _insert(self, row: Stored) -> bool:
        names = ("hash", "name", "scopes", "rate", "created_us", "scram")
        try:
            with self._connected() as connection:
                connection.execute(_INSERT, {**dict(zip(names, row, strict=True)), "revoked_us": None})
        except sa.exc.IntegrityError:
            return False
        return True

    def keys(self) -> list[ApiKey]:
        """As KeyStore.keys."""
        with self._connected() as connection:
            return [key_of(tuple(row)) for row in connection.execute(_ALL)]

    def revoke(self, name: str) -> bool:
        """As KeyStore.revoke."""
        with self._connected() as connection:
            return connection.execute(_REVOKE, {"now": self._clock.now_us(), "name": name}).first() is not None

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CREATING})")
                if not sa.inspect(connection).has_table("eagleray_keys"):
                    connection.exec_driver_sql(_TABLE)
                    connection.exec_driver_sql(_ACTIVE)
                    self._take_over(connection)
                yield connection
        except sa.exc.IntegrityError:
            raise
        except sa.exc.SQLAlchemyError as error:
            raise EaglerayError(_told(error)) from error
        finally:
            self._engine.dispose()  # a command asks once

    def _take_over(self, connection: sa.Connection) -> None:
        """The keys of the file, revoked ones too, so that they go on working."""
        if not self._file.exists():
            return
        with closing(self._open()) as database:
            database.row_factory = sqlite3.Row
            for row in database.execute("SELECT * FROM keys"):
                connection.execute(_INSERT, dict(row))


class SharedKeyRing:
    """As KeyRing, over the database at `url`."""

    def __init__(self, url: str) -> None:
        """Follow the table from now on, in a thread."""
        self._engine = open_postgres(url)
        self._keys: dict[bytes, ApiKey] = {}
        self._names: dict[str, ApiKey] = {}
        self._seen: tuple[int, int] | None = None
        self._there = False  # the table was seen
        self.problem: str | None = "API keys were not read yet"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="api-keys", daemon=True)
        self._thread.start()

    @property
    def known(self) -> bool:
        """Whether the keys have been read at least once."""
        return self._seen is not None

    def find(self, key: str) -> ApiKey | None:
        """As KeyRing.find."""
        return self._keys.get(digest_of(key))

    def named(self, name: str) -> ApiKey | None:
        """As KeyRing.named."""
        return self._names.get(name)

    def refresh(self) -> None:
        """Nothing: the thread looks every POLL_S, and what ails is in `problem`."""

    def close(self) -> None:
        """Follow no more; a look that is under way may end later."""
        self._closing.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._follow()
                self.problem = None
            except sa.exc.SQLAlchemyError as error:
                self.problem = _told(error)
            self._closing.wait(POLL_S)
        self._engine.dispose()

    def _follow(self) -> None:
        with self._engine.connect() as connection:
            self._there = self._there or bool(connection.execute(_THERE).scalar())
            count, revoked = connection.execute(_CHANGES).one() if self._there else (0, 0)
            if (count, revoked) == self._seen:
                return
            rows: list[Any] = list(connection.execute(_WORKING)) if count else []
        keys = {bytes(row[0]): key_of(tuple(row[1:])) for row in rows}
        self._names = {key.name: key for key in keys.values()}
        self._keys, self._seen = keys, (count, revoked)


def _told(error: Exception) -> str:
    return f"API keys in the state's database: {' '.join(str(getattr(error, 'orig', None) or error).split())}"
