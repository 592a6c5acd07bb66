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

from cluster.lake.commit import OneShot

logger = logging.getLogger(__name__)


def expire(table: Table, kept: int) -> int:
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
    remaining = [snapshot for snapshot in snapshots if snapshot.snapshot_id not in gone]
    for path in _manifests(table.io, old) - _manifests(table.io, remaining):
        _delete(table.io, path)
    for snapshot in old:
        _delete(table.io, snapshot.manifest_list)
    return len(old)


def _manifests(io: FileIO, snapshots: Iterable[Snapshot]) -> set[str]:
    return {manifest.manifest_path for snapshot in snapshots for manifest in snapshot.manifests(io)}


def _delete(io: FileIO, path: str) -> None:
    try:
        io.delete(path)
    except OSError as error:
        logger.warning("%s stays behind: %s", path, error)
