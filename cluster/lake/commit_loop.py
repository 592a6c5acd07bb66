"""The one loop around every commit: look at the table, act, and where the outcome is unknown look again.

Used by `commit` (appends of the stream) and `replace` (everything that removes files). The catalog compares and swaps,
so a refusal means that somebody else came first; any other error says nothing about the outcome, and the next look
tells. pyiceberg's own retries are off.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import TableRequirement, TableUpdate

from eagleray.cluster.backoff import backoff_s
from eagleray.cluster.errors import CommitFailed, CommitUnknown

logger = logging.getLogger(__name__)

ATTEMPTS_MAX = 6
BACKOFF_S = 0.05  # doubled with every attempt: about 3 s in all, then the caller's next round takes over
OVERTAKEN_MAX = 60
"""Attempts of what replaces files, for it has no next round that is cheap: a compaction has written gigabytes by then.

Beside a stream that commits as often as an attempt takes, one in several gets through, and a pause is PAUSE_MAX_S at
most: a minute's patience, and each refusal shows that somebody else went on.
"""
PAUSE_MAX_S = 1.0
T = TypeVar("T")


class OneShot(Transaction):
    """A transaction of updates that do not build on one another, and that leaves clean-up and retries to its caller.

    pyiceberg copies all snapshots at each look at the staged metadata: 16 times a commit, 100 ms for 100 snapshots.
    """

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's metadata as it was read."""
        return self._table.metadata

    def _register_snapshot_producer(self, producer: Any) -> None:
        """Not registered: a refusal may be the echo of a commit that landed, so its manifests must stay."""

    def add(self, updates: tuple[TableUpdate, ...], requirements: tuple[TableRequirement, ...]) -> None:
        """Stage `updates` under all of `requirements`: pyiceberg's own way keeps one requirement of each type."""
        self._updates += updates
        self._requirements += requirements


def settle(
    load: Callable[[], Table],
    look: Callable[[Table], T | None],
    act: Callable[[Table], T],
    overtaken_max: int = ATTEMPTS_MAX,
) -> T:
    """What `look` finds done, or what `act` returns; `load` reads the table fresh from the catalog for each attempt.

    CommitFailed that either raises comes through: acting again would be wrong. Raises CommitFailed where others kept
    overtaking, `overtaken_max` times, CommitUnknown where the outcome could not be read back.
    """
    cause: Exception | None = None
    attempt = unanswered = 0
    while attempt < overtaken_max and unanswered < ATTEMPTS_MAX:
        _pause(attempt)
        attempt += 1
        # 1. look where the table stands
        try:
            table = load()
        except Exception as error:
            cause = error
            unanswered += 1
            continue
        done = look(table)
        if done is not None:
            return done
        # 2. act
        try:
            return act(table)
        except CommitFailed:
            raise
        except Exception as error:  # refused, or unknown: 1. tells
            cause = error
            unanswered += not isinstance(error, CommitFailedException)
            logger.warning("commit to %s: %s: %s", ".".join(table.name()), type(error).__name__, error)
    if isinstance(cause, CommitFailedException):
        raise CommitFailed(f"overtaken {attempt} times: {cause}")
    raise CommitUnknown(f"not confirmed after {attempt} attempts: {type(cause).__name__}: {cause}") from cause


def _pause(attempt: int) -> None:
    if attempt:
        time.sleep(backoff_s(BACKOFF_S, attempt, most_s=PAUSE_MAX_S))
