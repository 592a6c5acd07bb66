"""State of one machine: a directory for each place, its word in `owner.json`. The default; `protocol` says the rules.

The word is replaced in one step, synced and checksummed: a torn or altered one counts as none, for all of it is a cache
of log and tables. A grant has a random name beside its epoch, so that an owner from before such a loss is refused too.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import xxhash

from eagleray.cluster.durable import sync_directory, write_once, write_whole
from eagleray.cluster.file_lock import FileLock
from eagleray.cluster.state.protocol import Fenced, StateUnavailable

OWNER = "owner.json"
LOCK_TIMEOUT_S = 5.0
_LOCK = ".lock"


@dataclass(frozen=True)
class _Grant:
    """What `owner.json` holds."""

    epoch: int = 0
    grant: str = ""
    word: str | None = None


class FilesState:
    """Places below `root`; facts are files in `facts`, which outlive the places: those may be deleted."""

    def __init__(self, root: Path, facts: Path) -> None:
        """Nothing is made yet."""
        self._root = root
        self._facts = facts

    def place(self, name: str) -> FilesPlace:
        """As State.place."""
        return FilesPlace(self._root / name, name)

    def fact(self, key: str) -> str | None:
        """As State.fact."""
        try:
            return (self._facts / key).read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return None

    def settle(self, key: str, offer: Callable[[], str]) -> str:
        """As State.settle."""
        if (found := self.fact(key)) is not None:
            return found
        self._facts.mkdir(parents=True, exist_ok=True)
        write_once(self._facts / key, f"{offer()}\n")  # where another process was first, its word is the one
        found = self.fact(key)
        assert found is not None
        return found

    def forget(self, prefix: str) -> None:
        """As State.forget."""
        shutil.rmtree(self._root / prefix, ignore_errors=True)

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class FilesPlace:
    """The place `name` in `directory`."""

    directory: Path
    name: str

    def claim(self) -> FilesClaim:
        """As Place.claim."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with _locked(self.directory):
            found = _read(self.directory)
            mine = _Grant(found.epoch + 1, secrets.token_hex(8), found.word)
            _write(self.directory, mine)
        return FilesClaim(self.name, self.directory, mine)


class FilesClaim:
    """As Claim: files are in the place itself, so storing and fetching move nothing."""

    def __init__(self, name: str, directory: Path, grant: _Grant) -> None:
        """Use `FilesPlace.claim`."""
        self.directory = directory
        self._name = name
        self._grant = grant

    @property
    def epoch(self) -> int:
        """As Claim.epoch."""
        return self._grant.epoch

    @property
    def word(self) -> str | None:
        """As Claim.word."""
        return self._grant.word

    def check(self) -> None:
        """As Claim.check."""
        self._owned(_read(self.directory))

    def publish(self, word: str) -> None:
        """As Claim.publish."""
        sync_directory(self.directory)  # the names of the files that the word tells of
        mine = replace(self._grant, word=word)
        with _locked(self.directory):
            self._owned(_read(self.directory))
            _write(self.directory, mine)
        self._grant = mine

    def _owned(self, found: _Grant) -> None:
        if found.epoch and found.grant != self._grant.grant:
            raise Fenced(self._name, self._grant.epoch)

    def store(self, name: str, size: int) -> None:
        """As Claim.store: the owner has synced it."""

    def fetch(self, name: str, size: int | None = None) -> Path:
        """As Claim.fetch."""
        path = self.directory / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there")
        return path

    def remove(self, name: str) -> None:
        """As Claim.remove."""
        (self.directory / name).unlink(missing_ok=True)

    def sweep(self, keep: Collection[str]) -> None:
        """As Claim.sweep."""
        left = files_but(self.directory, {OWNER, _LOCK, *keep})
        self.check()  # after listing: what a later owner writes is not among them
        for path in left:
            with suppress(OSError):
                path.unlink()


def files_but(directory: Path, keep: Collection[str]) -> list[Path]:
    """The files of `directory` but these; directories are none."""
    return [path for path in directory.iterdir() if path.name not in keep and not path.is_dir()]


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = FileLock(directory / _LOCK)
    try:
        if not lock.acquire(LOCK_TIMEOUT_S):
            raise StateUnavailable(f"{directory}: locked by another process for {LOCK_TIMEOUT_S:g} s")
        try:
            yield
        finally:
            lock.release()
    finally:
        lock.close()


def _read(directory: Path) -> _Grant:
    """What the place says; an empty grant where it says nothing that is whole."""
    try:
        text, _, checksum = (directory / OWNER).read_text().rpartition("\n")
        return _Grant(**json.loads(text)) if checksum == _checksum(text) else _Grant()
    except (FileNotFoundError, IsADirectoryError, ValueError, TypeError):
        return _Grant()


def _write(directory: Path, grant: _Grant) -> None:
    text = json.dumps(asdict(grant))
    if (directory / OWNER).is_dir():  # somebody's, and in the way
        (directory / OWNER).rename(directory / f"{OWNER}.{secrets.token_hex(4)}")
    write_whole(directory / OWNER, f"{text}\n{_checksum(text)}")


def _checksum(text: str) -> str:
    digest: str = xxhash.xxh3_64_hexdigest(text.encode())
    return digest
