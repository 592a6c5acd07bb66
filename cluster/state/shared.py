"""State that every node reaches: words and facts in the catalog's Postgres, files in the warehouse. See `protocol`.

A grant is one statement of the database, a word one more that names the grant; files go to
`WAREHOUSE/_state/PLACE/NAME/FIRST-END` under If-None-Match, in parts, because an object cannot grow: a growing file
gets a part for what was added, and neighbours are joined when they are no larger than that, so that a file of n bytes
is a handful of parts and each byte is sent a few times at most. `directory` keeps what this machine wrote or fetched.

Time spent is bounded: every statement and request has a time-out, and after one that failed all are refused for
AWAY_S, so that a store that swallows requests cannot hold up who reads the log for long.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from eagleray.cluster.database import open_postgres
from eagleray.cluster.lake.s3_store import S3Store
from eagleray.cluster.state.files import files_but
from eagleray.cluster.state.protocol import Fenced, StateUnavailable

FOLDER = "_state"  # in the warehouse
PART_BYTES_MAX = 32 << 20
AWAY_S = 5.0
_CREATE = 7205759403793  # of the advisory lock under which the tables are made

_TABLES = (
    "CREATE TABLE IF NOT EXISTS eagleray_state (place VARCHAR(400) PRIMARY KEY, epoch BIGINT NOT NULL,"
    " holder VARCHAR(40) NOT NULL, word TEXT)",
    "CREATE TABLE IF NOT EXISTS eagleray_facts (key VARCHAR(400) PRIMARY KEY, value TEXT NOT NULL)",
)
_CLAIM = sa.text(
    "INSERT INTO eagleray_state (place, epoch, holder) VALUES (:place, 1, :holder) ON CONFLICT (place)"
    " DO UPDATE SET epoch = eagleray_state.epoch + 1, holder = :holder RETURNING epoch, word"
)
_CHECK = sa.text("SELECT 1 FROM eagleray_state WHERE place = :place AND epoch = :epoch AND holder = :holder")
_PUBLISH = sa.text(
    "UPDATE eagleray_state SET word = :word WHERE place = :place AND epoch = :epoch AND holder = :holder RETURNING 1"
)
_FACT = sa.text("SELECT value FROM eagleray_facts WHERE key = :key")
_SETTLE = sa.text("INSERT INTO eagleray_facts (key, value) VALUES (:key, :value) ON CONFLICT (key) DO NOTHING")
# A place keeps its row, and with it its epochs, when its content goes: an owner from before is refused for ever.
_FORGET = sa.text(
    "UPDATE eagleray_state SET word = NULL, epoch = epoch + 1, holder = '' WHERE place = :place OR place LIKE :below"
)


class SharedState:
    """Places and facts in the database at `url`; files below `root` (`s3://…`) in `store`."""

    def __init__(
        self, url: str, store: S3Store, root: str, directory: Path, beat: Callable[[], object] = lambda: None
    ) -> None:
        """Nothing is connected yet. `directory` is this machine's; `beat` is called before each request."""
        self.store = store
        self.root = f"{root.rstrip('/')}/{FOLDER}"
        self._engine = open_postgres(url)
        self._directory = directory
        self._beat = beat
        self._made = False
        self._away_until = 0.0

    def place(self, name: str) -> SharedPlace:
        """As State.place."""
        return SharedPlace(self, name, self._directory / name)

    def fact(self, key: str) -> str | None:
        """As State.fact."""
        found = self.run(_FACT, key=key)
        return None if found is None else str(found[0])

    def settle(self, key: str, offer: Callable[[], str]) -> str:
        """As State.settle."""
        if (found := self.fact(key)) is None:
            self.run(_SETTLE, key=key, value=offer())
            found = self.fact(key)
        assert found is not None
        return found

    def forget(self, prefix: str) -> None:
        """As State.forget."""
        below = prefix.replace("\\", r"\\").replace("_", r"\_").replace("%", r"\%") + "/%"
        self.run(_FORGET, place=prefix, below=below)
        for location in self.names(f"{prefix}/"):
            self.delete(location)

    def close(self) -> None:
        """As State.close."""
        self._engine.dispose()

    # ── bounded requests ───────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _bounded(self, what: str) -> Iterator[None]:
        self._beat()
        if time.monotonic() < self._away_until:
            raise StateUnavailable(f"{what} failed a moment ago; it is tried again every {AWAY_S:g} s")
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except (sa.exc.SQLAlchemyError, OSError) as error:
            self._away_until = time.monotonic() + AWAY_S
            cause = getattr(error, "orig", None) or error
            raise StateUnavailable(f"{what}: {' '.join(str(cause).split())}") from error
        finally:
            self._beat()

    def run(self, statement: sa.TextClause, **values: Any) -> Any:
        """Carry out a statement by itself; the first row, None where there is none."""
        with self._bounded("the state's database"), self._engine.begin() as connection:
            if not self._made:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CREATE})")
                for table in _TABLES:
                    connection.exec_driver_sql(table)
            done = connection.execute(statement, values)
            found = done.first() if done.returns_rows else None
        self._made = True
        return found

    def names(self, place: str) -> list[str]:
        """Locations of the objects whose name begins so."""
        bucket = self.root.partition("://")[2].partition("/")[0]
        with self._bounded("the state's store"):
            return [f"s3://{bucket}/{one.key}" for one in self.store.listed(f"{self.root}/{place}")]

    def put(self, location: str, data: bytes) -> None:
        """A new object, or the same one again."""
        with self._bounded("the state's store"):
            self.store.put(location, data, overwrite=False)

    def get(self, location: str) -> bytes:
        """An object; raises FileNotFoundError."""
        with self._bounded("the state's store"):
            return self.store.get(location)

    def delete(self, location: str) -> None:
        """Delete an object; one that is not there is no error."""
        with self._bounded("the state's store"):
            self.store.delete(location)


class SharedPlace:
    """As Place."""

    def __init__(self, state: SharedState, name: str, directory: Path) -> None:
        """Use `SharedState.place`."""
        self.name = name
        self.directory = directory
        self._state = state

    def claim(self) -> SharedClaim:
        """As Place.claim. An answer that is lost leaves an epoch that nobody has; the next claim is above it."""
        holder = secrets.token_hex(16)
        epoch, word = self._state.run(_CLAIM, place=self.name, holder=holder)
        self.directory.mkdir(parents=True, exist_ok=True)
        return SharedClaim(self._state, self.name, self.directory, epoch, holder, word)


class SharedClaim:
    """As Claim."""

    def __init__(
        self, state: SharedState, name: str, directory: Path, epoch: int, holder: str, word: str | None
    ) -> None:
        """Use `SharedPlace.claim`."""
        self.directory = directory
        self.epoch = epoch
        self.word = word
        self._state = state
        self._name = name
        self._me = {"place": name, "epoch": epoch, "holder": holder}
        # Invariant: parts of a file in its order, without gaps from 0; what this owner stored, or found when fetching.
        self._parts: dict[str, list[tuple[int, int]]] = {}

    def check(self) -> None:
        """As Claim.check."""
        if self._state.run(_CHECK, **self._me) is None:
            raise Fenced(self._name, self.epoch)

    def publish(self, word: str) -> None:
        """As Claim.publish."""
        if self._state.run(_PUBLISH, **self._me, word=word) is None:
            raise Fenced(self._name, self.epoch)
        self.word = word

    def store(self, name: str, size: int) -> None:
        """As Claim.store. Parts that were joined stay until the file goes: a word of before may need them."""
        parts = self._parts.setdefault(name, [])
        at = parts[-1][1] if parts else 0
        while at < size:
            end = min(size, at + PART_BYTES_MAX)
            kept, start = len(parts), at
            while kept and parts[kept - 1][1] - parts[kept - 1][0] <= end - start <= PART_BYTES_MAX // 2:
                start = parts[kept - 1][0]
                kept -= 1
            self._state.put(self._location(name, start, end), _read(self.directory / name, start, end))
            parts[kept:] = [(start, end)]
            at = end

    def fetch(self, name: str, size: int | None = None) -> Path:
        """As Claim.fetch."""
        path = self.directory / name
        if not path.exists() or (size is not None and path.stat().st_size < size):
            self._download(name, path)
        self._parts.setdefault(name, _joined(self._listed(name)))
        return path

    def _download(self, name: str, path: Path) -> None:
        parts = self._parts[name] = _joined(self._listed(name))
        if not parts:
            raise FileNotFoundError(f"{self._state.root}/{self._name}/{name} is not there")
        making = path.with_name(f"{name}.{secrets.token_hex(4)}.making")
        try:
            with making.open("wb") as file:
                for start, end in parts:
                    file.write(self._state.get(self._location(name, start, end)))
            making.rename(path)
        finally:
            making.unlink(missing_ok=True)

    def _location(self, name: str, start: int, end: int) -> str:
        return f"{self._state.root}/{self._name}/{name}/{start:015d}-{end:015d}"

    def _listed(self, name: str) -> list[tuple[int, int]]:
        found = [location.rpartition("/")[2] for location in self._state.names(f"{self._name}/{name}/")]
        return [(int(start), int(end)) for start, _, end in (part.partition("-") for part in found)]

    def remove(self, name: str) -> None:
        """As Claim.remove."""
        (self.directory / name).unlink(missing_ok=True)
        self._parts.pop(name, None)
        for location in self._state.names(f"{self._name}/{name}/"):
            self._state.delete(location)

    def sweep(self, keep: Collection[str]) -> None:
        """As Claim.sweep."""
        below, left = f"{self._state.root}/{self._name}/", []
        for location in self._state.names(f"{self._name}/"):
            name, _, part = location.removeprefix(below).partition("/")
            if "/" not in part and name not in keep:  # else it is of a place below this one
                left.append(location)
        files = files_but(self.directory, keep)
        self.check()  # after listing: what a later owner stores is not among them
        for location in left:
            self._state.delete(location)
        for path in files:
            with suppress(OSError):
                path.unlink()


def _joined(parts: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of parts that overlap, the longest ones that follow one another from 0."""
    longest: dict[int, int] = {}
    for start, end in parts:
        longest[start] = max(end, longest.get(start, 0))
    chosen, at = [], 0
    while at in longest:
        chosen.append((at, longest[at]))
        at = longest[at]
    return chosen


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(end - start)
    if len(data) != end - start:
        raise OSError(f"{path}: {len(data)} bytes of the {end - start} from {start}")
    return data
