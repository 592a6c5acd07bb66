"""API keys: a SQLite file of hashes. Written by `eagleray keys`, read by every edge. A key itself is never stored.

A key is 256 random bits, so one SHA-256 of it is as strong as any slow hash and costs half a microsecond per request.
A revoked key stops working within POLL_S, without a restart.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from eagleray.cluster.clock import Clock

PREFIX = "er_"
POLL_S = 0.25  # how often an edge looks whether the file changed
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_TABLE = """
CREATE TABLE IF NOT EXISTS keys (
    hash BLOB PRIMARY KEY, name TEXT NOT NULL, scopes TEXT NOT NULL, rate REAL,
    created_us INTEGER NOT NULL, revoked_us INTEGER
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS active_names ON keys (name) WHERE revoked_us IS NULL;
"""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key: everything but the key."""

    name: str
    scopes: frozenset[str]
    rate: float | None = None  # events/s; None: no limit
    created_us: int = 0
    revoked_us: int | None = None

    def allows(self, scope: str) -> bool:
        """Whether the key may do what `scope` names; `admin` may do everything, `write:*` write every stream."""
        if scope in self.scopes or "admin" in self.scopes:
            return True
        return scope.startswith("write:") and "write:*" in self.scopes


ANONYMOUS = ApiKey("anonymous", frozenset({"admin"}))
"""Who asks where authentication is off."""


def check_scope(scope: str, streams: Collection[str]) -> str:
    """The scope as given; raises ValueError that names what there is."""
    stream = scope.removeprefix("write:")
    if scope in ("read", "admin", "write:*") or (stream != scope and stream in streams):
        return scope
    if stream != scope:
        raise ValueError(
            f"scope {scope!r}: no stream {stream!r}; expected one of {', '.join(sorted(streams)) or 'none'}"
        )
    raise ValueError(f"unknown scope {scope!r}; expected write:STREAM, write:*, read or admin")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _row(row: tuple[str, str, float | None, int, int | None]) -> ApiKey:
    name, scopes, rate, created_us, revoked_us = row
    return ApiKey(name, frozenset(scopes.split()), rate, created_us, revoked_us)


_COLUMNS = "name, scopes, rate, created_us, revoked_us"


class KeyStore:
    """Creates, lists and revokes keys in `file`, which is made on first use and readable by its owner only."""

    def __init__(self, file: Path, clock: Clock) -> None:
        """Nothing is opened yet."""
        self._file = file
        self._clock = clock

    def create(self, name: str, scopes: Iterable[str], rate: float | None = None) -> str:
        """Store a new key and return it, the only time it is seen; raises ValueError for a bad or taken name."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a key's name; expected letters, digits and . _ @ -, at most 63")
        if rate is not None and not 0 < rate < float("inf"):
            raise ValueError(f"a rate of {rate:g} events/s; expected a number above 0")
        key = PREFIX + secrets.token_urlsafe(32)
        row = (_digest(key), name, " ".join(sorted(set(scopes))), rate, self._clock.now_us())
        try:
            with closing(self._open()) as database, database:
                database.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, NULL)", row)
        except sqlite3.IntegrityError:
            raise ValueError(f"a key called {name!r} exists; revoke it first or take another name") from None
        return key

    def keys(self) -> list[ApiKey]:
        """All keys, revoked ones too, oldest first."""
        if not self._file.exists():
            return []
        with closing(self._open()) as database:
            return [_row(row) for row in database.execute(f"SELECT {_COLUMNS} FROM keys ORDER BY created_us, name")]

    def revoke(self, name: str) -> bool:
        """Revoke the key called `name`; False if there is none."""
        if not self._file.exists():
            return False
        with closing(self._open()) as database, database:
            statement = "UPDATE keys SET revoked_us = ? WHERE name = ? AND revoked_us IS NULL"
            return database.execute(statement, (self._clock.now_us(), name)).rowcount == 1

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(self._file, timeout=5.0)
        database.executescript(_TABLE)
        return database


class KeyRing:
    """The keys that work now, for lookups on every request; follows changes of the file. For one thread."""

    def __init__(self, file: Path) -> None:
        """A file that does not exist yet holds no keys."""
        self._file = file
        self._database: sqlite3.Connection | None = None
        self._seen: tuple[int, int] | None = None  # inode, data version
        self._look_again = 0.0
        self._keys: dict[bytes, ApiKey] = {}
        self.problem: str | None = None  # why the file could not be read when last looked at

    def find(self, key: str) -> ApiKey | None:
        """Who holds `key`; None for unknown and revoked ones. While the file cannot be read, the last keys work."""
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + POLL_S
            self.refresh()
        return self._keys.get(_digest(key))

    def refresh(self) -> None:
        """Read the file again if it changed; a failure is kept in `problem`."""
        try:
            self._follow()
            self.problem = None
        except FileNotFoundError:
            self.close()
            self._keys, self.problem = {}, None
        except (OSError, sqlite3.Error) as error:
            self.close()
            self.problem = f"{self._file}: {error}"

    def close(self) -> None:
        """Close the file; the next look opens it again."""
        if self._database is not None:
            self._database.close()
        self._database = self._seen = None

    def _follow(self) -> None:
        inode = self._file.stat().st_ino
        if self._seen is not None and self._seen[0] != inode:
            self.close()  # the file was replaced
        if self._database is None:
            self._database = sqlite3.connect(f"{self._file.absolute().as_uri()}?mode=ro", uri=True, timeout=0.1)
        (version,) = self._database.execute("PRAGMA data_version").fetchone()
        if self._seen == (inode, version):
            return
        rows = self._database.execute(f"SELECT hash, {_COLUMNS} FROM keys WHERE revoked_us IS NULL")
        self._keys = {row[0]: _row(row[1:]) for row in rows}
        self._seen = (inode, version)
