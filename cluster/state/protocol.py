"""State beside log and tables: saved ids, window snapshots, and small facts such as the seed of hashes.

One protocol, one contract suite (tests/contract/test_state.py), two versions: files of one machine (`files`), and the
catalog's Postgres with the warehouse (`shared`), which every node reaches. docs/adr/0029 says why.

A *place* is what one owner at a time writes: a word (what is valid now) and the files that the word names.

1. Who claims a place is granted an epoch above all that were granted before, in one step that nobody can come between.
2. A word is published only under the newest epoch: an older one is refused with `Fenced`, whoever holds it and however
   long it slept. So nothing that a former owner does can be seen.
3. A file is stored before the word names it, under a name that nobody else uses, and never changes once it is named
   (a file that grows is named with its size).
4. Nothing here rests on a clock or a process id. The files' version takes a file lock for the step of rules 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from eagleray.cluster.errors import EaglerayError


class Fenced(EaglerayError):
    """Another owner was granted a newer epoch of the place. Nothing was written; stop, and let the new owner work."""

    def __init__(self, place: str, epoch: int) -> None:
        """`place` and the epoch that is no longer the newest."""
        super().__init__(place, epoch)
        self.place, self.epoch = place, epoch

    def __str__(self) -> str:
        """For logs."""
        return f"{self.place} has another owner now; epoch {self.epoch} is over"


class StateUnavailable(OSError):
    """The state could not be read or written (disk full, database or store away). Nothing changed; try again later."""


class Claim(Protocol):
    """A place as its owner of one epoch uses it. For one thread at a time. Every method may raise OSError."""

    @property
    def epoch(self) -> int:
        """Greater than that of every claim before."""
        ...

    @property
    def word(self) -> str | None:
        """What was published last, by this owner or those before; None where nothing was."""
        ...

    @property
    def directory(self) -> Path:
        """Where the owner writes and reads files on this machine."""
        ...

    def check(self) -> None:
        """Raise Fenced where a newer epoch was granted."""
        ...

    def publish(self, word: str) -> None:
        """Make `word` what is valid, durably; raises Fenced and changes nothing where a newer epoch was granted."""
        ...

    def store(self, name: str, size: int) -> None:
        """The first `size` bytes of the file `name` in `directory` can be fetched by every owner to come."""
        ...

    def fetch(self, name: str, size: int | None = None) -> Path:
        """The file `name`, in `directory`, with at least `size` bytes; raises FileNotFoundError where it was lost."""
        ...

    def remove(self, name: str) -> None:
        """The file is named by no word any more."""
        ...

    def sweep(self, keep: Collection[str]) -> None:
        """Remove every file but these, which the word names: the rest killed and former owners left. Raises Fenced."""
        ...


class Place(Protocol):
    """What one owner at a time writes."""

    @property
    def name(self) -> str:
        """Such as `clicks/window/p0`."""
        ...

    def claim(self) -> Claim:
        """Become the owner: a new epoch is granted. Raises OSError."""
        ...


class State(Protocol):
    """All places of a project, and its facts. Threads may share one."""

    def place(self, name: str) -> Place:
        """The place of this name: parts of letters, digits, `_`, `-` and `.`, joined by `/`."""
        ...

    def fact(self, key: str) -> str | None:
        """What was settled under `key`; None where nothing was. Raises OSError."""
        ...

    def settle(self, key: str, offer: Callable[[], str]) -> str:
        """What is settled under `key` for good: `offer()` where nothing was. Of many at once one wins; raises OSError.

        Durable on return, and the same for all who ask.
        """
        ...

    def forget(self, prefix: str) -> None:
        """Remove the place `prefix` and all places below it. Raises OSError."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
