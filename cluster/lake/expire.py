"""Forgets old snapshots and deletes the metadata files that only they used. Called by the committer every few commits.

Tables are append-only, so every data file stays referenced and none is deleted. If the process dies between the commit
and the deletions, a few metadata files stay behind for a clean-up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io import FileIO
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update.snapshot import ExpireSnapshots

from cluster.lake.attempts import OneShot

logger = logging.getLogger(__name__)


class Expiry:
    """Remembers which manifests each snapshot uses, as snapshots never change: reading them anew costs 1 ms each."""

    def __init__(self) -> None:
        """One for all tables of a process."""
        self._manifests: dict[str, frozenset[str]] = {}  # by manifest list

    def expire(self, table: Table, kept: int) -> int:
        """Expire all but the `kept` newest snapshots (branch and tag heads always stay); returns how many went.

        0 where another commit came first: the next call will do. Other errors come through: the outcome is unknown, and
        nothing was deleted.
        """
        heads = {ref.snapshot_id for ref in table.metadata.refs.values()}
        snapshots = sorted(table.metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)
        old = [snapshot for snapshot in snapshots[:-kept] if snapshot.snapshot_id not in heads]
        if not old:
            return 0
        gone = {snapshot.snapshot_id for snapshot in old}
        # 1. from the table
        try:
            transaction = OneShot(table)
            ExpireSnapshots(transaction).by_ids(list(gone)).commit()
            transaction.commit_transaction()
        except CommitFailedException:
            return 0
        # 2. from the disk
        used = self._used(table.io, [snapshot for snapshot in snapshots if snapshot.snapshot_id not in gone])
        for path in self._used(table.io, old) - used:
            _delete(table.io, path)
        for snapshot in old:
            _delete(table.io, snapshot.manifest_list)
            self._manifests.pop(snapshot.manifest_list, None)
        return len(old)

    def _used(self, io: FileIO, snapshots: Iterable[Snapshot]) -> set[str]:
        used: set[str] = set()
        for snapshot in snapshots:
            paths = self._manifests.get(snapshot.manifest_list)
            if paths is None:
                paths = frozenset(manifest.manifest_path for manifest in snapshot.manifests(io))
                self._manifests[snapshot.manifest_list] = paths
            used |= paths
        return used


def _delete(io: FileIO, path: str) -> None:
    try:
        io.delete(path)
    except OSError as error:
        logger.warning("%s stays behind: %s", path, error)
