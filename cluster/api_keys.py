"""API keys: a SQLite file of hashes, or rows of shared state (`shared_keys`). A key itself is never stored.

Written by `eagleray keys`, read by every edge.

Beside its hash each key has a verifier for SCRAM, by which Postgres' clients prove that they hold it (`cluster.scram`).
Older keys have no verifier, and to make one takes the key itself.

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
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from eagleray.cluster.access import DEAD_LETTERS, READ, TableAccess
from eagleray.cluster.clock import Clock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.scram import new_verifier

PREFIX = "er_"
_DAMAGED = "restore the file from a backup (`eagleray restore`), or remove it and make new keys"
ANY_READ = "read:*"
"""What a call needs that answers each key with what that key may see: `read`, `dead_letters`, or either of one name."""
POLL_S = 0.25  # how often an edge looks whether the file changed
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_TABLE = """
CREATE TABLE IF NOT EXISTS keys (
    hash BLOB PRIMARY KEY, name TEXT NOT NULL, scopes TEXT NOT NULL, rate REAL,
    created_us INTEGER NOT NULL, revoked_us INTEGER, scram TEXT
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
    scram: str | None = field(default=None, compare=False, repr=False)  # the verifier; None: of an older key

    def allows(self, scope: str) -> bool:
        """Whether the key may do what `scope` names.

        `admin` may do everything; `write:*` writes every stream; `read` and `dead_letters` hold for every name.
        """
        if scope in self.scopes or "admin" in self.scopes:
            return True
        kind, _, name = scope.partition(":")
        if kind == "write":
            return "write:*" in self.scopes
        if scope == ANY_READ:
            return any(held.partition(":")[0] in (READ, DEAD_LETTERS) for held in self.scopes)
        return bool(name) and kind in self.scopes

    @property
    def tables(self) -> TableAccess:
        """The tables that the key may read."""
        return TableAccess.of(self.scopes)


ANONYMOUS = ApiKey("anonymous", frozenset({"admin"}))
"""Who asks where authentication is off."""

_KINDS = {"write": "stream", READ: "namespace", DEAD_LETTERS: "stream"}  # of scopes, and what their names are of


def check_scope(scope: str, streams: Collection[str], outputs: Callable[[], Collection[str]] = tuple) -> str:
    """The scope as given; raises ValueError that names what there is.

    `outputs` are the namespaces that jobs write to; asked only where a scope names none of the streams.
    """
    kind, colon, name = scope.partition(":")
    if scope in (READ, DEAD_LETTERS, "admin", "write:*") or (colon and kind in _KINDS and name in streams):
        return scope
    if not colon or kind not in _KINDS:
        expected = "write:STREAM, write:*, read, read:NAMESPACE, dead_letters, dead_letters:STREAM or admin"
        raise ValueError(f"unknown scope {scope!r}; expected {expected}")
    there = {*streams, *(outputs() if kind == READ else ())}
    if name not in there:
        what = _KINDS[kind]
        raise ValueError(f"scope {scope!r}: no {what} {name!r}; expected one of {', '.join(sorted(there)) or 'none'}")
    return scope


def digest_of(key: str) -> bytes:
    """The hash under which a key is stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


Stored = tuple[bytes, str, str, float | None, int, str]
"""A new key as it is stored: its hash, name, scopes, rate, when it was made, and its verifier."""


def key_of(row: tuple[str, str, float | None, int, int | None, str | None]) -> ApiKey:
    """What is known of a key, from the values of COLUMNS."""
    name, scopes, rate, created_us, revoked_us, verifier = row
    return ApiKey(name, frozenset(scopes.split()), rate, created_us, revoked_us, verifier)


COLUMNS = "name, scopes, rate, created_us, revoked_us, scram"
"""Of a key, without its hash."""


def _with_verifiers(database: sqlite3.Connection) -> bool:
    return any(column[1] == "scram" for column in database.execute("PRAGMA table_info(keys)"))


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
        row = (digest_of(key), name, " ".join(sorted(set(scopes))), rate, self._clock.now_us(), new_verifier(key).text)
        if not self._insert(row):
            raise ValueError(f"a key called {name!r} exists; revoke it first or take another name")
        return key

    def _insert(self, row: Stored) -> bool:
        try:
            with closing(self._open()) as database, database:
                database.execute(f"INSERT INTO keys (hash, {COLUMNS}) VALUES (?, ?, ?, ?, ?, NULL, ?)", row)
        except sqlite3.IntegrityError:
            return False
        return True

    def keys(self) -> list[ApiKey]:
        """All keys, revoked ones too, oldest first."""
        if not self._file.exists():
            return []
        with closing(self._open()) as database:
            return [key_of(row) for row in database.execute(f"SELECT {COLUMNS} FROM keys ORDER BY created_us, name")]

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
        try:
            database.executescript(_TABLE)
            if not _with_verifiers(database):  # of a file from before there were any
                database.execute("ALTER TABLE keys ADD COLUMN scram TEXT")
        except sqlite3.DatabaseError as error:
            database.close()
            if isinstance(error, sqlite3.OperationalError):  # full, locked, read-only
                raise
            raise ConfigError(str(self._file), f"{error}: the API keys cannot be read; {_DAMAGED}") from error
        return database


class KeyRing:
    """The keys that work now, for lookups on every request; follows changes of the file. For one thread at a time."""

    def __init__(self, file: Path) -> None:
        """A file that does not exist yet holds no keys."""
        self._file = file
        self._database: sqlite3.Connection | None = None
        self._seen: tuple[int, int] | None = None  # inode, data version
        self._look_again = 0.0
        self._keys: dict[bytes, ApiKey] = {}
        self._names: dict[str, ApiKey] = {}
        self.problem: str | None = None  # why the file could not be read when last looked at
        self.known = True  # a file that was never there holds no keys

    def find(self, key: str) -> ApiKey | None:
        """Who holds `key`; None for unknown and revoked ones. While the file cannot be read, the last keys work."""
        self._poll()
        return self._keys.get(digest_of(key))

    def named(self, name: str) -> ApiKey | None:
        """The working key of that name, for who has proven the name otherwise; as `find`."""
        self._poll()
        return self._names.get(name)

    def _poll(self) -> None:
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + POLL_S
            self.refresh()

    def refresh(self) -> None:
        """Read the file again if it changed; a failure is kept in `problem`."""
        try:
            self._follow()
            self.problem = None
        except FileNotFoundError:
            self.close()
            self._keys, self._names, self.problem = {}, {}, None
        except (OSError, sqlite3.Error) as error:
            self.close()
            self.problem = f"{self._file.name}: {error}"

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
            uri = f"{self._file.absolute().as_uri()}?mode=ro"
            self._database = sqlite3.connect(uri, uri=True, timeout=0.1, check_same_thread=False)
        (version,) = self._database.execute("PRAGMA data_version").fetchone()
        if self._seen == (inode, version):
            return
        columns = COLUMNS if _with_verifiers(self._database) else COLUMNS.replace("scram", "NULL")
        rows = self._database.execute(f"SELECT hash, {columns} FROM keys WHERE revoked_us IS NULL")
        self._keys = {row[0]: key_of(row[1:]) for row in rows}
        self._names = {key.name: key for key in self._keys.values()}
        self._seen = (inode, version)


class Ring(Protocol):
    """What an edge asks of keys."""

    problem: str | None

    @property
    def known(self) -> bool:
        """Whether the keys have been read at least once; until then, no key may be refused as unknown."""
        ...

    def find(self, key: str) -> ApiKey | None:
        """As KeyRing.find."""
        ...

    def named(self, name: str) -> ApiKey | None:
        """As KeyRing.named."""
        ...

    def refresh(self) -> None:
        """As KeyRing.refresh."""
        ...

    def close(self) -> None:
        """As KeyRing.close."""
        ...


def open_keys(config: Config, clock: Clock) -> KeyStore:
    """Where the configuration keeps API keys."""
    if config.state.backend == "embedded":
        return KeyStore(config.keys_file, clock)
    from eagleray.cluster.shared_keys import SharedKeyStore

    return SharedKeyStore(config.state_database, config.keys_file, clock)


def open_ring(config: Config) -> Ring:
    """The keys that work now, where the configuration keeps them."""
    if config.state.backend == "embedded":
        return KeyRing(config.keys_file)
    from eagleray.cluster.shared_keys import SharedKeyRing

    return SharedKeyRing(config.state_database)
