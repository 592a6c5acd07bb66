"""Commits data files and progress in one snapshot, exactly once. The only place that appends to a table.

The progress is the marker: a batch covers [begins, ends), and it is accepted only where the table stands at `begins`.
The catalog compares and swaps, so of two committers that both saw `begins` one is refused, looks again and finds itself
overtaken. An error other than a refusal says nothing about the outcome: the table is read back, and tells.

Nothing is deleted here, neither data files nor the manifests of a failed attempt: what was left over is an orphan for a
clean-up.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata

from cluster.errors import CommitFailed, CommitUnknown
from cluster.lake.manifests import TieredAppend
from cluster.lake.progress import PROPERTY, check_step, decode, encode, standing

logger = logging.getLogger(__name__)

ATTEMPTS_MAX = 6
BACKOFF_S = 0.05  # doubled with every attempt: about 3 s in all, then the committer's next round takes over


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


def commit(
    load: Callable[[], Table], files: Sequence[DataFile], begins: Mapping[str, int], ends: Mapping[str, int]
) -> bool:
    """Append `files` and move progress from `begins` to `ends`, once; True: in the table, now or since before.

    `load` returns the table fresh from the catalog. No files: a snapshot that adds nothing carries the progress, for
    records that held no rows; rarely, or snapshots pile up. Raises CommitFailed where the table stands elsewhere or
    others kept overtaking; CommitUnknown where the outcome could not be read back; ValueError for no step forward.
    """
    check_step(begins, ends)
    cause: Exception | None = None
    for attempt in range(ATTEMPTS_MAX):
        _pause(attempt)
        # 1. look where the table stands
        try:
            table = load()
        except Exception as error:
            cause = error
            continue
        if _landed(table, begins, ends):
            return True
        _check_spec(table, files)
        # 2. append data and progress in one snapshot
        try:
            _append(table, files, ends)
            return True
        except Exception as error:  # refused, or unknown: 1. tells
            cause = error
            logger.warning("commit to %s: %s: %s", ".".join(table.name()), type(error).__name__, error)
    if isinstance(cause, CommitFailedException):
        raise CommitFailed(f"overtaken {ATTEMPTS_MAX} times: {cause}")
    raise CommitUnknown(f"not confirmed after {ATTEMPTS_MAX} attempts: {type(cause).__name__}: {cause}") from cause


def _landed(table: Table, begins: Mapping[str, int], ends: Mapping[str, int]) -> bool:
    """Whether the table stands at `ends`; raises CommitFailed unless it then stands at `begins`."""
    at = standing(decode(table.properties), begins)
    if at == dict(ends):
        return True
    if at != dict(begins):
        raise CommitFailed(f"{'.'.join(table.name())} is at {at}, the batch begins at {dict(begins)}")
    return False


def _check_spec(table: Table, files: Sequence[DataFile]) -> None:
    if stale := {file.spec_id for file in files} - {table.spec().spec_id}:
        raise CommitFailed(f"files are partitioned by spec {stale}, the table by {table.spec().spec_id}")


def _append(table: Table, files: Sequence[DataFile], ends: Mapping[str, int]) -> None:
    progress = {PROPERTY: encode({**decode(table.properties), **ends})}
    transaction = OneShot(table)
    with TieredAppend(transaction, progress) as snapshot:
        for file in files:
            snapshot.append_data_file(file)
    transaction.set_properties(progress)
    transaction.commit_transaction()


def _pause(attempt: int) -> None:
    if attempt:
        time.sleep(BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
