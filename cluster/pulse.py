"""What a process is at work on, and since when: how others tell a worker that works from one that hangs.

Loops `beat` after each bounded piece of work, whether or not there was anything to do; calls are `work` from begin to
end. Each may take a stated time; what takes longer is overdue. What fails for want of memory again and again is overdue
since its first failure: the system has none for this process, and may have some for its successor. The host of a worker
reads it for the heartbeat (`actors.host`), the controller replaces a worker that has been overdue for
`pools.stalled_after_s`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import NamedTuple


class Overdue(NamedTuple):
    """The piece of work that should have ended longest ago, and seconds since then."""

    what: str
    seconds: float


class Pulse:
    """The pieces of work of one process. Threads may share it; every change is one step on a dictionary."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Nothing is being worked on. `now` counts seconds and never steps back."""
        self._now = now
        self._due: dict[object, tuple[str, float]] = {}  # piece → its name, when it should end
        self._starved: dict[str, float] = {}  # what fails for want of memory → when it did first
        self._numbers = count()

    def beat(self, loop: str, within_s: float = 0.0) -> None:
        """The loop goes on; its next beat comes within `within_s` seconds."""
        self._due[loop] = (loop, self._now() + within_s)

    def rest(self, loop: str) -> None:
        """The loop has ended, or has nothing to do until somebody asks."""
        self._due.pop(loop, None)

    def begin(self, what: str, within_s: float) -> int:
        """A piece of work that should end within `within_s` seconds; returns what `end` takes."""
        piece = next(self._numbers)
        self._due[piece] = (what, self._now() + within_s)
        return piece

    def end(self, piece: int) -> None:
        """The piece has ended."""
        del self._due[piece]

    @contextmanager
    def work(self, what: str, within_s: float) -> Iterator[None]:
        """The block should end within `within_s` seconds."""
        piece = self.begin(what, within_s)
        try:
            yield
        finally:
            self.end(piece)

    @contextmanager
    def in_memory(self, what: str) -> Iterator[None]:
        """Where the block raises MemoryError, `what` is overdue from now on, until a block of that name succeeds.

        Other errors say nothing of memory and change nothing.
        """
        try:
            yield
        except MemoryError:
            self._starved.setdefault(what, self._now())
            raise
        self._starved.pop(what, None)

    @property
    def busy(self) -> bool:
        """Whether any piece has begun and not ended, loops that beat among them."""
        return bool(self._due)

    def overdue(self) -> Overdue | None:
        """What should have ended longest ago; None where nothing is late."""
        pieces = list(self._due.values())
        pieces += [(f"{what}, which finds no memory,", since) for what, since in list(self._starved.items())]
        if not pieces:
            return None
        what, due = min(pieces, key=lambda piece: piece[1])
        late_s = self._now() - due
        return Overdue(what, late_s) if late_s > 0 else None


def most_overdue(*pulses: Pulse) -> Overdue | None:
    """The worst of several."""
    found = [late for pulse in pulses if (late := pulse.overdue())]
    return max(found, key=lambda late: late.seconds, default=None)
